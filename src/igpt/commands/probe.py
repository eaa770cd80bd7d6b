"""igpt-probe: classification accuracy of probes on the features of each layer."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from igpt.cluster.ranks import is_main_process
from igpt.cluster.signals import exit_with_starter, stop_signals
from igpt.configuration.app import run_app
from igpt.console import table_text
from igpt.errors import IgptError
from igpt.run_lock import locked

if TYPE_CHECKING:
    from igpt.data.datamodule import ImageDataModule
    from igpt.evaluation.features import FeatureKind
    from igpt.evaluation.probe_scores import LabeledFeatures, ProbeSettings, Row
    from igpt.evaluation.stream_probe import Processes
    from igpt.pretrained import Pretrained
    from igpt.run_directory import RunDirectory

TRAINED = "trained"  # the name of the model's own features
SETTINGS_OF_TRAINING = ("standardize", "learning_rates", "epochs", "batch_size", "attentive_rate")  # by SGD


def main() -> None:
    """The console script."""
    exit_with_starter()
    with stop_signals.listen():
        run_app(probe, "probe")


def probe(config: DictConfig) -> None:
    """Probe every layer and the baselines; print a table, and write it with a figure to the run's probe/."""
    from igpt.commands.open_run import load_model
    from igpt.run_directory import find_run

    pretrained = load_model(config)
    data = probed_data(config, pretrained)
    settings = instantiate(config.probe, _convert_="all")
    check_choices(config, settings, pretrained, data)
    run = find_run(config.run)
    run.path.mkdir(parents=True, exist_ok=True)  # that of a model of the Hugging Face Hub
    with locked(run.probe_lock) if is_main_process() else nullcontext():
        solve = by_stream if settings.solver == "stream" else by_lbfgs
        rows, few = solve(config, settings, pretrained, data, run)
        if is_main_process():
            write_results(config, settings, rows, few, majority_share(data), run)


def by_lbfgs(
    config: DictConfig, settings: ProbeSettings, pretrained: Pretrained, data: ImageDataModule, run: RunDirectory
) -> tuple[list[Row], list[Row]]:
    """Rows per layer, and with few labels, of probes on stored features."""
    from igpt.data.packed import cache_key
    from igpt.evaluation.features import layers_around, stored_features
    from igpt.evaluation.probe_scores import knn_correct, labeled_features, linear_rows, low_label_rows
    from igpt.evaluation.room import require_room

    origin = origin_of(config, pretrained, data)
    for left_behind in run.features.glob(".*.npy"):
        left_behind.unlink()  # by a kill while it was written

    def stored(kind: FeatureKind) -> LabeledFeatures:
        names = {split: f"{cache_key({**origin, 'kind': kind.name, 'split': split})}.npy" for split in splits_of(data)}
        features = {split: stored_features(kind, data, split, run.features / name) for split, name in names.items()}
        return labeled_features(kind.name, features, data.splits, data.source.classes)

    def rows_of(kind: LabeledFeatures) -> list[Row]:
        rows = linear_rows(kind, settings, pretrained.device)
        add_columns(rows, kind.accuracy_columns("knn_accuracy", "test", knn_correct(kind, settings)))
        return rows

    require_room(pretrained, data, settings, run.features, 1 + config.untrained)
    kinds = [stored(kind) for kind in feature_kinds(config, pretrained, data)]
    rows = [row for kind in kinds for row in rows_of(kind)]
    if settings.concatenate:
        layers = layers_around(best_layer(rows, settings), settings.concatenate, len(kinds[0].features["train"]))
        rows += rows_of(kinds[0].concatenated(layers))
    return rows, low_label_rows(kinds, config.labels_per_class, config.subsets, settings, pretrained.device)


