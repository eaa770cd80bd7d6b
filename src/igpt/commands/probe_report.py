"""The results of igpt-probe: tables on the console and in files, a summary, and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from igpt.console import table_text

if TYPE_CHECKING:
    from igpt.evaluation.probe_scores import ProbeSettings, Row
    from igpt.run_directory import RunDirectory


def write_results(
    config: DictConfig,
    settings: ProbeSettings,
    rows: list[Row],
    few: list[Row],
    majority: float,
    run: RunDirectory,
    output: Path,
) -> None:
    """Print the tables, and write them to a folder and log them, with a summary and a figure. They replace those of an
    earlier probe.
    """
    from igpt import figures
    from igpt.commands.build_trainer import build_loggers
    from igpt.configuration.app import plain
    from igpt.files import all_printable, write_json, write_rows
    from igpt.training.loggers.media import log_probe
    from igpt.training.loggers.wandb_process import finishing_wandb
    from igpt.training.loggers.wandb_tracker import WandbTracker

    config.run_dir = str(run.path.absolute())  # `run` may be a checkpoint file
    write_rows(rows, output / "accuracy.csv")
    print_table(rows)
    (output / "low_label.csv").unlink(missing_ok=True)
    if few:
        write_rows(few, output / "low_label.csv")
        print_table(few)
    kinds = dict.fromkeys(row["features"] for row in rows)
    reported = {kind: best_values([row for row in rows if row["features"] == kind], settings.layer) for kind in kinds}
    summary = {f"probe/{kind}/{name}": value for kind, row in reported.items() for name, value in row.items()}
    summary["majority_share"] = majority
    write_json(summary, output / "summary.json")
    path = figures.save(figures.probe_curve(rows, majority), output / "accuracy.png")
    with finishing_wandb():
        for logger in build_loggers(config, run, "probe"):
            logger.log_hyperparams(all_printable(plain(config)))
            log_probe(logger, rows, summary, path)
            if isinstance(logger, WandbTracker):
                logger.artifacts.log_probe(run, output, config.run)
    print(f"Results are in {output}: accuracy.csv, accuracy.png, summary.json{', low_label.csv' if few else ''}")


def best_values(rows: list[Row], layer: int | None) -> Row:
    """The values of the best of some layers. Nearest neighbors and attention pooling have a best layer of their own."""
    from igpt.evaluation.probe_scores import best_row

    values = dict(best_row(rows, layer) or {})
    for probe in ("knn", "attentive"):
        score = f"{probe}_accuracy"
        if f"test_{score}" in rows[0]:
            row = best_row(rows, layer, score) or {}
            values = {name: value for name, value in values.items() if score not in name}
            values |= {f"{probe}_layer": row["layer"]} if row else {}
            values |= {name: value for name, value in row.items() if score in name}
    return values


def print_table(rows: list[Row]) -> None:
    """Print the rows as a table; accuracies in percent, with their standard errors."""

    def cell(name: str, row: Row) -> str:
        if "accuracy" not in name or name not in row:
            return str(row.get(name, ""))
        error = f" +- {100 * row[f'{name}_error']:.1f}" if f"{name}_error" in row else ""
        return f"{100 * row[name]:.1f}{error}"

    names = [name for name in dict.fromkeys(name for row in rows for name in row) if not name.endswith("_error")]
    print("Accuracies in percent, +- their standard errors; a difference `behind` is on the same images or labels.")
    titles = [name.replace("_accuracy", "") for name in names]
    print(table_text(titles, [[cell(name, row) for name in names] for row in rows]))
    print()
