"""igpt-probe: classification accuracy of probes on the features of each layer."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from igpt.configuration.app import run_app
from igpt.console import table_text
from igpt.errors import IgptError

if TYPE_CHECKING:
    from igpt.data.datamodule import ImageDataModule
    from igpt.evaluation.probe_scores import LabeledFeatures, ProbeSettings, Row
    from igpt.pretrained import Pretrained


def main() -> None:
    """The console script."""
    run_app(probe, "probe")


def probe(config: DictConfig) -> None:
    """Probe every layer and the baselines; print a table, and write it with a figure to the run's probe/."""
    from igpt import figures
    from igpt.commands.build_trainer import build_loggers
    from igpt.commands.open_run import load_model
    from igpt.evaluation.attentive import attentive_correct
    from igpt.evaluation.final_report import write_json
    from igpt.evaluation.probe_scores import best_row, knn_correct, linear_rows, low_label_rows
    from igpt.run_directory import find_run
    from igpt.training.loggers.media import log_probe
    from igpt.training.loggers.wandb_tracker import finishing_wandb

    pretrained = load_model(config)
    data = probed_data(config, pretrained)
    settings = instantiate(config.probe, _convert_="all")
    check_choices(config, settings, pretrained, data)
    kinds = feature_kinds(config, pretrained, data)

    rows: list[Row] = []
    for kind in kinds:
        found = linear_rows(kind, settings, pretrained.device)
        scores = kind.accuracy_columns("knn_accuracy", "test", knn_correct(kind, settings))
        for row, score in zip(found, scores, strict=True):
            row.update(score)
        rows += found
    if config.attentive_epochs > 0:
        correct = attentive_correct(pretrained, data, "test", len(data.source.classes), config.attentive_epochs).numpy()
        scores = kinds[0].accuracy_columns("attentive_accuracy", "test", correct)
        for row, score in zip(rows, scores, strict=False):  # the trained layers come first
            row.update(score)
    few = low_label_rows(kinds, config.labels_per_class, config.subsets, settings, pretrained.device)

    config.run_dir = str(find_run(config.run).path)  # `run` may be a checkpoint file
    output = Path(config.run_dir) / "probe"
    write_table(rows, output / "accuracy.csv")
    print_table(rows)
    if few:
        write_table(few, output / "low_label.csv")
        print_table(few)
    reported = {kind.name: best_row([r for r in rows if r["features"] == kind.name], settings.layer) for kind in kinds}
    summary = {f"probe/{kind}/{name}": value for kind, row in reported.items() for name, value in (row or {}).items()}
    write_json({**summary, "majority_share": majority_share(kinds[0])}, output / "summary.json")
    path = figures.save(figures.probe_curve(rows, majority_share(kinds[0])), output / "accuracy.png")
    with finishing_wandb():
        for logger in build_loggers(config, find_run(config.run)):
            log_probe(logger, rows, path)
    print(f"Results are in {output}: accuracy.csv, accuracy.png, summary.json{', low_label.csv' if few else ''}")


def probed_data(config: DictConfig, pretrained: Pretrained) -> ImageDataModule:
    """The data to probe on: those of the configuration, or those that the run was trained on."""
    from igpt.commands.open_run import chosen_data, data_of_run
    from igpt.configuration.class_names import require_classes, require_labels

    if "data" in config:
        data = chosen_data(config, "probe", pretrained)
    else:
        data = data_of_run(config.run, pretrained)
        if data.source.key() != pretrained.trained_on:
            raise IgptError(
                f"The run's configuration names the data {data.source.key()}, but its checkpoint was trained on "
                f"{pretrained.trained_on}; restore the configuration, or choose the data to probe on with data=NAME."
            )
    require_classes(data, "a probe")
    require_labels(data, config.labels_per_class)
    if config.probe.neighbors > (images := len(data.splits["train"])):
        raise IgptError(f"probe.neighbors is {config.probe.neighbors}, but there are {images} training images.")
    return data


def check_choices(config: DictConfig, settings: ProbeSettings, pretrained: Pretrained, data: ImageDataModule) -> None:
    """Raise :class:`IgptError` for settings that do not apply to the model, or that need held-out images."""
    n_layers = pretrained.model.config.n_layer + 1
    if settings.layer is not None and not 0 <= settings.layer < n_layers:
        raise IgptError(f"probe.layer is {settings.layer}; the model's layers are 0 to {n_layers - 1}.")
    if config.masks and pretrained.model.config.causal:
        raise IgptError(f"masks is {config.masks}, but only masked models average over masks; set masks=0.")
    if not data.trains_on_validation:
        return
    name = "penalties" if settings.solver == "lbfgs" else "learning_rates"
    why = "data.source.full_train=true trains on the validation images, so they cannot select"
    if len(settings.candidates) > 1:
        raise IgptError(f"{why} one of {len(settings.candidates)} {name}; give one, for example probe.{name}=[0.01].")
    if config.labels_per_class and settings.layer is None:
        raise IgptError(f"{why} the layer of probes with few labels; give it, for example probe.layer={n_layers // 2}.")
    print(f"The validation images are trained on, so they select nothing: probe.{name} is used as given.")


def feature_kinds(config: DictConfig, pretrained: Pretrained, data: ImageDataModule) -> list[LabeledFeatures]:
    """The features to compare: the model's layers, the untrained network's, raw pixels, and palette histograms."""
    from igpt.convert.read_model import files_of
    from igpt.data.sources import SPLITS
    from igpt.evaluation.features import cached, palette_histogram, raw_pixels, split_features, untrained
    from igpt.evaluation.labels import check_labeled, left_out
    from igpt.evaluation.probe_scores import labeled_features
    from igpt.files import sha256
    from igpt.run_directory import find_run

    splits = [split for split in SPLITS if split != "validation" or not data.trains_on_validation]
    check_labeled(data, *splits)
    for split in splits:
        labels = data.splits[split].labels
        if n := int((labels < 0).sum()):
            print(left_out(split, n, len(labels), "the probes"))
    classes = data.source.classes
    assert pretrained.loaded_from is not None
    checkpoint = [sha256(file) for file in files_of(pretrained.loaded_from)]
    models = {"trained": pretrained, **({"untrained": untrained(pretrained)} if config.untrained else {})}
    kinds = []
    for name, model in models.items():
        features = {}
        for split in splits:
            key = {"checkpoint": checkpoint, "data": data.key(), "split": split, "masks": config.masks}
            print(f"Features of the {name} model, {split} split")
            features[split] = cached(
                find_run(config.run).path / "features",
                {**key, "model": name},
                lambda model=model, split=split: split_features(model, data, split, config.masks),  # type: ignore[misc]
            )
        kinds.append(labeled_features(name, features, data.splits, classes))
    for name, extract in {"raw pixels": raw_pixels, "palette histogram": palette_histogram}.items():
        kinds.append(labeled_features(name, {split: extract(data, split) for split in splits}, data.splits, classes))
    return kinds


def majority_share(data: LabeledFeatures) -> float:
    """Test accuracy of always predicting the most frequent class of the training split."""
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
    """Print the rows as a table; accuracies in per cent, with their standard errors."""

    def cell(name: str, row: Row) -> str:
        if "accuracy" not in name or name not in row:
            return str(row.get(name, ""))
        error = f" +- {100 * row[f'{name}_error']:.1f}" if f"{name}_error" in row else ""
        return f"{100 * row[name]:.1f}{error}"

    names = [name for name in dict.fromkeys(name for row in rows for name in row) if not name.endswith("_error")]
    print(table_text(names, [[cell(name, row) for name in names] for row in rows]))
    print()


if __name__ == "__main__":
    main()
