"""igpt-evaluate: measure a trained model on a split of its data."""

from __future__ import annotations

from omegaconf import DictConfig

from igpt.configuration.app import run_app


def main() -> None:
    """The console script."""
    run_app(evaluate, "evaluate")


def evaluate(config: DictConfig) -> None:
    """Print what the evaluators measure, and write it with the figures into evaluation/ in the run directory."""
    from igpt.commands.build_trainer import build_evaluators
    from igpt.commands.open_run import data_of_run, load_model
    from igpt.evaluation.evaluator import evaluate as evaluate_split
    from igpt.evaluation.final_report import save_figures, write_json
    from igpt.run_directory import find_run

    pretrained = load_model(config)
    data = data_of_run(config.run, pretrained)
    result = evaluate_split(build_evaluators(config), pretrained, data, config.split)
    for name, value in result.values.items():
        print(f"{name:28} {value:.4f}" if isinstance(value, float) else f"{name:28} {value}")
    folder = find_run(config.run).path / "evaluation"
    write_json(result.values, folder / f"{config.split}.json")
    save_figures(result.figures, folder, prefix=f"{config.split}_")
    print(f"Results are in {folder}")


if __name__ == "__main__":
    main()
