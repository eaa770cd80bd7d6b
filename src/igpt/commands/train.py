"""igpt-train: train a model, or resume a run, and evaluate the result."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igpt.cluster.ranks import is_main_process
from igpt.cluster.signals import Interrupted, exit_with_starter, stop_signals
from igpt.errors import IgptError, in_one_line
from igpt.run_directory import RunDirectory, find_checkpoint, resume_command
from igpt.run_lock import locked

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from omegaconf import DictConfig

    from igpt.configuration.stored import Changes
    from igpt.data.datamodule import ImageDataModule
    from igpt.evaluation.evaluator import Evaluator
    from igpt.objectives.objective import Objective
    from igpt.pretrained import Pretrained


def main() -> None:
    """The console script."""
    exit_with_starter()
    with stop_signals.listen():  # before Hydra and torch are imported, which takes long enough for a signal to come
        from igpt.configuration.app import run_app
        from igpt.configuration.resume import resume_arguments

        try:
            sys.argv[1:] = resume_arguments(sys.argv[1:])
        except IgptError as error:
            sys.exit(f"Error: {error}")
        run_app(train, "train")


def train(config: DictConfig) -> float | None:
    """Train the model that a configuration describes, and evaluate it. A signal stops the command (`igpt.cluster`).

    Returns the best value of the monitored metric, for sweepers.
    """
    from hydra.core.hydra_config import HydraConfig

    from igpt.commands.chosen_precision import choose_precision
    from igpt.commands.init_from import starting_point
    from igpt.configuration.path_arguments import make_absolute
    from igpt.stored_run import StoredRun
    from igpt.sweeps.subprocess_jobs import needs_subprocess, run_in_subprocess

    make_absolute(config)
    run = RunDirectory(Path(HydraConfig.get().runtime.output_dir))
    if needs_subprocess(config):
        with locked(run.lock):
            starting_point(config, "train", run)
            choose_precision(config, run)
            begin(run, config)
        run_in_subprocess(run)
    else:
        with stop_signals.listen(), locked(run.lock) if is_main_process() else nullcontext():
            start = starting_point(config, "train", run)
            choose_precision(config, run)
            train_and_report(config, start, begin(run, config))
    return StoredRun(run).best


def begin(run: RunDirectory, config: DictConfig) -> Changes:
    """Store the configuration of a new run; of one that was trained before, return the changed values.

    Raises :class:`~igpt.errors.RunTakenError` before anything is written, if the folder holds another run.
    """
    from igpt.configuration.resume import changes_of, resumes
    from igpt.configuration.stored import store
    from igpt.log_file import open_log_files

    changes = changes_of(config, run)
    if not run.trained and not resumes():
        if is_main_process():
            store(run, config)
        open_log_files()
    return changes


def train_and_report(config: DictConfig, start: Pretrained | None, changes: Changes) -> None:
    """Build data, objective and trainer, train, and report. `start` is the model to start from, `changes` are the
    changed values of a resumed run.

    Up to the point where these are stored, a refusal leaves the run directory as it was.
    """
    import copy
    import logging

    from hydra.core.hydra_config import HydraConfig

    from igpt.checkpoint import read_last
    from igpt.commands.build import build_data, build_objective, describe
    from igpt.commands.build_trainer import build_evaluators, build_trainer, n_processes
    from igpt.configuration.app import plain
    from igpt.configuration.resume import stored_arguments
    from igpt.configuration.stored import store_changes
    from igpt.generation.sampling_config import SamplingConfig
    from igpt.log_file import open_log_files
    from igpt.run_environment import record_start
    from igpt.training.loggers.wandb_process import finishing_wandb

    log = logging.getLogger(__name__)
    run = RunDirectory(Path(HydraConfig.get().runtime.output_dir))
    prepare_process(config.seed)
    resumed = read_last(run)
    step = resumed.step if resumed else 0
    if "trainer.max_steps" in changes and config.trainer.max_steps < step:
        raise IgptError(
            f"trainer.max_steps={config.trainer.max_steps} is less than the {step} steps that the run has; give more."
        )
    as_given = copy.deepcopy(config)  # the data replace names of classes in the configuration by their numbers

    log.info("Preparing the data and the tokenizer")
    processes = n_processes(config)
    data = build_data(config, run, processes, resumed, start)
    objective = build_objective(config, data, resumed, start)
    SamplingConfig(**plain(config.sampling)).check_applicable(objective.model.config.causal)
    evaluators = build_evaluators(config)  # now, since a mistake in one must not be found after training
    trainer = build_trainer(config, run, data, processes, describe(config, data, objective), resumed)
    parameters = sum(p.numel() for p in objective.parameters())
    log.info("%s parameters, trained in %s", f"{parameters:,}", trainer.precision)
    if changes and is_main_process():
        store_changes(run, as_given, changes, step)
        sys.argv[1:] = stored_arguments(run)  # with which Lightning starts the other processes
    open_log_files()
    if is_main_process():
        record_start(run, step, trainer.strategy.root_device, trainer.world_size)
    with finishing_wandb(), recorded_error(run):
        fit_and_report(config, run, data, objective, trainer, evaluators)


def prepare_process(seed: int) -> None:
    """Seed the random number generators, and silence warnings that are not about the user's settings."""
    import warnings

    import pytorch_lightning as pl

    warnings.filterwarnings("ignore", module="pytorch_lightning")  # about its internals and the speed of loaders
    warnings.filterwarnings("ignore", "The `srun` command is available")  # no advice: a login node needs no srun
    pl.seed_everything(seed, workers=True, verbose=False)


