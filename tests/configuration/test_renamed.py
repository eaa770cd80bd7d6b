"""An old name of a key gives one sentence with the new one: in arguments, and in a user's own configuration file."""

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from igpt.configuration.renamed import RENAMED_KEYS
from igpt.configuration.suggestions import dotted_keys

NEEDED = {"probe": ("run=nowhere",)}
CASES = [(command, old, new) for command, keys in RENAMED_KEYS.items() for old, new in keys.items()]


def message_of(command, *arguments):
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    return caught.value.code


@pytest.mark.parametrize(("name", "old", "new"), CASES)
def test_the_new_name_exists_and_the_old_one_does_not(command, name, old, new):
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose(name, overrides=list(NEEDED.get(name, ())), return_hydra_config=True)
    keys = set(dotted_keys(OmegaConf.to_container(config, resolve=False)))
    assert new in keys
    assert old not in keys
    message = message_of(command, name, *NEEDED.get(name, ()), f"{old}=1")
    assert message == f"Error: {old} is now called {new}."


@pytest.mark.parametrize(("content", "sentence"), [
    ("draw_every: 5", "draw_every is now called sample_every"),
    ("callbacks: {draw: {n_samples: 5}}", "callbacks.draw is now called callbacks.sample"),
])  # fmt: skip
def test_an_old_name_in_a_file_of_the_user(command, tmp_path, content, sentence):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    message = message_of(command, "train", "--config-dir=own", "experiment=mine")
    assert message == f"Error: {sentence}."
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