def by_stream(
    config: DictConfig, settings: ProbeSettings, pretrained: Pretrained, data: ImageDataModule, run: RunDirectory
) -> tuple[list[Row], list[Row]]:
    """Rows per layer of probes on features that are not stored. All processes call this; the main one uses the rows."""
    from igpt.data.packed import cache_key
    from igpt.evaluation.features import concatenated, layers_around
    from igpt.evaluation.probe_scores import accuracy_rows, labeled_features
    from igpt.evaluation.stream_probe import ATTENTIVE, StreamProbe

    processes = start_processes(config, pretrained)
    origin = {
        **origin_of(config, pretrained, data),
        **{name: getattr(settings, name) for name in SETTINGS_OF_TRAINING},
        "seed": data.seed,
        "augment": repr(data.augment) if settings.augment else None,
    }

    def rows_of(kinds: Sequence[FeatureKind], path: Path, n_heads: int | None) -> list[Row]:
        key = cache_key({**origin, "kinds": [kind.name for kind in kinds], "n_heads": n_heads})
        probes = StreamProbe(kinds, data, settings, processes, path, key, n_heads)
        probes.fit()
        correct = {split: probes.correct(split) for split in splits_of(data) if split != "train"}
        rows: list[Row] = []
        for kind in kinds:
            labeled = labeled_features(kind.name, {}, data.splits, data.source.classes)
            of_kind = {split: found[kind.name] for split, found in correct.items()}
            found = accuracy_rows(labeled, of_kind, settings.learning_rates)
            if kind.name + ATTENTIVE in correct["test"]:
                attentive = correct["test"][kind.name + ATTENTIVE][:, 0]
                add_columns(found, labeled.accuracy_columns("attentive_accuracy", "test", attentive))
            rows += found
        return rows

    kinds = feature_kinds(config, pretrained, data)
    n_heads = pretrained.model.config.n_head if settings.attentive else None
    rows = rows_of(kinds, run.probe / "stream.pt", n_heads)
    if settings.concatenate:
        n_layers = pretrained.model.config.n_layer + 1
        layers = layers_around(best_layer(rows, settings), settings.concatenate, n_layers)
        rows += rows_of([concatenated(kinds[0], layers)], run.probe / "stream_concatenated.pt", None)
    return rows, []


