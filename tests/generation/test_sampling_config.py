"""Settings of sampling that are out of range, or not for the model."""

from dataclasses import FrozenInstanceError

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import igpt
from igpt.generation.sampling_config import SamplingConfig


@pytest.mark.parametrize(("setting", "sentence"), [
    ({"temperature": -1.0}, "sampling.temperature is -1.0; it must be at least 0."),
    ({"temperature": float("nan")}, "sampling.temperature is nan; it must be at least 0."),
    ({"top_k": 0}, "sampling.top_k is 0; it must be at least 1, or None for all tokens."),
    ({"top_p": 0.0}, "sampling.top_p is 0.0; it must be above 0 and at most 1."),
    ({"top_p": 1.5}, "sampling.top_p is 1.5; it must be above 0 and at most 1."),
    ({"passes": 0}, "sampling.passes is 0; it must be at least 1, or None for the default."),
    ({"choice_temperature": -1.0}, "sampling.choice_temperature is -1.0; it must be at least 0, or None"),
    ({"cache_dtype": "int8"}, "sampling.cache_dtype is int8; it must be float32 or bfloat16, or None"),
])  # fmt: skip
def test_values_out_of_range_are_refused(setting, sentence):
    with pytest.raises(igpt.IgptError) as caught:
        igpt.SamplingConfig(**setting)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(("causal", "setting"), [
    (True, {"passes": 4}), (True, {"choice_temperature": 0.0}), (False, {"cache_dtype": "float32"}),
    (False, {"compile": True}),
])  # fmt: skip
def test_settings_of_the_other_kind_of_model_are_refused(causal, setting):
    sampling, (name,) = SamplingConfig(**setting), setting
    sampling.check_applicable(not causal)
    kinds = ("masked models only, and this is an autoregressive", "autoregressive models only, and this is a masked")
    with pytest.raises(igpt.IgptError, match=f"sampling.{name} is .*; it applies to {kinds[not causal]} model"):
        sampling.check_applicable(causal)


def test_a_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        SamplingConfig().top_k = 3


@pytest.mark.parametrize("command", ["train", "sample"])
def test_the_commands_have_the_same_settings_and_defaults(command):
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose(command)
    assert SamplingConfig(**OmegaConf.to_container(config.sampling)) == SamplingConfig()
    assert set(config.sampling) == set(SamplingConfig.__dataclass_fields__)
