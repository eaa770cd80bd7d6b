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
    from igpt.evaluation.probe_scores import best_row
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
    reported = {kind: best_row([r for r in rows if r["features"] == kind], settings.layer) for kind in kinds}
    summary = {f"probe/{kind}/{name}": value for kind, row in reported.items() for name, value in (row or {}).items()}
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


def print_table(rows: list[Row]) -> None:
    """Print the rows as a table; accuracies in per cent, with their standard errors."""

    def cell(name: str, row: Row) -> str:
        if "accuracy" not in name or name not in row:
            return str(row.get(name, ""))
        error = f" +- {100 * row[f'{name}_error']:.1f}" if f"{name}_error" in row else ""
        return f"{100 * row[name]:.1f}{error}"

    names = [name for name in dict.fromkeys(name for row in rows for name in row) if not name.endswith("_error")]
    print(table_text(names, [[cell(name, row) for name in names] for row in rows]))
    print()
