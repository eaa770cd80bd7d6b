"""Probes of features that are not stored: SGD as torch's, agreement with L-BFGS, exact continuation, flat memory."""

import multiprocessing
import os
import signal
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch.nn import functional as F

from igpt.cluster.signals import stop_signals
from igpt.data.datamodule import ImageDataModule
from igpt.data.packed import PackedImages
from igpt.data.sources import SPLITS, Chunk
from igpt.data.stream import Share
from igpt.errors import IgptError
from igpt.evaluation import room
from igpt.evaluation.features import (
    FeatureKind,
    concatenated,
    layers_around,
    network_features,
    palette_histogram,
    raw_pixels,
    stored_features,
)
from igpt.evaluation.probe_heads import AttentiveHead, AttentiveHeads, LinearHeads
from igpt.evaluation.probe_scores import ProbeSettings, accuracy_rows, labeled_features, linear_rows
from igpt.evaluation.room import left_in_cgroups, require_room
from igpt.evaluation.stream_probe import ATTENTIVE, Processes, StreamProbe
from igpt.objectives.tasks import Autoregressive
from igpt.pretrained import Pretrained
from igpt.tokenizers import Gray

CPU = torch.device("cpu")


def test_a_step_equals_torchs_sgd():
    """On raw features with the cosine schedule, for each layer and learning rate by itself."""
    n_layers, n, width, n_classes, rates, steps = 3, 40, 6, 4, [0.5, 0.1], 12
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n_layers, n, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(n_classes, (n,), generator=generator)
    mean, deviation = features.mean(dim=1), features.std(dim=1)
    heads = LinearHeads(mean, deviation, torch.tensor(rates, dtype=torch.float64), n_classes)
    for step in range(steps):
        gradient, _ = heads.gradient(features, labels)
        heads.step(gradient / n, (1 + np.cos(np.pi * step / steps)) / 2)
    for layer, x in enumerate((features - mean[:, None]) / deviation[:, None]):
        for index, rate in enumerate(rates):
            linear = torch.nn.Linear(width, n_classes, dtype=torch.float64)
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
            optimizer = torch.optim.SGD(linear.parameters(), lr=rate, momentum=0.9)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
            for _ in range(steps):
                optimizer.zero_grad()
                F.cross_entropy(linear(x), labels).backward()
                optimizer.step()
                schedule.step()
            ours = heads.weight[layer].unflatten(-1, (len(rates), n_classes))[:, index]  # (C + 1, K)
            torch.testing.assert_close(ours[:-1], linear.weight.detach().T, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(ours[-1], linear.bias.detach(), atol=1e-9, rtol=1e-9)
            assert torch.equal(heads.predict(features)[layer, index], linear(x).argmax(dim=-1))


def test_attention_pooling_equals_its_formula():
    torch.manual_seed(0)
    head, x = AttentiveHead(width=6, n_heads=2, n_classes=3), torch.randn(5, 7, 6)
    torch.nn.init.normal_(head.classifier.weight)
    keys, values = (x @ head.key_value.weight.T).split(6, dim=-1)
    pooled = []
    for h in (slice(0, 3), slice(3, 6)):
        scores = (keys[..., h] @ head.query[h] / 3**0.5).softmax(dim=1)  # (B, T)
        pooled.append((scores[..., None] * values[..., h]).sum(dim=1))
    expected = torch.cat(pooled, dim=-1) @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(head(x), expected)


def test_the_gradients_of_attention_pooling_are_those_of_all_layers_together():
    heads = AttentiveHeads(n_layers=2, width=6, n_heads=2, n_classes=3, seed=0)
    for head in heads.layers:
        torch.nn.init.normal_(head.classifier.weight)
    sequences, labels = torch.randn(2, 5, 7, 6), torch.tensor([0, 1, 2, 1, 0])
    with torch.no_grad():
        means, classes = heads(iter(sequences), labels)
    ours = [parameter.grad for parameter in heads.parameters()]
    loss = sum(
        F.cross_entropy(head(x), labels, reduction="sum") for head, x in zip(heads.layers, sequences, strict=True)
    )
    for gradient, expected in zip(ours, torch.autograd.grad(loss, heads.parameters()), strict=True):
        torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(means, sequences.mean(dim=2))
    assert classes.shape == (2, 5)


@dataclass(frozen=True)
class Blobs:
    """Noisy images of four classes, each with a mean image of its own."""

    n: int = 3000
    resolution: int = 4
    name: str = "blobs"
    classes: tuple[str, ...] = ("a", "b", "c", "d")

    def key(self):
        return {"n": self.n}

    def sizes(self):
        return dict.fromkeys(SPLITS, self.n)

    def read(self, split, start, stop):
        rng = np.random.default_rng([SPLITS.index(split), start])
        labels = rng.integers(4, size=stop - start)
        centers = np.random.default_rng(7).normal(128, 12, size=(4, 4, 4, 3))
        images = np.clip(centers[labels] + rng.normal(0, 30, size=(stop - start, 4, 4, 3)), 0, 255)
        return Chunk(images.astype(np.uint8), labels)


def blobs(folder, n=3000):
    data = ImageDataModule(Blobs(n), batch_size=100, cache_dir=str(folder), eval_batch_size=500, tokenizer=Gray())
    data.prepare_data()
    data.setup()
    return data


def two_layers(at_batch=lambda number: None):
    """Features of two layers, random maps of the pixels; `at_batch` is called with the number of each batch."""
    maps = torch.randn(2, 48, 10, generator=torch.Generator().manual_seed(0))
    numbers = count()

    def sequences(batch):
        at_batch(next(numbers))
        pixels = batch.images.flatten(1).float() / 255
        return iter(torch.stack([pixels @ maps, (pixels @ maps).square()], dim=2))  # (B, 2, C) of each layer

    def pooled(batch):
        return torch.stack([x.mean(dim=1) for x in sequences(batch)])

    return FeatureKind("maps", (2, 10), pooled, sequences, 500)


def stream(kinds, data, path, **settings):
    settings = ProbeSettings(solver="stream", **settings)
    return StreamProbe(kinds, data, settings, Processes(Fabric(accelerator="cpu"), CPU), path, "key", n_heads=2)


def test_stream_and_lbfgs_agree_within_a_point(tmp_path):
    data = blobs(tmp_path)
    kinds = [raw_pixels(data), two_layers()]
    probes = stream(kinds, data, tmp_path / "stream.pt", epochs=10, batch_size=100)
    probes.fit()
    correct = {split: probes.correct(split) for split in ("validation", "test")}
    for kind in (*kinds, concatenated(kinds[1], range(2))):
        stored = {split: stored_features(kind, data, split, tmp_path / f"{kind.name} {split}.npy") for split in SPLITS}
        by_lbfgs = linear_rows(labeled_features(kind.name, stored, data.splits, "abcd"), ProbeSettings(), CPU)
        if kind in kinds:
            held_out = {split: found[kind.name] for split, found in correct.items()}
            labeled = labeled_features(kind.name, {}, data.splits, "abcd")
            by_stream = accuracy_rows(labeled, held_out, probes.settings.learning_rates)
            for ours, theirs in zip(by_stream, by_lbfgs, strict=True):
                assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.01)
                assert 0.4 < ours["test_accuracy"] < 0.95  # of four classes; neither chance nor too easy
    attentive = correct["test"]["maps" + ATTENTIVE]
    assert attentive.shape == (2, 1, 3000)
    assert (attentive.mean(axis=2) > 0.4).all()


