"""Configuration keys that have a new name, so that an old one gives a sentence instead of a guess."""

from __future__ import annotations

TRAIN = {
    "callbacks.draw": "callbacks.sample",
    "draw_every": "sample_every",
    "hydra.callbacks.sweep_report": "hydra.callbacks.sweep_table",
}
RENAMED_KEYS = {  # command -> {old: new}; the keys below an old one are renamed, too
    "train": TRAIN,
    "plan": {**TRAIN, "pictures": "samples", "utilisation": "utilization"},
    "probe": {
        "attentive_epochs": "probe.attentive",
        "probe.neighbours": "probe.neighbors",
        "probe.sgd_steps": "probe.epochs",
        "probe.standardise": "probe.standardize",
    },
}


def renamed(key: str, command: str) -> str | None:
    """A sentence that says what a command's `key` is called now; None if it was not renamed."""
    for old, new in RENAMED_KEYS.get(command, {}).items():
        if f"{key}.".startswith(f"{old}."):
            return f"{key} is now called {new}{key.removeprefix(old)}"
    return None
