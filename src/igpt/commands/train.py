"""igpt-train: from a configuration to a trained model, its evaluation and its pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from igpt.commands.app import plain, run_app
from igpt.errors import IgptError
from igpt.run import RunDirectory, find_checkpoint, resume_arguments, resume_command

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from igpt.data.datamodule import ImageDataModule
    from igpt.model.config import TransformerConfig
    from igpt.objectives.base import PretrainingObjective


def main() -> None:
    """The console script."""
    try:
        sys.argv[1:] = resume_arguments(sys.argv[1:])
    except IgptError as error:
        sys.exit(f"Error: {error}")
    run_app(train, "train")


def train(config: DictConfig) -> None:
    """Build what is missing, train (or go on), evaluate the best checkpoint, draw."""
    import logging
    import warnings

    import pytorch_lightning as pl
    from hydra.core.hydra_config import HydraConfig

    from igpt.training.keep_last import Interrupted

    log = logging.getLogger(__name__)
    run = RunDirectory(Path(HydraConfig.get().runtime.output_dir))
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # about its own insides and the speed of loaders
    pl.seed_everything(config.seed, workers=True, verbose=False)

    log.info("Preparing the data and the tokenizer")
    data = build_data(config, run)
    objective = build_objective(config, data)
    trainer = build_trainer(config, run, data)
    log.info("%s parameters, %d tokens an image", f"{n_parameters(objective.model):,}", data.n_tokens)
    try:
        resume_from = str(run.last) if run.last.exists() else None
        log.info("%s in %s", "Going on" if resume_from else "Training", run.path)
        trainer.fit(objective, data, ckpt_path=resume_from, weights_only=True)
        if trainer.is_global_zero:
            report(config, run, data, trainer)
    except Interrupted:
        log.info("Stopped and saved at step %d; go on with: %s", trainer.global_step, resume_command(run))
        sys.exit(130)
    finally:
        finish_tracking()


def build_data(config: DictConfig, run: RunDirectory) -> ImageDataModule:
    """The data, packed, and its tokenizer: the run's own if it has one already."""
    from hydra.utils import instantiate

    from igpt.tokenizers import Palette

    data: ImageDataModule = instantiate(config.data, tokenizer=config.tokenizer, seed=config.seed, _convert_="all")
    if run.palette.exists() and config.tokenizer.path is None:
        data.use_tokenizer(Palette.load(run.palette))
    data.prepare_data()
    data.setup()
    if isinstance(data.tokenizer, Palette) and not run.palette.exists():
        data.tokenizer.save(run.palette)
    return data


def build_objective(config: DictConfig, data: ImageDataModule) -> PretrainingObjective:
    """The objective with a fresh model that fits the tokenizer; both described in the checkpoint's hyperparameters."""
    from dataclasses import asdict

    from hydra.utils import get_class, instantiate

    from igpt.model.transformer import Transformer

    objective_class = get_class(config.objective._target_)
    model_config = model_config_for(plain(config.model), data, causal=objective_class.causal)  # type: ignore[attr-defined]
    objective: PretrainingObjective = instantiate(
        config.objective,
        model=Transformer(model_config),
        configure=instantiate(config.optim, _convert_="all").configure,
        _convert_="all",
    )
    objective.save_hyperparameters({**plain(config), "model": asdict(model_config)})
    return objective


def model_config_for(values: dict[str, Any], data: ImageDataModule, causal: bool) -> TransformerConfig:
    """The model's configuration; what is left open (null) follows from the data."""
    from igpt.model.config import TransformerConfig

    n_positions = values["n_positions"] or data.n_tokens
    if n_positions != data.n_tokens:
        side = data.source.resolution
        raise IgptError(
            f"model.n_positions is {n_positions}, but images of {side}x{side} have {data.n_tokens} tokens; leave "
            "model.n_positions=null, or change data.source.resolution."
        )
    return TransformerConfig(
        **{**values, "n_positions": n_positions}, vocab_size=data.tokenizer.vocab_size, causal=causal
    )


def build_trainer(config: DictConfig, run: RunDirectory, data: ImageDataModule) -> pl.Trainer:
    """Lightning's trainer with the callbacks every run has and those of the configuration."""
    from hydra.utils import instantiate
    from pytorch_lightning.callbacks import Timer

    from igpt.training.checkpoint_io import AtomicCheckpointIO
    from igpt.training.keep_last import KeepLast
    from igpt.training.nan_guard import StopOnNaN
    from igpt.training.progress import TrainingProgress
    from igpt.training.tracking import MetricsCSV

    # The guard comes first, so that what it refuses is not saved.
    always = [StopOnNaN(run.last), KeepLast(run.last, config.save_every), TrainingProgress(data.batch_size), Timer()]
    chosen = [instantiate(c, _convert_="all") for c in config.callbacks.values()]
    loggers = [instantiate(c, _convert_="all") for c in config.logger.values()]
    steps = min(config.trainer.val_check_interval, config.trainer.max_steps)
    trainer: pl.Trainer = instantiate(
        config.trainer,
        callbacks=[*always, *chosen],
        logger=[MetricsCSV(run.metrics, first_step(run)), *loggers],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(run.path),
        val_check_interval=steps * config.trainer.accumulate_grad_batches,  # Lightning counts batches, we steps
        _convert_="all",
    )
    return trainer


def report(config: DictConfig, run: RunDirectory, data: ImageDataModule, trainer: pl.Trainer) -> None:
    """Evaluate the best checkpoint on the test split, draw, write summary.json, say where it all is."""
    import logging

    from pytorch_lightning.callbacks import Timer

    from igpt.evaluation.likelihood import split_likelihood
    from igpt.pretrained import load
    from igpt.training.report import draw_figures, likelihood_values, write_summary

    log = logging.getLogger(__name__)
    checkpoint = find_checkpoint(run.path)
    pretrained = load(checkpoint)
    test = split_likelihood(pretrained, data, "test")
    log.info("Drawing samples and completions")
    draw_figures(run, pretrained, data, config.showcase_class, plain(config.sampling))
    timer = next(c for c in trainer.callbacks if isinstance(c, Timer))  # type: ignore[attr-defined]
    write_summary(run, {
        **likelihood_values(test, pretrained),
        "parameters": n_parameters(pretrained.model),
        "steps": trainer.global_step,
        "seconds": round(timer.time_elapsed("train"), 1),
        "best_checkpoint": str(checkpoint.relative_to(run.path)),
    })  # fmt: skip
    log.info(
        "Test: %.4f nats per token (%.4f bits), standard error %.4f over %d images",
        test.nats_per_token, test.bits_per_token, test.standard_error, test.n_images,
    )  # fmt: skip
    log.info("Results are in %s", run.path)


def first_step(run: RunDirectory) -> int:
    """The step that a run goes on from; 0 for a new one."""
    from igpt.pretrained import read_checkpoint

    return int(read_checkpoint(run.last)["global_step"]) if run.last.exists() else 0


def n_parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def finish_tracking() -> None:
    """Close W&B's run, also after an error and between the jobs of a sweep."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
