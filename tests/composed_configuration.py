"""Compose the configuration of a command as Hydra does, for tests."""

from hydra import compose, initialize_config_module

import igpt.configuration.resolvers  # noqa: F401  # conf/ needs them


def composed(command, *overrides):
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose(command, overrides=list(overrides))
    if "run_dir" in config:
        config.run_dir = "outputs/run"  # of Hydra, which does not run here
    return config