def start_processes(config: DictConfig, pretrained: Pretrained) -> Processes:
    """Start the other processes, unless torchrun or SLURM has, and put the model on the device of this one."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from igpt.evaluation.stream_probe import Processes

    if config.devices > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise IgptError("Several processes cannot probe within a sweep (-m); set devices=1, or probe runs one by one.")
    warnings.filterwarnings("ignore", "The `srun` command is available")  # no advice: a login node needs no srun
    try:
        fabric = Fabric(accelerator=pretrained.device.type, devices=config.devices, num_nodes=config.num_nodes)
        fabric.launch()
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise IgptError(f"devices={config.devices} cannot be used here: {' '.join(str(error).split())}") from None
    device = pretrained.device if fabric.world_size == 1 else fabric.device
    pretrained.to(device)
    return Processes(fabric, device)


def best_layer(rows: list[Row], settings: ProbeSettings) -> int:
    """The layer of the trained network that counts."""
    from igpt.evaluation.probe_scores import best_row

    row = best_row([row for row in rows if row["features"] == TRAINED], settings.layer)
    assert row is not None  # igpt-probe requires a layer if there is no validation split
    return int(row["layer"])


def add_columns(rows: list[Row], columns: list[Row]) -> None:
    for row, values in zip(rows, columns, strict=True):
        row.update(values)


def write_results(
    config: DictConfig, settings: ProbeSettings, rows: list[Row], few: list[Row], majority: float, run: RunDirectory
) -> None:
    """Print the tables, and write and log them with a summary and a figure."""
    from igpt import figures
    from igpt.commands.build_trainer import build_loggers
    from igpt.evaluation.final_report import write_json
    from igpt.evaluation.probe_scores import best_row
    from igpt.training.loggers.media import log_probe
    from igpt.training.loggers.wandb_tracker import finishing_wandb

    config.run_dir, output = str(run.path), run.probe  # `run` may be a checkpoint file
    write_table(rows, output / "accuracy.csv")
    print_table(rows)
    if few:
        write_table(few, output / "low_label.csv")
        print_table(few)
    kinds = dict.fromkeys(row["features"] for row in rows)
    reported = {kind: best_row([r for r in rows if r["features"] == kind], settings.layer) for kind in kinds}
    summary = {f"probe/{kind}/{name}": value for kind, row in reported.items() for name, value in (row or {}).items()}
    write_json({**summary, "majority_share": majority}, output / "summary.json")
    path = figures.save(figures.probe_curve(rows, majority), output / "accuracy.png")
    with finishing_wandb():
        for logger in build_loggers(config, run):
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
    if config.probe.solver == "lbfgs" and config.probe.neighbors > (images := data.n_labeled("train")):
        raise IgptError(f"probe.neighbors is {config.probe.neighbors}, but there are {images} training images.")
    return data


def check_choices(config: DictConfig, settings: ProbeSettings, pretrained: Pretrained, data: ImageDataModule) -> None:
    """Raise :class:`IgptError` for settings that do not apply to the model, or that need held-out images."""
    n_layers = pretrained.model.config.n_layer + 1
    if settings.layer is not None and not 0 <= settings.layer < n_layers:
        raise IgptError(f"probe.layer is {settings.layer}; the model's layers are 0 to {n_layers - 1}.")
    if config.masks and pretrained.model.config.causal:
        raise IgptError(f"masks is {config.masks}, but only masked models average over masks; set masks=0.")
    if settings.concatenate is not None and settings.concatenate > n_layers:
        raise IgptError(f"probe.concatenate is {settings.concatenate}, but the model has {n_layers} layers.")
    if not data.trains_on_validation:
        return
    name = "penalties" if settings.solver == "lbfgs" else "learning_rates"
    why = "data.source.full_train=true trains on the validation images, so they cannot select"
    if len(settings.candidates) > 1:
        raise IgptError(f"{why} one of {len(settings.candidates)} {name}; give one, for example probe.{name}=[0.01].")
    if config.labels_per_class and settings.layer is None:
        raise IgptError(f"{why} the layer of probes with few labels; give it, for example probe.layer={n_layers // 2}.")
    if settings.concatenate is not None and settings.layer is None:
        raise IgptError(f"{why} the layers to concatenate; give the middle one, as in probe.layer={n_layers // 2}.")
    say(f"The validation images are trained on, so they select nothing: probe.{name} is used as given.")


def splits_of(data: ImageDataModule) -> list[str]:
    """The splits that are used; not the validation split if it is trained on."""
    from igpt.data.sources import SPLITS

    return [split for split in SPLITS if split != "validation" or not data.trains_on_validation]


def feature_kinds(config: DictConfig, pretrained: Pretrained, data: ImageDataModule) -> list[FeatureKind]:
    """The features to compare: the model's layers, the untrained network's, raw pixels, and palette histograms."""
    from igpt.evaluation.features import network_features, palette_histogram, raw_pixels, untrained
    from igpt.evaluation.labels import check_labeled, left_out

    check_labeled(data, *splits_of(data))
    for split in splits_of(data):
        n, labeled = len(data.splits[split]), data.n_labeled(split)
        if labeled < n:
            say(left_out(split, n - labeled, n, "the probes"))
    kinds = [network_features(TRAINED, pretrained, data, config.masks)]
    if config.untrained:
        kinds.append(network_features("untrained", untrained(pretrained), data, config.masks))
    return [*kinds, raw_pixels(), palette_histogram(data)]


def origin_of(config: DictConfig, pretrained: Pretrained, data: ImageDataModule) -> dict[str, Any]:
    """Everything that the features of the labeled images depend on."""
    from igpt.convert.read_model import files_of
    from igpt.files import sha256

    assert pretrained.loaded_from is not None
    checkpoint = [sha256(file) for file in files_of(pretrained.loaded_from)]
    return {"checkpoint": checkpoint, "data": data.key(), "masks": config.masks}


def majority_share(data: ImageDataModule) -> float:
    """Test accuracy of always predicting the most frequent class of the training split."""
    import numpy as np

    train, test = (labels[labels >= 0] for labels in (data.splits[split].labels for split in ("train", "test")))
    return float((test == np.bincount(train).argmax()).mean())


def say(text: str) -> None:
    """Print, in the main process."""
    if is_main_process():
        print(text)


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
