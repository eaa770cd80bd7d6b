import io
import logging
import re

import numpy as np
import pytest
import rich
import torch
from rich.console import Console

from conftest import SMALL
from igpt import progress
from igpt.data.sources import SPLITS
from igpt.evaluation.probe_scores import LabeledFeatures, ProbeSettings, knn_correct, low_label_rows
from igpt.progress import Progress, track
from igpt.training.callbacks.training_progress import metric_texts


class Clock:
    """A clock that advances only on request."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


@pytest.fixture
def lines(caplog):
    """What is logged, as a function."""
    caplog.set_level(logging.INFO, "igpt")
    return lambda: caplog.messages


@pytest.fixture
def terminal(monkeypatch):
    """A terminal that remembers what was written to it."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    yield console
    assert progress._Row.display is None  # no bar is left


def seen(console):
    """The text on a terminal, without what moves its cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def test_without_a_terminal_a_line_now_and_then_says_the_share_and_the_time_left(clock, lines):
    for _ in track(range(100), "Counting"):
        clock.now += 1
    assert lines() == [
        "Counting: 7%, 93 s left", "Counting: 37%, 63 s left", "Counting: 67%, 33 s left", "Counting: 97%, 3 s left",
    ]  # fmt: skip


def test_what_is_soon_over_says_nothing(clock, lines):
    for _ in track(range(6), "Counting"):
        clock.now += 1
    assert lines() == []


def test_work_of_unknown_size_says_how_much_is_done(clock, lines):
    for _ in track((i for i in range(2000)), "Listing"):
        clock.now += 0.01
    assert lines() == ["Listing: 700 so far"]


def test_what_was_done_before_does_not_count_as_speed(clock, lines):
    with Progress("Packing", total=1000, done=900) as bar:
        clock.now += 10
        bar.advance(10)
    assert lines() == ["Packing: 91%, 90 s left"]


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_of_several_processes_the_first_alone_says_something(name, clock, lines, monkeypatch):
    monkeypatch.setenv(name, "1")
    for _ in track(range(100), "Counting"):
        clock.now += 1
    assert lines() == []


def test_on_a_terminal_bars_appear_after_a_moment_and_share_the_display(clock, terminal, lines):
    with Progress("Outer", total=10) as outer, Progress("Inner", total=4) as inner:
        outer.advance()
        inner.advance()
        assert seen(terminal) == ""
        clock.now += 10
        outer.advance()
        inner.advance()
        progress._Row.display.refresh()
        assert re.search(r"Outer .*20%, 40 s left", seen(terminal))
        assert re.search(r"Inner .*50%, 10 s left", seen(terminal))
    assert lines() == []


def test_a_loop_that_is_left_early_takes_its_bar_along(clock, terminal):
    for i in track(range(10), "Counting"):
        clock.now += 2
        if i == 5:
            break
    assert "Counting" in seen(terminal)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of rich's thread
@pytest.mark.parametrize("when", [0, 10])
def test_a_terminal_that_goes_away_stops_nothing(when, clock, terminal, monkeypatch):
    done = []
    for i in track(range(100), "Counting"):
        clock.now += 1
        done.append(i)
        if i == when:

            def gone(*_):
                raise OSError(5, "Input/output error")

            monkeypatch.setattr(terminal.file, "write", gone, raising=False)
    assert done == list(range(100))


class Recorder:
    """The work that was under way: what, how much of how much."""

    def __init__(self, monkeypatch):
        self.closed = []
        close = Progress.close
        monkeypatch.setattr(Progress, "close", lambda bar: (self.closed.append(bar), close(bar)))

    def complete(self):
        return {bar.description for bar in self.closed if bar.done == bar.total}

    def incomplete(self):
        return {bar.description for bar in self.closed if bar.done != bar.total}


@pytest.fixture
def work(monkeypatch):
    return Recorder(monkeypatch)


def test_sampling_counts_each_position_of_each_batch(trained, command, work):
    command("sample", f"run={trained}", "n=70", "completions=2", "n_images=3")
    assert [bar.total for bar in work.closed if bar.description == "Sampling"] == [2 * 64, 32]
    assert work.incomplete() == set()


def test_evaluation_counts_its_batches(trained, command, work):
    command("evaluate", f"run={trained}")
    (evaluation,) = [bar for bar in work.closed if bar.description == "Evaluating the test split"]
    assert evaluation.done == evaluation.total == 1  # of 512 images


def test_probes_count_layers_and_subsets(work):
    features = {split: np.random.default_rng(0).normal(size=(2, 20, 3)).astype(np.float32) for split in SPLITS}
    data = LabeledFeatures("random", features, {split: np.arange(20) % 2 for split in SPLITS}, ("even", "odd"))
    knn_correct(data, ProbeSettings(neighbors=3))
    low_label_rows([data], [2, 4], 2, ProbeSettings(), torch.device("cpu"))
    assert work.complete() == {"Searching neighbors", "Fitting probes with few labels", "Probing layers"}
    assert work.incomplete() == {"Fitting probes, at most"}  # which converge earlier


def test_packing_and_palette_count_images(command, work, monkeypatch, tmp_path):
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path / "cache"))
    command("palette", "tokenizer.size=4", "data.source.resolution=8", "hydra.run.dir=out")
    assert work.complete() >= {"Packing emoji", "Counting colors", "Checksum of train.images.npy"}
    assert work.incomplete() == set()
    (packing,) = [bar for bar in work.closed if bar.description == "Packing emoji"]
    assert packing.total == 3781


def test_training_says_what_it_does_and_how_far_it_is(command, work, monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "LINE_AFTER", 0)
    monkeypatch.setattr("igpt.training.callbacks.training_progress.LINE_EVERY", 0)
    command(
        "train", *SMALL, "trainer.max_steps=4", "trainer.val_check_interval=2", "sample_every=2", "hydra.run.dir=run"
    )
    log = (tmp_path / "run" / "train.log").read_text().splitlines()
    lines = [line.partition(": ")[2] for line in log]
    assert work.complete() >= {"Training", "Validating", "Sampling", "Evaluating the test split"}
    assert work.incomplete() == set()
    steps = [line for line in lines if line.startswith("Training: ")]
    assert [re.split("[,;]", line)[0] for line in steps] == [f"Training: {share}%" for share in (25, 50, 75, 100)]
    assert all(re.search(r", [\d.]+ (s|minutes) left; ", line) for line in steps[:-1])
    assert steps[-1].startswith("Training: 100%; step 4/4, loss")
    assert re.search(r"; step 3/4, loss \d\.\d+, val/nats_per_token \d\.\d+, \d+ images/s", steps[2])
    assert [line for line in lines if re.match(r"step 2/4: loss .* left$", line)]


def test_lines_show_what_is_monitored():
    metrics = {"val/accuracy": torch.tensor(0.25), "val/nats_per_token": torch.tensor(1.5)}
    assert metric_texts(metrics, "val/accuracy") == ["val/nats_per_token 1.5000", "val/accuracy 0.2500"]
    assert metric_texts(metrics, "val/nats_per_token") == ["val/nats_per_token 1.5000"]
    assert metric_texts({}, "val/accuracy") == []
    metrics = {"train/loss": torch.tensor(3.0), "train/nats_per_token": torch.tensor(2.0)}
    assert metric_texts(metrics, "val/accuracy") == ["loss 3.0000"]  # the one that is optimized
