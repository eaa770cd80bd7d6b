"""Run directories as far as igpt-report reads them, written by hand."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from igpt.run_directory import write_job
from igpt.run_lock import Owner

METRICS = """step,train/loss,train/nats_per_token,val/nats_per_token,probe/layer_0,probe/layer_1,train/images_per_second
0,4.5,4.5,,,,10
9,3.5,3.5,3.75,0.25,0.5,11
19,2.5,2.5,2.875,0.25,0.75,12
"""
PROBE = """features,layer,regularization,test_accuracy,test_accuracy_error
trained,0,0.1,0.25,0.01
trained,1,0.1,0.5,0.02
pixels,0,0.1,0.375,0.015
"""


def write_run(folder: Path, metrics: str = METRICS, lr: float = 0.1, steps: tuple[int, ...] = (10, 20), **job) -> Path:
    """A run that was interrupted, with samples at some steps; a job of a sweep if `job` has values."""
    (folder / ".hydra").mkdir(parents=True)
    config = {"name": "written", "monitor": "val/nats_per_token", "monitor_mode": "min", "trainer": {"max_steps": 30}}
    config["optim"] = {"lr": lr, "total_steps": "${trainer.max_steps}"}
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"optim.lr={lr}"]))
    (folder / "metrics.csv").write_text(metrics)
    for step in steps:
        save_picture(folder / "samples" / f"step_{step:07d}.png", step + round(1000 * lr))
    if job:
        write_job(folder, overrides=["seed=0", f"optim.lr={lr}"], **job)
    return folder


def finish(folder: Path, **summary: float) -> None:
    """What training and igpt-probe write at their ends."""
    values = {
        "test/nats_per_token": 2.75,
        "test/standard_error": 0.05,
        "parameters": 1_234_567,
        "steps": 20,
        "seconds": 90.0,
    }
    (folder / "summary.json").write_text(json.dumps({**values, **summary}))
    save_picture(folder / "figures" / "palette.png", 7)
    save_picture(folder / "figures" / "position_loss.png", 8)
    (folder / "probe").mkdir()
    (folder / "probe" / "accuracy.csv").write_text(PROBE)
    best = {"probe/trained/test_accuracy": 0.5, "probe/trained/layer": 1, "majority_share": 0.125}
    (folder / "probe" / "summary.json").write_text(json.dumps(best))


def save_picture(file: Path, seed: int, side: int = 24) -> None:
    """A PNG file of random pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def hold_lock(folder: Path) -> None:
    """The lock of a process that runs: this one."""
    (folder / "train.lock").write_text(json.dumps(owner()))


def owner() -> dict[str, object]:
    """How a lock describes this process."""
    return vars(Owner.here())
