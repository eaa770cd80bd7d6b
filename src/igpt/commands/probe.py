"""igpt-probe: classification accuracy of probes on the features of each layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from igpt.cluster.ranks import is_main_process, started_processes
from igpt.cluster.signals import exit_with_starter, stop_signals
from igpt.configuration.app import run_app
from igpt.errors import IgptError, in_one_line
from igpt.run_lock import locked

if TYPE_CHECKING:
    from igpt.data.datamodule import ImageDataModule
    from igpt.evaluation.features import FeatureKind
    from igpt.evaluation.probe_scores import LabeledFeatures, ProbeSettings, Row, Scores
    from igpt.evaluation.stream_probe import Processes
    from igpt.pretrained import Pretrained
    from igpt.run_directory import RunDirectory

SETTINGS_OF_TRAINING = ("standardize", "learning_rates", "epochs", "batch_size", "attentive_rate")  # by SGD


def main() -> None:
    """The console script."""
    exit_with_starter()
    with stop_signals.listen():
        run_app(probe, "probe")


def probe(config: DictConfig) -> None:
    """Probe every layer and the baselines; print a table, and write it with a figure to the run's probe/. Results on
    other data, or of other weights than by default, have a folder in it.
    """
    from igpt.commands.open_run import load_model, name_of_data, other_weights
    from igpt.commands.probe_report import write_results
    from igpt.run_directory import find_run
    from igpt.training.native_precision import native_precision

    check_processes(config)
    pretrained = load_model(config)
    if config.precision == "auto":
        config.precision, _ = native_precision(pretrained.device.type)
    data = probed_data(config, pretrained)
    settings = instantiate(config.probe, _convert_="all")
    check_choices(config, settings, pretrained, data)
    run = find_run(config.run)
    run.path.mkdir(parents=True, exist_ok=True)  # that of a model of the Hugging Face Hub
    with locked(run.probe_lock) if is_main_process() else nullcontext():
        solve = by_stream if settings.solver == "stream" else by_lbfgs
        rows, few = solve(config, settings, pretrained, data, run)
        if is_main_process():
            parts = [name_of_data(config, data), *other_weights(config)]
            folder = run.probe / "_".join(part for part in parts if part is not None)
            write_results(config, settings, rows, few, majority_share(data), run, folder)


def by_lbfgs(
    config: DictConfig, settings: ProbeSettings, pretrained: Pretrained, data: ImageDataModule, run: RunDirectory
) -> tuple[list[Row], list[Row]]:
    """Rows per layer, and with few labels, of probes on stored features."""
    from igpt.data.packed import cache_key
    from igpt.evaluation.features import layers_around, stored_features
    from igpt.evaluation.probe_scores import (
        accuracy_rows,
        add_accuracies,
        add_differences,
        chosen_correct,
        knn_correct,
        labeled_features,
        lbfgs_correct,
        low_label_rows,
    )
    from igpt.evaluation.room import require_room

    origin = origin_of(config, pretrained, data)
    for left_behind in run.features.glob(".*.npy"):
        left_behind.unlink()  # by a kill while it was written

    def file_of(kind: FeatureKind, split: str) -> Path:
        return run.features / f"{cache_key({**origin, **kind.key, 'split': split})}.npy"

    def stored(kind: FeatureKind) -> LabeledFeatures:
        features = {split: stored_features(kind, data, split, file_of(kind, split)) for split in splits_of(data)}
        return labeled_features(kind.name, features, data.splits, data.source.classes)

    def scores_of(kind: LabeledFeatures) -> Scores:
        correct = lbfgs_correct(kind, settings, pretrained.device)
        rows = accuracy_rows(kind, correct, settings.penalties)
        add_accuracies(rows, kind, "knn_accuracy", knn_correct(kind, settings))
        return kind, rows, chosen_correct(correct)["test"]

    to_store = feature_kinds(config, settings, pretrained, data)
    files = [file_of(kind, split) for kind in to_store for split in splits_of(data)]
    require_room(to_store, data, settings, files, pretrained.device)
    kinds = [stored(kind) for kind in to_store]
    scores = [scores_of(kind) for kind in kinds]
    if settings.concatenate:
        layers = layers_around(best_layer(scores, settings), settings.concatenate, to_store[0].shape[0])
        scores.append(scores_of(kinds[0].concatenated(layers)))
    add_differences(scores, settings.layer)
    rows = [row for _, of_kind, _ in scores for row in of_kind]
    return rows, low_label_rows(kinds, config.labels_per_class, config.subsets, settings, pretrained.device)


def by_stream(
    config: DictConfig, settings: ProbeSettings, pretrained: Pretrained, data: ImageDataModule, run: RunDirectory
) -> tuple[list[Row], list[Row]]:
    """Rows per layer of probes on features that are not stored. All processes call this; the main one uses the rows."""
    from igpt.data.packed import cache_key
    from igpt.evaluation.features import concatenated, layers_around
    from igpt.evaluation.probe_scores import (
        accuracy_rows,
        add_accuracies,
        add_differences,
        chosen_correct,
        labeled_features,
    )
    from igpt.evaluation.stream_probe import ATTENTIVE, StreamProbe

    processes = start_processes(config, pretrained)
    origin = {
        **origin_of(config, pretrained, data),
        **{name: getattr(settings, name) for name in SETTINGS_OF_TRAINING},
        "seed": data.seed,
        "augment": {"by": repr(data.augment), "images": data.training_source.key()} if settings.augment else None,
    }
    if is_main_process():
        for left_behind in run.probe.glob(".stream*.pt"):
            left_behind.unlink()  # by a kill while it was written

    def scores_of(kinds: Sequence[FeatureKind], path: Path, n_heads: int | None) -> Iterator[Scores]:
        key = cache_key({**origin, "kinds": [kind.key for kind in kinds], "n_heads": n_heads})
        probes = StreamProbe(kinds, data, settings, processes, path, key, n_heads)
        probes.fit()
        held_out = {split: probes.correct(split) for split in splits_of(data) if split != "train"}
        for kind in kinds:
            labeled = labeled_features(kind.name, {}, data.splits, data.source.classes)
            correct = {split: found[kind.name] for split, found in held_out.items()}
            rows = accuracy_rows(labeled, correct, settings.learning_rates)
            if kind.name + ATTENTIVE in held_out["test"]:
                attentive = {split: found[kind.name + ATTENTIVE][:, 0] for split, found in held_out.items()}
                add_accuracies(rows, labeled, "attentive_accuracy", attentive)
            yield labeled, rows, chosen_correct(correct)["test"]

    kinds = feature_kinds(config, settings, pretrained, data)
    n_heads = pretrained.model.config.n_head if settings.attentive else None
    scores = list(scores_of(kinds, run.probe / "stream.pt", n_heads))
    if settings.concatenate:
        layers = layers_around(best_layer(scores, settings), settings.concatenate, kinds[0].shape[0])
        scores += scores_of([concatenated(kinds[0], layers)], run.probe / "stream_concatenated.pt", None)
    add_differences(scores, settings.layer)
    return [row for _, rows, _ in scores for row in rows], []


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
        raise IgptError(f"devices={config.devices} cannot be used here: {in_one_line(error)}") from None
    device = pretrained.device if fabric.world_size == 1 else fabric.device
    pretrained.to(device)
    return Processes(fabric, device)


def best_layer(scores: Sequence[Scores], settings: ProbeSettings) -> int:
    """The layer of the first features that counts."""
    from igpt.evaluation.probe_scores import best_row

    _, rows, _ = scores[0]
    row = best_row(rows, settings.layer)
    assert row is not None  # igpt-probe requires a layer if there is no validation split
    return int(row["layer"])


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


def check_processes(config: DictConfig) -> None:
    """Raise :class:`IgptError` if torchrun or srun started another number of processes than the configuration asks for.

    Each of them would probe alone.
    """
    started, asked = started_processes(), config.devices * config.num_nodes
    if started not in (1, asked):
        raise IgptError(
            f"{started} processes were started, but devices={config.devices} num_nodes={config.num_nodes} are {asked}; "
            "set devices to the processes of a machine and num_nodes to the machines, with probe.solver=stream."
        )


def check_choices(config: DictConfig, settings: ProbeSettings, pretrained: Pretrained, data: ImageDataModule) -> None:
    """Raise :class:`IgptError` for settings that do not apply to the model, or that need held-out images."""
    from igpt.data.augment import Identity

    n_layers = pretrained.model.config.n_layer + 1
    if settings.regions > pretrained.resolution:
        side = pretrained.resolution
        raise IgptError(
            f"probe.regions is {settings.regions}, but the images have {side}x{side} pixels; choose 1 to {side}."
        )
    if settings.augment and isinstance(data.augment, Identity):
        raise IgptError("probe.augment is true, but data.augment is none; choose it with data=NAME data/augment=flip.")
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


def feature_kinds(
    config: DictConfig, settings: ProbeSettings, pretrained: Pretrained, data: ImageDataModule
) -> list[FeatureKind]:
    """The features to compare: the model's layers, the untrained network's, raw pixels, and palette histograms."""
    from igpt.evaluation.features import network_features, palette_histogram, raw_pixels, untrained
    from igpt.evaluation.labels import check_labeled, left_out

    check_labeled(data, *splits_of(data))
    for split in splits_of(data):
        n, labeled = len(data.splits[split]), data.n_labeled(split)
        if labeled < n:
            say(left_out(split, n - labeled, n, "the probes"))
    networks = {"trained": pretrained, **({"untrained": untrained(pretrained)} if config.untrained else {})}
    bfloat16 = config.precision == "bf16-mixed"
    kinds = [
        network_features(name, network, data, config.masks, settings.regions, bfloat16)
        for name, network in networks.items()
    ]
    return [*kinds, raw_pixels(data), palette_histogram(data)]


def origin_of(config: DictConfig, pretrained: Pretrained, data: ImageDataModule) -> dict[str, Any]:
    """Everything that the features of the labeled images depend on."""
    from igpt.convert.read_model import files_of
    from igpt.files import sha256

    assert pretrained.loaded_from is not None
    checkpoint = [sha256(file) for file in files_of(pretrained.loaded_from)]
    averaged = {"weights": "ema"} if pretrained.weights == "ema" else {}
    how = {"masks": config.masks, "precision": config.precision}
    return {"checkpoint": checkpoint, **averaged, "data": data.key(), **how}


def majority_share(data: ImageDataModule) -> float:
    """Test accuracy of always predicting the most frequent class of the training split."""
    import numpy as np

    train, test = (labels[labels >= 0] for labels in (data.splits[split].labels for split in ("train", "test")))
    return float((test == np.bincount(train).argmax()).mean())


def say(text: str) -> None:
    """Print, in the main process."""
    if is_main_process():
        print(text)


if __name__ == "__main__":
    main()