@contextmanager
def recorded_error(run: RunDirectory) -> Iterator[None]:
    """Write the error that ends this block, which is no signal, into the run directory; remove that of an attempt
    before.
    """
    if is_main_process():
        run.error.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        if is_main_process():
            with suppress(OSError):  # the disk may be full
                run.error.write_text(f"{in_one_line(error)}\n", encoding="utf-8")
        raise


def fit_and_report(
    config: DictConfig,
    run: RunDirectory,
    data: ImageDataModule,
    objective: Objective,
    trainer: pl.Trainer,
    evaluators: Sequence[Evaluator],
) -> None:
    """Train, from the last checkpoint on if there is one, and report. After a signal, log the command that resumes."""
    import logging

    log = logging.getLogger(__name__)
    resume_from = str(run.last) if run.last.exists() else None
    log.info("%s in %s", "Resuming" if resume_from else "Training", run.path)
    try:
        if trainer.world_size > 1:
            stop_signals.defer()  # one process must not exit while another one waits for it
        trainer.fit(objective, data, ckpt_path=resume_from, weights_only=True)
        stop_signals.obey()
        if trainer.is_global_zero:
            report(config, run, data, trainer, evaluators)
    except Interrupted:
        if run.last.exists() and trainer.is_global_zero:
            log.info("Stopped and saved at step %d. Resume with: %s", trainer.global_step, resume_command(run))
        raise


def report(
    config: DictConfig,
    run: RunDirectory,
    data: ImageDataModule,
    trainer: pl.Trainer,
    evaluators: Sequence[Evaluator],
) -> None:
    """Evaluate the best checkpoint on the test split; write its figures and summary.json, and log them."""
    import logging

    from igpt.configuration.app import plain
    from igpt.evaluation.final_report import final_report, result_sentences, save_figures, save_tables
    from igpt.files import write_json
    from igpt.generation.sampling_config import SamplingConfig
    from igpt.pretrained import load
    from igpt.training.loggers.media import log_evaluation, log_summary
    from igpt.training.loggers.wandb_tracker import WandbTracker

    log = logging.getLogger(__name__)
    checkpoint = find_checkpoint(run.path)
    pretrained = load(checkpoint, trainer.strategy.root_device)
    sampling = SamplingConfig(**plain(config.sampling))
    result = final_report(run, pretrained, data, evaluators, sampling, config.image_class)
    paths = save_figures(result.figures, run.figures)
    save_tables(result.tables, run.figures)
    for logger in trainer.loggers:
        log_evaluation(logger, result, paths, trainer.global_step - 1)
        logger.finalize("success")  # as at the end of training, to write what was logged

    parameters = sum(p.numel() for p in pretrained.model.parameters())
    best_checkpoint = str(checkpoint.relative_to(run.path))
    summary = {
        **result.values, "parameters": parameters, **of_training(run, trainer),
        "best_checkpoint": best_checkpoint, "weights": pretrained.weights,
    }  # fmt: skip
    write_json(summary, run.summary)
    log_summary(trainer, summary)
    for logger in trainer.loggers:
        if isinstance(logger, WandbTracker):
            logger.log_checkpoints(run)
    for sentence in result_sentences(summary):
        log.info(sentence)
    log.info("Results are in %s", run.path)


def of_training(run: RunDirectory, trainer: pl.Trainer) -> dict[str, Any]:
    """What summary.json says about training."""
    from pytorch_lightning.callbacks import Timer

    from igpt.stored_run import StoredRun

    timer = next(c for c in trainer.callbacks if isinstance(c, Timer))  # type: ignore[attr-defined]
    return {
        "steps": trainer.global_step,
        "precision": trainer.precision,
        "seconds": round(timer.time_elapsed("train"), 1),
        **{f"best/{name}": value for name, value in StoredRun(run).best_values().items()},
    }


if __name__ == "__main__":
    main()
