"""The schema knows all that conf/ and experiments/ say, and agrees with the code that it describes."""

import inspect
import pkgutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

import igpt.configuration.resolvers  # noqa: F401  # conf/ needs them
from composed_configuration import composed
from igpt.configuration.schema import data_schemas, training_schemas
from igpt.configuration.schema.check import check
from igpt.configuration.schema.command_schemas import COMMANDS, ProbeSettings
from igpt.configuration.schema.components import Component, OpenComponent
from igpt.errors import IgptError
from igpt.tokenizers.color_palette import MAX_SIZE
from igpt.tokenizers.orders import ORDERS, RANDOM

ROOT = Path(__file__).parents[2]
NEEDED = {"run": "run=x", "data.source.path": "data.source.path=x"}


def choices(group, *folders):
    folder = ROOT / "conf" / group
    return [f"{group}={path.stem}" for path in sorted(folder.glob("*.yaml")) if not path.stem.startswith("_")]


def overrides_of(choice):
    """What else a choice needs."""
    if choice in ("data=arrays", "data=folder", "data=hub"):
        return [choice, "data.source.path=x"]
    if choice in ("data=mnist", "data=fashion_mnist"):
        return [choice, "tokenizer=gray"]
    more = {"objective=classify": "objective.task=ar", "data/augment=imagenet": "data.stored_resolution=64"}
    return [choice, more[choice]] if choice in more else [choice]


GROUPS = (
    "callbacks",
    "data",
    "data/augment",
    "debug",
    "logger",
    "model",
    "model/parts",
    "objective",
    "optim",
    "tokenizer",
    "trainer",
)


@pytest.mark.parametrize("choice", [choice for group in GROUPS for choice in choices(group)])
def test_every_choice_of_every_group_passes(choice):
    check(composed("train", *overrides_of(choice)), "train")


@pytest.mark.parametrize("command", ["train", "palette"])
@pytest.mark.parametrize("data", ["mnist", "fashion_mnist"])
def test_a_palette_of_gray_images_has_at_most_256_colors(data, command):
    check(composed(command, f"data={data}", "tokenizer.size=256"), command)
    check(composed(command, f"data={data}", "tokenizer.path=palette.npz"), command)
    with pytest.raises(IgptError) as caught:
        check(composed(command, f"data={data}"), command)
    assert str(caught.value) == (
        "tokenizer.size is 512; the images are gray and have at most 256 colors; "
        "choose tokenizer=gray or tokenizer=palette_16."
    )


@pytest.mark.parametrize("recipe", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_passes(recipe):
    command = recipe.read_text().splitlines()[1].removeprefix("# igpt-").split(":")[0]
    needed = {"probe": ["run=x"], "train": ["objective.task=ar"] if "finetune" in recipe.stem else []}[command]
    check(composed(command, f"experiment={recipe.stem}", *needed), command)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_passes_as_it_comes(command):
    check(
        composed(command, *(["run=x"] if command in ("evaluate", "export", "sample", "probe", "report") else [])),
        command,
    )


def components(*modules):
    found = [each for module in modules for each in vars(module).values() if inspect.isclass(each)]
    return sorted({c for c in found if issubclass(c, Component) and hasattr(c, "target")}, key=lambda c: c.target)


@pytest.mark.parametrize(
    "component", [*components(data_schemas, training_schemas), ProbeSettings], ids=lambda c: c.target
)
def test_keys_of_a_component_are_the_arguments_of_what_is_made(component):
    found = inspect.signature(pkgutil.resolve_name(component.target)).parameters.values()
    parameters = {p.name: p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    fields = component.model_fields
    if issubclass(component, OpenComponent):
        assert set(fields) <= set(parameters) or len(parameters) < len(found)
        return
    assert {*fields, *component.given} == set(parameters)
    required = {name for name, p in parameters.items() if p.default is p.empty} - set(component.given)
    assert {name for name, field in fields.items() if field.is_required()} >= required


def test_limits_are_those_of_the_code():
    size = data_schemas.PaletteRecipe.model_json_schema()["properties"]["size"]
    assert size["maximum"] == MAX_SIZE
    for order in [*ORDERS, RANDOM]:
        check(composed("train", f"order={order}"), "train")


OWN = {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2}


@pytest.mark.parametrize(("changes", "sentence"), [
    ({}, None),
    ({"divisor": 3}, "callbacks.own.divisor is 3; fractions.Fraction has no such argument."),
    ({"_target_": "fractions.Fractoin"}, "callbacks.own._target_ is fractions.Fractoin; it cannot be imported"),
    ({"_target_": "shutil.move", "numerator": 1}, "has no such argument"),
])  # fmt: skip
def test_a_component_of_the_users_own_is_checked_against_its_signature(changes, sentence):
    config = composed("train")
    config.callbacks = {"own": {**OWN, **changes}}
    if sentence is None:
        return check(config, "train")
    with pytest.raises(IgptError) as caught:
        check(config, "train")
    assert sentence in str(caught.value)


def test_a_missing_argument_of_the_users_own_component_is_named():
    config = composed("train")
    config.data.source = {"_target_": "shutil.move", "src": "a"}
    with pytest.raises(IgptError, match="shutil.move needs the argument dst"):
        check(config, "train")


def test_a_wrong_value_that_others_take_over_is_named_once():
    with pytest.raises(IgptError) as caught:
        check(composed("train", "objective=mlm", "seed=-1", "trainer.max_steps=0"), "train")
    assert str(caught.value).count("is -1") == 1
    assert "objective.seed" not in str(caught.value)
    assert "optim.total_steps" not in str(caught.value)


def test_which_value_of_the_monitored_metric_is_best_follows_from_the_metric():
    config = composed("train", "objective=classify", "objective.task=ar", "monitor=val/accuracy")
    assert (config.monitor_mode, config.callbacks.best.mode) == ("max", "max")
    assert composed("train", "monitor=val/bits_per_token").callbacks.best.mode == "min"
    assert composed("train", "monitor=mine/score", "monitor_mode=max").callbacks.best.mode == "max"


def test_of_a_metric_of_the_users_the_best_value_must_be_chosen(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "integration")
    own_task = ("objective._target_=smoothed_task.Smoothed", "monitor=val/mine")
    for key, *chosen in (["monitor_mode"], ["callbacks.best.mode", "monitor_mode=max", "callbacks.best.mode=null"]):
        with pytest.raises(IgptError, match=rf"^{key} is null; igpt does not know which value of val/mine is the best"):
            check(composed("train", *own_task, *chosen), "train")
    check(composed("train", *own_task, "monitor_mode=max"), "train")


@pytest.mark.parametrize(("monitor", "direction"), [("val/nats_per_token", "minimize"), ("val/accuracy", "maximize")])
def test_a_search_optimizes_in_the_direction_of_the_monitored_metric(monitor, direction):
    pytest.importorskip("optuna")
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose("train", ["hydra/sweeper=tpe", f"monitor={monitor}"], return_hydra_config=True)
    assert config.hydra.sweeper.direction == direction
