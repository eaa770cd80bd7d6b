"""igpt-plan: an estimate of what a training run costs on a given device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig

from igpt.configuration.app import run_app
from igpt.errors import IgptError
from igpt.files import expand_user

if TYPE_CHECKING:
    from igpt.model.config import TransformerConfig
    from igpt.planning.proposal import Proposal
    from igpt.planning.recipe import Recipe


def main() -> None:
    """The console script."""
    run_app(plan, "plan")


def plan(config: DictConfig) -> None:
    """Print the plan, one block per topic."""
    from igpt.planning import plan_text

    proposal = None if config.scaling_fit is None else proposed(config)
    recipe = read_recipe(config)
    watts = recipe.device.watts if config.watts is None else config.watts
    price_per_hour = recipe.device.price_per_hour if config.price_per_hour is None else config.price_per_hour
    blocks = {
        "Proposal": plan_text.proposal_rows(proposal) if proposal else [],
        "Recipe": plan_text.recipe_rows(recipe),
        "Model": plan_text.model_rows(recipe),
        "Memory of one device, GB": plan_text.memory_rows(recipe),
        "Largest micro-batch of one device": plan_text.fit_rows(recipe) if config.fit else [],
        "Time and price": plan_text.cost_rows(recipe, watts, price_per_hour),
        "Sampling": plan_text.sampling_rows(recipe, config.samples),
    }
    for title, rows in blocks.items():
        if rows:
            print(plan_text.text(title, rows))


def proposed(config: DictConfig) -> Proposal:
    """The size and the steps that the scaling law proposes for the budget; the configuration is set to them."""
    from igpt.planning.proposal import propose
    from igpt.planning.scaling_law import ScalingLaw

    path = expand_user(config.scaling_fit)
    try:
        law = ScalingLaw.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise IgptError(
            f"scaling_fit={path} cannot be read ({error}); experiments/scaling/fit.py writes it."
        ) from error
    proposal = propose(law, config.budget, model_of(config), config.data.batch_size)
    for name in ("n_layer", "n_head", "n_embd"):
        config.model[name] = getattr(proposal.model, name)
    config.trainer.max_steps = proposal.steps
    return proposal


def read_recipe(config: DictConfig) -> Recipe:
    """The recipe of this configuration: what igpt-train would train, on the device that it names."""
    from igpt.commands.init_from import starting_point
    from igpt.planning.devices import find_device
    from igpt.planning.recipe import Recipe

    device = find_device(config.device)
    starting_point(config, "plan")  # sets the values that the model determines
    precision = str(config.trainer.precision)
    return Recipe(
        model=model_of(config),
        resolution=config.data.source.resolution,
        batch_size=config.data.batch_size,
        device_batch_size=config.data.device_batch_size,
        steps=config.trainer.max_steps,
        optimizer=config.optim.name,
        precision_name=device.native_precision if precision == "auto" else precision,
        device=device,
        devices=config.devices or devices_of(config.trainer),
        utilization=device.utilization if config.utilization is None else config.utilization,
        averages=averages_weights(config),
        sharded=shares_one_model(config),
    )


def devices_of(trainer: DictConfig) -> int:
    """The number of devices that a trainer names; one if it takes all that a machine has."""
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    named = len(devices) if isinstance(devices, ListConfig) else devices
    return named * nodes if isinstance(named, int) and named > 0 else 1


def averages_weights(config: DictConfig) -> bool:
    """Whether one of the callbacks keeps an average of the weights, as with callbacks=ema."""
    from igpt.configuration.schema.training_schemas import WeightAverage

    callbacks = (config.get("callbacks") or {}).values()
    return any(callback is not None and callback["_target_"] == WeightAverage.target for callback in callbacks)


def shares_one_model(config: DictConfig) -> bool:
    """Whether each device keeps a part of the weights, as with trainer=fsdp."""
    from igpt.configuration.schema.training_schemas import ShardedStrategy

    strategy = config.trainer.strategy
    return isinstance(strategy, DictConfig) and strategy["_target_"] == ShardedStrategy.target


def model_of(config: DictConfig) -> TransformerConfig:
    """The model's configuration. It needs only the shapes of data and tokens, so no data are read."""
    from igpt.commands.build import configured_task, model_config_for

    n_tokens, vocab_size = tokens_and_vocabulary(config, config.data.source.resolution)
    return model_config_for(config, vocab_size, n_tokens, configured_task(config).causal)


def tokens_and_vocabulary(config: DictConfig, resolution: int) -> tuple[int, int]:
    """The number of tokens per image, and the size of their vocabulary."""
    from igpt.commands.tokenizer_of_run import configured_tokenizer
    from igpt.tokenizers import Palette
    from igpt.tokenizers.kmeans import PaletteRecipe

    tokenizer = configured_tokenizer(config)
    if not isinstance(tokenizer, PaletteRecipe):
        return tokenizer.n_tokens(resolution), tokenizer.vocab_size
    path = tokenizer.path and expand_user(tokenizer.path)
    return resolution**2, Palette.load(path).vocab_size if path else tokenizer.size


if __name__ == "__main__":
    main()
