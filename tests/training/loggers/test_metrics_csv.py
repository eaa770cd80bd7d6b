"""metrics.csv: what is in it, at any moment, and how much is written for a row."""

import csv
import tracemalloc

import pytest

from igpt.metrics_file import read_rows
from igpt.training.loggers.metrics_csv import MetricsCSV


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def rows(path):
    with open(path, newline="") as file:
        return [tuple(row.items()) for row in csv.DictReader(file)]


def log(metrics, steps, **values):
    for step in steps:
        metrics.log_metrics({"loss": step + 0.5, **values}, step)


def test_one_row_per_step_and_one_column_per_metric(path):
    metrics = MetricsCSV(path)
    metrics.log_metrics({"train/loss": 1.5, "epoch": 0}, 0)
    metrics.log_metrics({"val/loss": 2.5}, 0)
    metrics.log_metrics({"train/loss": 1.25}, 1)
    assert rows(path) == [(("step", "0"), ("train/loss", "1.5"), ("val/loss", "2.5"))]  # step 1 may not be complete
    metrics.finalize("failed")
    assert rows(path)[1:] == [(("step", "1"), ("train/loss", "1.25"), ("val/loss", ""))]


def test_values_of_a_written_step_join_its_row(path):
    metrics = MetricsCSV(path)
    log(metrics, range(3))
    metrics.flush()
    metrics.log_metrics({"test/loss": 9.5}, 1)
    metrics.log_metrics({"loss": 3.5}, 3)
    metrics.flush()
    assert [dict(row) for row in rows(path)] == [
        {"step": str(step), "loss": str(step + 0.5), "test/loss": "9.5" if step == 1 else ""} for step in range(4)
    ]


@pytest.mark.parametrize("cut", [0, 1, 3, 8])  # bytes of the last line "12,12.5\r\n"
def test_a_resumed_run_removes_the_rows_that_it_repeats_and_a_line_that_was_cut_off(path, cut):
    log(whole := MetricsCSV(path), range(15))
    whole.flush()
    expected = path.read_bytes()
    path.unlink()
    log(killed := MetricsCSV(path), range(13))
    killed.flush()
    path.write_bytes(found := path.read_bytes()[: path.stat().st_size - cut])
    resumed = MetricsCSV(path, first_step=12)
    log(resumed, [12])
    assert path.read_bytes() == found  # a run that is killed before it completes a step changes nothing
    log(resumed, [13, 14])
    resumed.flush()
    assert path.read_bytes() == expected


def test_a_row_costs_its_own_bytes_however_many_there_are(path):
    metrics = MetricsCSV(path)
    log(metrics, range(1000))
    metrics.flush()
    file, before = path.stat().st_ino, path.read_bytes()
    erased = b"#" * len(before)
    path.write_bytes(erased)  # which must be neither read nor rewritten
    log(metrics, range(1000, 1010))
    metrics.flush()
    assert path.stat().st_ino == file
    assert path.read_bytes() == erased + b"".join(b"%d,%d.5\r\n" % (step, step) for step in range(1000, 1010))


def test_memory_does_not_grow_with_the_rows(path):
    metrics = MetricsCSV(path)
    log(metrics, range(10))
    tracemalloc.start()
    log(metrics, range(10, 3000))
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(rows(path)) == 2999
    assert grown < 20_000  # 7 bytes per row


def test_a_write_that_failed_leaves_no_part_of_a_row(path):
    metrics = MetricsCSV(path)
    log(metrics, range(2))
    metrics.flush()
    with path.open("ab") as file:
        file.write(b"2,0.12345678901")  # as much as there was room for
    assert [row["step"] for row in read_rows(path)] == ["0", "1"]
    log(metrics, [2])
    metrics.flush()
    assert [dict(row)["loss"] for row in rows(path)] == ["0.5", "1.5", "2.5"]


@pytest.mark.parametrize("kept", [None, 0, 8, 18])  # bytes of "step,loss\r\n0,0.5\r\n..."; None: the file is deleted
def test_a_file_that_is_deleted_or_cut_during_training_is_written_anew(path, kept):
    metrics = MetricsCSV(path)
    log(metrics, range(3))
    metrics.flush()
    whole = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(whole[:kept])
    metrics.flush()  # with nothing to write
    log(metrics, [3, 4])
    metrics.flush()
    found = rows(path)
    assert [dict(row) for row in found[-2:]] == [{"step": "3", "loss": "3.5"}, {"step": "4", "loss": "4.5"}]
    assert len(found) == 2 + (kept == 18)
