"""igpt-evaluate: the likelihood of a trained model on a split, and the accuracy of a fine-tuned one."""

from __future__ import annotations

from omegaconf import DictConfig

from igpt.configuration.app import run_app


def main() -> None:
    """The console script."""
    run_app(evaluate, "evaluate")


def evaluate(config: DictConfig) -> None:
    """Print the numbers, and write them and their figures into the run directory's evaluation/."""
    from igpt import figures
    from igpt.commands.open_run import data_of_run, load_model
    from igpt.evaluation.final_report import evaluate as evaluate_split
    from igpt.evaluation.final_report import write_json
    from igpt.run_directory import find_run

    pretrained = load_model(config)
    data = data_of_run(config.run, pretrained)
    values, pictures = evaluate_split(pretrained, data, config.split)
    for name, value in values.items():
        print(f"{name:28} {value:.4f}" if isinstance(value, float) else f"{name:28} {value}")
    folder = find_run(config.run).path / "evaluation"
    write_json(values, folder / f"{config.split}.json")
    for name, picture in pictures.items():
        figures.save(picture, folder / f"{config.split}_{name}.png")
    print(f"Results are in {folder}")


if __name__ == "__main__":
    main()