def fit_until_killed(folder):
    def kill(number):
        if number == 45:  # of 30 for the statistics, and 30 for training
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    stream([two_layers(kill)], blobs(folder), folder / "stream.pt", epochs=1, batch_size=100, save_every=4).fit()


def test_a_killed_probe_continues_bitwise(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = stream([two_layers()], blobs(tmp_path), tmp_path / "whole.pt", epochs=1, batch_size=100)
        whole.fit()
        process = multiprocessing.get_context("spawn").Process(target=fit_until_killed, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        resumed = stream([two_layers()], blobs(tmp_path), tmp_path / "stream.pt", epochs=1, batch_size=100)
        assert resumed.step == 12  # the last multiple of four before the kill
        resumed.fit()
    finally:
        torch.set_num_threads(threads)
    assert len(resumed.heads.state_dict()) == len(whole.heads.state_dict())
    for name, value in whole.heads.state_dict().items():
        assert torch.equal(resumed.heads.state_dict()[name], value), name
    assert (resumed.correct("test")["maps"] == whole.correct("test")["maps"]).all()


def test_a_signal_saves_after_the_step(tmp_path):
    def interrupt(number):
        if number == 45:  # in step 16 of training, after 30 batches for the statistics
            os.kill(os.getpid(), signal.SIGTERM)

    data, settings = blobs(tmp_path), {"epochs": 1, "batch_size": 100}
    whole = stream([two_layers()], data, tmp_path / "whole.pt", **settings)
    whole.fit()
    with pytest.raises(SystemExit, match="130"), stop_signals.listen():
        stream([two_layers(interrupt)], data, tmp_path / "stream.pt", **settings).fit()
    with stop_signals.listen():  # without the signal of before
        resumed = stream([two_layers()], data, tmp_path / "stream.pt", **settings)
        assert resumed.step == 16
        resumed.fit()
    for name, value in whole.heads.state_dict().items():
        assert torch.equal(resumed.heads.state_dict()[name], value), name


def test_attention_pooling_sees_a_batch_in_parts_that_the_model_takes(tmp_path):
    data, sizes = blobs(tmp_path, 200), []
    whole = two_layers()

    def sequences(batch):
        sizes.append(len(batch.images))
        return whole.sequences(batch)

    states = []
    for at_once in (100, 30):
        kind = FeatureKind("maps", whole.shape, whole.pooled, sequences, at_once)
        probes = stream([kind], data, tmp_path / f"{at_once}.pt", epochs=2, batch_size=100)
        probes.fit()
        states.append(probes.heads.state_dict())
    assert sizes == 4 * [100] + 4 * [30, 30, 30, 10]
    assert states[0]["1.maps.layers.0.query"].abs().max() > 0
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-4, rtol=1e-4)


def test_a_process_without_images_takes_part_in_the_sum(tmp_path):
    data = blobs(tmp_path, 200)
    probes = stream([two_layers()], data, tmp_path / "stream.pt", epochs=1, batch_size=100)
    probes.share = Share(400, 300, 400)  # the 301st of 400 processes, for 200 images
    correct = probes.correct("test")
    assert correct["maps"].shape == (2, 9, 200)
    assert correct["maps" + ATTENTIVE].shape == (2, 1, 200)
    assert not correct["maps"].any()


@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_what_the_cgroups_leave(tmp_path, version):
    membership, root = tmp_path / "cgroup", tmp_path / "sys"
    assert left_in_cgroups(membership, root) == 2**62
    top = root if version == 2 else root / "memory"
    job, task = top / "slurm" / "job_7", top / "slurm" / "job_7" / "task_0"
    task.mkdir(parents=True)
    if version == 2:
        membership.write_text("0::/slurm/job_7/task_0\n")
        limit, usage, cache, unlimited = "memory.max", "memory.current", "inactive_file", "max"
    else:
        membership.write_text("3:cpu:/\n2:memory:/slurm/job_7/task_0\n0::/\n")
        limit, usage, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        unlimited = str(2**63 - 4096)
    for folder, maximum in ((task, unlimited), (job, "1000")):  # SLURM limits the job, not its tasks
        (folder / limit).write_text(maximum + "\n")
        (folder / usage).write_text("700\n")
        (folder / "memory.stat").write_text(f"anon 500\n{cache} 200\n")
    assert left_in_cgroups(membership, root) == 1000 - 700 + 200


def test_candidates_are_ordered_by_their_regularization():
    settings = ProbeSettings(penalties=[1, 0.1, 10], learning_rates=[0.1, 30])
    assert settings.penalties == (0.1, 1, 10)
    assert settings.learning_rates == (30, 0.1)


def test_probes_of_another_key_are_replaced(tmp_path):
    data = blobs(tmp_path, 200)
    first = stream([raw_pixels(data)], data, tmp_path / "stream.pt", epochs=1)
    first.fit()
    settings, processes = ProbeSettings(solver="stream", epochs=1), first.processes
    assert StreamProbe([raw_pixels(data)], data, settings, processes, tmp_path / "stream.pt", "key").step == first.steps
    assert StreamProbe([raw_pixels(data)], data, settings, processes, tmp_path / "stream.pt", "other").step == 0


class ManyImages:
    """The data of a probe with n images that take no memory."""

    def __init__(self, n):
        images = np.broadcast_to(np.uint8(100), (n, 4, 4, 3))
        self.images = PackedImages(images, np.arange(n) % 4, np.arange(n))
        self.source = Blobs(n)

    def n_labeled(self, split):
        return len(self.images)

    def labeled_stream(self, share, start, augment, device):
        return blobs_stream(self.images, share, start)


def blobs_stream(images, share, start):
    from igpt.data.stream import TrainingStream

    return iter(TrainingStream(images, share, 0, start))


def peak_memory():
    """The peak of this process's memory since the last reset, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts the peak of a process's memory")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Stored, the features of 100,000 images would take 410 MB."""
    maps = torch.randn(4, 48, 256)
    kind = FeatureKind("maps", (4, 256), lambda batch: batch.images.flatten(1).float() @ maps)
    peaks = []
    for n in (5_000, 100_000):
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_memory()
        stream([kind], ManyImages(n), tmp_path / f"{n}.pt", epochs=1, batch_size=1000, learning_rates=[0.1]).fit()
        peaks.append(peak_memory() - before)
    assert peaks[1] < peaks[0] + 150


def test_an_interrupted_extraction_leaves_nothing_and_starts_again(tmp_path):
    data, path = blobs(tmp_path), tmp_path / "features" / "maps.npy"

    def fail(number):
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored_features(two_layers(fail), data, "test", path)
    assert list(path.parent.iterdir()) == []
    stored = stored_features(two_layers(), data, "test", path)
    assert isinstance(stored, np.memmap)
    batches = data.labeled_images("test")
    np.testing.assert_array_equal(stored, torch.cat([two_layers().pooled(b) for b in batches], dim=1).numpy())
    assert stored_features(two_layers(fail), data, "test", path).shape == (2, 3000, 10)


def test_a_histogram_counts_the_colors_of_each_image(tmp_path):
    data = blobs(tmp_path, 50)
    (batch,) = data.labeled_images("test")
    counts = [np.bincount(tokens, minlength=256) for tokens in data.tokenize(batch).tokens.numpy()]
    np.testing.assert_allclose(palette_histogram(data).pooled(batch)[0].numpy(), np.stack(counts) / 16)


def test_layers_around_one_stay_within_the_network():
    assert layers_around(6, 5, 13) == range(4, 9)
    assert layers_around(0, 5, 13) == range(5)
    assert layers_around(12, 5, 13) == range(8, 13)
    assert layers_around(2, 4, 4) == range(4)


def test_processes_divide_a_batch(tmp_path):
    data = blobs(tmp_path, 200)
    whole = next(data.labeled_stream(Share(64), 3, False, CPU))
    parts = [next(data.labeled_stream(Share(64, rank, 2), 3, False, CPU)) for rank in (0, 1)]
    assert torch.equal(torch.cat([part.indices for part in parts]), whole.indices)
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)


