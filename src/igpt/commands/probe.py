"""igpt-probe: what the features of each layer know about the classes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from igpt.commands.app import run_app
from igpt.commands.table import aligned
from igpt.errors import IgptError

if TYPE_CHECKING:
    from igpt.data.datamodule import ImageDataModule
    from igpt.evaluation.probe import Labelled, Row
    from igpt.pretrained import Pretrained


def main() -> None:
    """The console script."""
    run_app(probe, "probe")


def probe(config: DictConfig) -> None:
    """Probe every layer and the baselines; print a table, write it with its figure into the run's probe/."""
    from igpt import figures
    from igpt.commands.build import can_track, made
    from igpt.commands.runs import finish_tracking, load_model
    from igpt.evaluation.attentive import attentive_accuracy
    from igpt.evaluation.probe import best_row, linear_rows, low_label_rows, neighbour_accuracies
    from igpt.run import find_run
    from igpt.training.report import write_json
    from igpt.training.tracking import log_probe

    pretrained = load_model(config)
    data = probed_data(config, pretrained)
    settings = instantiate(config.probe, _convert_="all")
    kinds = feature_kinds(config, pretrained, data)

    rows: list[Row] = []
    for kind in kinds:
        found = linear_rows(kind, settings, pretrained.device)
        for row, accuracy in zip(found, neighbour_accuracies(kind, settings), strict=True):
            row["knn_accuracy"] = accuracy
        rows += found
    if config.attentive_epochs > 0:
        accuracies = attentive_accuracy(pretrained, data, "test", len(data.source.classes), config.attentive_epochs)
        for row, accuracy in zip(rows, accuracies, strict=False):  # the trained layers come first
            row["attentive_accuracy"] = accuracy
    few = low_label_rows(kinds, config.labels_per_class, config.subsets, settings, pretrained.device)

    config.run_dir = str(find_run(config.run).path)  # `run` may be a checkpoint file
    output = Path(config.run_dir) / "probe"
    write_table(rows, output / "accuracy.csv")
    print_table(rows)
    if few:
        write_table(few, output / "low_label.csv")
        print_table(few)
    summary = {f"probe/{kind.name}/{name}": value for kind in kinds
               for name, value in best_row([r for r in rows if r["features"] == kind.name]).items()}  # fmt: skip
    write_json({**summary, "majority_share": majority_share(kinds[0])}, output / "summary.json")
    path = figures.save(figures.probe_curve(rows, majority_share(kinds[0])), output / "accuracy.png")
    try:
        for logger in made(config.logger) if can_track(find_run(config.run)) else []:
            log_probe(logger, rows, path)
    finally:
        finish_tracking()
    print(f"Results are in {output}: accuracy.csv, accuracy.png, summary.json{', low_label.csv' if few else ''}")


def probed_data(config: DictConfig, pretrained: Pretrained) -> ImageDataModule:
    """The data to probe on: the configuration's, or the run's own, which must be what the run was trained on."""
    from igpt.commands.runs import data_of_run, open_data
    from igpt.pretrained import read_checkpoint
    from igpt.run import find_checkpoint

    if "data" in config:
        data = open_data(config, pretrained)
    else:
        data = data_of_run(config.run, pretrained)
        trained_on = read_checkpoint(find_checkpoint(config.run, config.checkpoint))["ImageDataModule"]["source"]
        if data.source.key() != trained_on:
            raise IgptError(
                f"The run's configuration names the data {data.source.key()}, but its checkpoint was trained on "
                f"{trained_on}; restore the configuration, or choose the data to probe on with data=NAME."
            )
    if not data.source.classes:
        raise IgptError(f"The data '{data.source.name}' has no labels, which a probe needs; choose data with classes.")
    return data


def feature_kinds(config: DictConfig, pretrained: Pretrained, data: ImageDataModule) -> list[Labelled]:
    """Features to compare: the model's layers first, then the same network untrained, raw pixels, palette histogram."""
    from igpt.data.sources import SPLITS
    from igpt.evaluation.features import cached, palette_histogram, raw_pixels, split_features, untrained
    from igpt.evaluation.probe import Labelled
    from igpt.files import sha256
    from igpt.run import find_checkpoint, find_run

    labels = {split: data.splits[split].labels for split in SPLITS}
    classes = data.source.classes
    checkpoint = sha256(find_checkpoint(config.run, config.checkpoint))
    models = {"trained": pretrained, **({"untrained": untrained(pretrained)} if config.untrained else {})}
    kinds = []
    for name, model in models.items():
        features = {}
        for split in SPLITS:
            key = {"checkpoint": checkpoint, "data": data.key(), "split": split, "masks": config.masks}
            print(f"Features of the {name} model, {split} split")
            features[split] = cached(
                find_run(config.run).path / "features",
                {**key, "model": name},
                lambda model=model, split=split: split_features(model, data, split, config.masks),  # type: ignore[misc]
            )
        kinds.append(Labelled(name, features, labels, classes))
    for name, extract in {"raw pixels": raw_pixels, "palette histogram": palette_histogram}.items():
        kinds.append(Labelled(name, {split: extract(data, split) for split in SPLITS}, labels, classes))
    return kinds


def majority_share(data: Labelled) -> float:
    """Test accuracy of always answering with the most frequent class of the training split."""
    import numpy as np

    return float((data.labels["test"] == np.bincount(data.labels["train"]).argmax()).mean())


def write_table(rows: list[Row], path: Path) -> None:
    from igpt.files import atomic_path

    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def print_table(rows: list[Row]) -> None:
    """Aligned columns; accuracies in per cent."""

    def cell(name: str, value: Any) -> str:
        return f"{100 * value:.1f}" if "accuracy" in name and value is not None else f"{value}"

    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([cell(name, row.get(name)) if name in row else "" for name in names] for row in rows)]
    print(aligned(lines))
    print()


if __name__ == "__main__":
    main()
