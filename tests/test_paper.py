"""The recipes of the paper's results: each composes, has the paper's size, and takes two steps on tiny files."""

import importlib.util
import json
import shlex
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from composed_configuration import composed
from conftest import run_command
from igpt.commands.plan import model_of
from igpt.configuration.schema.check import check
from igpt.planning.compute import measure
from igpt.tokenizers import color_palette
from igpt.tokenizers.nearest import nearest_table
from official_files import random_images, write_cifar10, write_cifar100, write_stl10

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "experiments" / "paper").glob("*.yaml"))
PROBES = [name for name in RECIPES if name.startswith(("probe", "low"))]
FINE_TUNING = [name for name in RECIPES if name.startswith("finetune")]
PRE_TRAINING = sorted({*RECIPES} - {*PROBES} - {*FINE_TUNING})

SPEC = importlib.util.spec_from_file_location("build_paper", ROOT / "docs" / "build_paper.py")
build_paper = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build_paper)
ROWS = build_paper.read_table()


# The table


def test_the_page_is_that_of_the_table():
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert text == build_paper.page(), "run python docs/build_paper.py"


def test_every_command_of_the_table_passes_the_schema():
    checked = set()
    for command in (command for row in ROWS.values() for command in row["commands"]):
        name = shlex.split(command)[0].removeprefix("igpt-")
        for words in build_paper.overrides_of(command):
            overrides = [word for word in words if not word.startswith(("hydra.", "run="))]
            overrides += [] if name == "train" else ["run=x"]
            if (name, *overrides) not in checked:
                check(composed(name, *overrides), name)
            checked.add((name, *overrides))


def test_every_recipe_has_a_row_and_names_its_runs_after_itself():
    commands = " ".join(command for row in ROWS.values() for command in row["commands"])
    for name in RECIPES:
        assert f"experiment=paper/{name} " in commands
        recipe = (ROOT / "experiments" / "paper" / f"{name}.yaml").read_text(encoding="utf-8")
        assert yaml.safe_load(recipe)["name"] == f"paper_{name}"


def test_every_row_begins_with_the_runs_that_it_uses():
    for name, row in ROWS.items():
        chain = build_paper.chain(ROWS, name)
        for command in row["commands"]:
            for word in shlex.split(command):
                if word.startswith(("run=", "init_from=")):
                    assert any(f"hydra.run.dir={word.partition('=')[2]}" in earlier for earlier in chain)


# Their sizes

MILLIONS = {"s": 76.57, "m": 455.16, "l": 1362.25, "xl": 6801}


@pytest.mark.parametrize("name", PRE_TRAINING)
def test_the_model_has_the_papers_parameters(name):
    config = model_of(composed("train", f"experiment=paper/{name}"))
    found = measure(config).parameters
    if name == "cifar10_rgb":
        block = 12 * config.n_embd**2 + 2 * config.n_embd
        assert found == 12 * block + (2 * 256 + 3072 + 2) * config.n_embd
        return
    more = (config.n_positions - 1024) * config.n_embd if "48" in name else 0  # the published number is for 32x32
    assert (found - more) / 1e6 == pytest.approx(MILLIONS[name.rpartition("_")[2]], rel=2e-3)


# Two steps at reduced width

SMALL = (
    "logger=none", "data.source.resolution=8", "data.batch_size=4", "data.device_batch_size=null", "data.num_workers=0",
    "data.processes=1", "trainer=cpu", "trainer.devices=1", "trainer.precision=32-true", "trainer.max_steps=2",
    "trainer.val_check_interval=1", "hydra.run.dir=run",
)  # fmt: skip
NARROW = ("model.n_layer=2", "model.n_head=2", "model.n_embd=16")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A few random images in the formats and places of CIFAR, STL-10 and ImageNet."""
    root = tmp_path_factory.mktemp("data")
    for write in (write_cifar10, write_cifar100, write_stl10):
        write(root)
    for i, image in enumerate(random_images(40, 48)):
        folder = root / "imagenet" / ("val" if i < 10 else "train") / f"n{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :36]).save(folder / f"{i}.JPEG")
    return root


TABLES = {}


def remembered_table(colors):
    """The runs have few different palettes, whose tables would take a third of the time."""
    key = colors.tobytes()
    if key not in TABLES:
        TABLES[key] = nearest_table(colors)
    return TABLES[key]


@pytest.fixture(autouse=True)
def _tiny_files(files, monkeypatch):
    monkeypatch.setattr(color_palette, "nearest_table", remembered_table)
    monkeypatch.setenv("IGPT_DATA", str(files))
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).touch())


def take_two_steps(name, folder, *overrides):
    palette = [] if "rgb" in name else ["tokenizer.size=8"]
    stored = ["data.stored_resolution=16"] if "imagenet" in name else []
    arguments = [f"experiment=paper/{name}", *SMALL, *stored, *palette, *overrides]
    run_command("train", *arguments, cwd=folder)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["steps"] == 2
    return summary


@pytest.mark.parametrize("name", PRE_TRAINING)
def test_a_narrow_model_is_pre_trained_for_two_steps(name, tmp_path):
    take_two_steps(name, tmp_path, *NARROW)


@pytest.fixture(scope="module")
def start(files, tmp_path_factory):
    """A pre-trained model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGPT_DATA", str(files))
        patch.setenv("IGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        folder = tmp_path_factory.mktemp("start")
        take_two_steps("imagenet32_s", folder, *NARROW)
    return folder / "run"


@pytest.mark.parametrize("name", FINE_TUNING)
def test_a_narrow_model_is_fine_tuned_for_two_steps(name, start, tmp_path):
    summary = take_two_steps(name, tmp_path, f"init_from={start}")
    assert 0 <= summary["best/val/accuracy"] <= 1


@pytest.mark.parametrize("name", PROBES)
def test_a_narrow_model_is_probed(name, start, tmp_path):
    few = {"probe_imagenet": ["probe.epochs=1", "probe.batch_size=8"], "low_label_cifar10": ["labels_per_class=[2]"]}
    arguments = [f"experiment=paper/{name}", f"run={start}", "logger=none", "data.num_workers=0", "data.processes=1"]
    arguments += ["probe.neighbors=2", *few.get(name, [])]
    run_command("probe", *arguments, cwd=tmp_path)
    (summary,) = (start / "probe").rglob("summary.json")  # in a folder with the name of the data
    found = json.loads(summary.read_text())
    summary.unlink()
    assert any(key.startswith("probe/") for key in found)