def test_features_that_do_not_fit_are_refused(tmp_path, monkeypatch, tiny):
    data, file = blobs(tmp_path), tmp_path / "features" / "a.npy"
    pretrained = Pretrained(tiny, Gray(), Autoregressive())  # 2 layers of width 16
    kinds = [network_features(name, pretrained, data) for name in ("trained", "untrained")]
    kinds += [raw_pixels(data), palette_histogram(data)]

    def require(kinds=kinds, **settings):
        require_room(kinds, data, ProbeSettings(**settings), [file], CPU)

    require()
    disk = 4 * 9000 * (2 * 3 * 16 + 48 + 256)  # bytes; raw pixels have 48 channels, and the histogram has 256
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=disk - 1))
    with pytest.raises(IgptError, match=r"9,000 images and of the baselines take 0.0144 GB .*probe.solver=stream"):
        require()
    require(kinds[1:])
    file.parent.mkdir()
    (file.parent / "another.npy").write_bytes(bytes(10**7))  # of another probe
    with pytest.raises(IgptError, match="take 0.0144 GB"):
        require()
    (file.parent / "another.npy").rename(file)
    require()
    monkeypatch.setattr(room, "available_memory", lambda device: 1_000_000)
    with pytest.raises(IgptError, match="and a fit 0.0283 GB of memory, but .* and 0.001 GB are free"):
        require()  # 4 * 256 * (3 * 9000 + 25 * 6 * 4) bytes
    with pytest.raises(IgptError, match="and a fit 0.00537 GB of memory"):
        require(kinds[:3])  # of raw pixels: 4 * (48 * (3 * 9000 + 25 * 6 * 4) + 2 * 4 * 48 * 48) bytes
    with pytest.raises(IgptError, match="and a fit 0.00537 GB of memory"):
        require(kinds[:2], concatenate=3)  # of three layers
    with pytest.raises(IgptError, match="and a fit 0.00177 GB of memory"):
        require(kinds[:2])  # of one


def test_a_narrow_layer_whose_curvature_pays_may_need_most_memory(tmp_path, monkeypatch):
    """Of 3,000 training images up to 173 features have it: 170 with curvature take more than 174 without."""
    data = blobs(tmp_path)
    monkeypatch.setattr(room, "available_memory", lambda device: 0)
    kinds = [FeatureKind(str(width), (1, width), None) for width in (174, 170)]
    assert [room.curvature_pays(data.n_labeled("train"), kind.shape[1], 4) for kind in kinds] == [False, True]
    memory = 4 * (170 * (3 * 9000 + 25 * 6 * 4) + 2 * 4 * 170**2)
    with pytest.raises(IgptError, match=f"a fit {memory / 1e9:.3g} GB of memory"):
        require_room(kinds, data, ProbeSettings(), [tmp_path / "a.npy"], CPU)
