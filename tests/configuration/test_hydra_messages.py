"""Hydra's messages about arguments become one sentence that says what to do; its hints work in a shell."""

import subprocess

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from igpt.configuration.hydra_messages import (
    explain,
    explain_syntax,
    is_configuration_error,
    replace_null_groups,
    shell_argument,
)

CASES = [
    ("train", "modl=nano", "There is no key modl; did you mean model?"),
    ("train", "model.n_layr=3", "There is no key model.n_layr; did you mean model.n_layer?"),
    ("train", "trainer.max_step=3", "There is no key trainer.max_step; did you mean trainer.max_steps?"),
    ("train", "lr=0.01", "There is no key lr; did you mean optim.lr?"),
    ("train", "batch_size=8", "There is no key batch_size; did you mean data.batch_size?"),
    ("train", "model.n_layer.x=3", "There is no key model.n_layer.x; did you mean model.n_layer?"),
    ("train", "data=folder data.source.pth=x", "There is no key data.source.pth; did you mean data.source.path?"),
    ("train", "data/augmnt=flip", "There is no key data/augmnt; did you mean data/augment?"),
    ("train", "hydra.run.dri=x", "There is no key hydra.run.dri; did you mean hydra.run.dir?"),
    ("train", "zebra=1", "There is no key zebra; igpt-train --cfg job lists all keys."),
    ("train", "~callbacks.smple", "There is no key callbacks.smple; did you mean callbacks.sample?"),
    ("train", "+model.n_layer=3", "model.n_layer exists already; remove the + before it."),
    ("train", "+experiment=emoji_ar", "experiment exists already; remove the + before it."),
    ("train", "model=huge", "There is no model=huge; choose one of l, m, nano, s, xl, xs."),
    ("train", "data/augment=flips", "did you mean data/augment=flip? The choices are cifar, flip, imagenet, none."),
    ("train", "optim=null", "optim=null: a group needs the name of a choice; --help lists them."),
    ("train", "hydra.job.num=abc", "hydra.job.num: Value 'abc' of type 'str' could not be converted to Integer."),
    ("sample", "image=[a.png]", "There is no key image; did you mean images?"),
    ("sample", "run=x images=a,b", "images=a,b gives several values: write images=[a,b] for a list, "),
    ("train", "optim.lr=choice(1,2)", "optim.lr=choice(1,2) is a sweep; write -m before it."),
]


@pytest.mark.parametrize(("command", "arguments", "sentence"), CASES, ids=[case[1] for case in CASES])
def test_hydras_message_becomes_one_sentence(command, arguments, sentence):
    overrides = arguments.split()
    with pytest.raises(Exception) as caught, initialize_config_module("igpt.conf", version_base="1.3"):  # noqa: PT011
        compose(command, overrides=overrides)
    assert is_configuration_error(caught.value)
    message = explain(caught.value, command, overrides)
    assert sentence in message
    assert "\n" not in message
    assert "append" not in message


@pytest.mark.parametrize(("argument", "sentence"), [
    ("emoji_ar", "emoji_ar is not KEY=VALUE;"),
    ("optim.lr = 0.1", "has spaces around the =; write optim.lr=0.1"),
    ("optim.betas=[0.9,0.95", "optim.betas=[0.9,0.95 has a [ without its ];"),
    ("name='a", "has an opening quote without a closing one"),
    ("data.source.path=my(1)", "must be quoted, once for the shell and once for Hydra: \"data.source.path='my(1)'\""),
])  # fmt: skip
def test_what_hydra_cannot_parse_is_explained(argument, sentence):
    assert sentence in explain_syntax(argument)


def read_in_a_shell(typed):
    """What Hydra gets of an argument that was typed in a shell."""
    argument = subprocess.run(["sh", "-c", f"printf %s {typed}"], capture_output=True, check=True, text=True).stdout
    (override,) = OverridesParser.create().parse_overrides([argument])
    return override.key_or_group, override.value()


@settings(max_examples=30, deadline=None)
@given(
    st.text("a=,()#%'\"\\$`!ü {}[]:~*&;|<>?", min_size=1).filter(lambda text: text == text.strip() and "${" not in text)
)
def test_the_hint_how_to_quote_is_right_in_a_shell(value):
    assert read_in_a_shell(shell_argument("data.source.path", value)) == ("data.source.path", value)


def test_null_turns_groups_off():
    assert replace_null_groups(["logger=null", "callbacks=null", "data/augment=null", "experiment=null", "seed=1"]) == [
        "logger=none", "callbacks=none", "data/augment=none", "seed=1",
    ]  # fmt: skip
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose("train", overrides=replace_null_groups(["logger=null", "callbacks=null"]))
    assert not config.logger
    assert not config.callbacks


def test_an_option_that_does_not_exist(command):
    with pytest.raises(SystemExit) as caught:
        command("train", "--seed", "1")
    assert caught.value.code.startswith("Error: There is no option --seed; values are KEY=VALUE")


def test_options_that_exclude_each_other(command):
    with pytest.raises(SystemExit) as caught:
        command("train", "-m", "--cfg", "job")
    assert caught.value.code.startswith("Error: Only one of --run, --multirun, --cfg")


def test_a_missing_value_is_named(command):
    with pytest.raises(SystemExit) as caught:
        command("evaluate")
    assert caught.value.code == "Error: run is required; give it as run=VALUE."
