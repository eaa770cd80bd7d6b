"""igpt-evaluate: measure a trained model on a split of its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from igpt.configuration.app import run_app
from igpt.errors import IgptError, some_of

if TYPE_CHECKING:
    from igpt.data.datamodule import ImageDataModule
    from igpt.pretrained import Pretrained


def main() -> None:
    """The console script."""
    run_app(evaluate, "evaluate")


def evaluate(config: DictConfig) -> None:
    """Print what the evaluators measure, and write it with the figures into evaluation/ in the run directory."""
    from igpt.commands.build_trainer import build_evaluators, build_loggers
    from igpt.commands.open_run import chosen_data, data_of_run, load_model, name_of_data, other_weights
    from igpt.configuration.app import plain
    from igpt.evaluation.evaluator import evaluate as evaluate_split
    from igpt.evaluation.final_report import save_figures, save_tables
    from igpt.files import all_printable, write_json
    from igpt.run_directory import find_run
    from igpt.training.loggers.media import log_evaluation
    from igpt.training.loggers.wandb_process import finishing_wandb

    pretrained = load_model(config)
    data = chosen_data(config, "evaluate", pretrained) if "data" in config else data_of_run(config.run, pretrained)
    check_classes(pretrained, data)
    result = evaluate_split(build_evaluators(config), pretrained, data, config.split)
    for name, value in result.values.items():
        print(f"{name:28} {value:.4f}" if isinstance(value, float) else f"{name:28} {value}")
    run = find_run(config.run)
    folder = run.path / "evaluation"
    parts = [name_of_data(config, data), config.split, *other_weights(config)]
    name = "_".join(part for part in parts if part is not None)  # test, or emoji_test_ema_last if all are chosen
    write_json(result.values, folder / f"{name}.json")
    figures = save_figures(result.figures, folder, prefix=f"{name}_")
    save_tables(result.tables, folder, prefix=f"{name}_")
    config.run_dir = str(run.path.absolute())  # `run` may be a checkpoint file
    with finishing_wandb():
        for logger in build_loggers(config, run, "evaluate"):
            logger.log_hyperparams(all_printable(plain(config)))
            log_evaluation(logger, result, figures, None)
    print(f"Results are in {folder}")


def check_classes(pretrained: Pretrained, data: ImageDataModule) -> None:
    """Raise :class:`IgptError` if a classifier has other classes than the data, so that no accuracy is defined."""
    ours, theirs = pretrained.classes, tuple(data.source.classes)
    if ours and theirs and ours != theirs:
        raise IgptError(
            f"The model classifies into {some_of(ours)}, but the data has the classes {some_of(theirs)}; "
            "choose data with the same classes in the same order."
        )


if __name__ == "__main__":
    main()
