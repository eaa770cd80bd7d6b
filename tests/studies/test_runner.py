"""Runs of a study are trained once, recorded as soon as they end, and resumed after an interruption."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from studies.results import append_result, read_results
from studies.runner import main, run_study, train_run
from studies.study import Choice, Study

from conftest import ended, wait_until
from igpt.errors import IgptError

ROOT = Path(__file__).parents[2]
STUDY = {
    "common": [
        "experiment=emoji_ar", "logger=csv", "callbacks=none", "data.source.resolution=8", "tokenizer.size=16",
        "data.eval_batch_size=512", "model.n_layer=1", "model.n_embd=32", "trainer.val_check_interval=60",
        "save_every=1", "sample_every=null", "trainer.precision=32-true",
    ],
    "settings": {"tiny": {"overrides": []}},
    "bases": {"adam": {"overrides": ["optim=adam"], "rate": "optim.lr", "values": [0.003, 0.001]}},
    "rounds": [
        {"trials": ["adam"], "settings": ["tiny"], "steps": 60, "rates": "all"},
        {"trials": ["adam"], "settings": ["tiny"], "steps": 60, "rates": "best", "seeds": [0, 1]},
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """The folder of a study."""
    (tmp_path / "study.yml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return tmp_path


def result(run, loss=1.0):
    return {"trial": run.trial, "rate": run.rate, "seed": run.seed, "overrides": list(run.overrides),
            "test_nats": loss, "validation_nats": loss, "seconds": 1.0}  # fmt: skip


# Results


def test_rows_of_several_processes_are_all_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: append_result(path, {"number": number}), range(40)))
    assert sorted(row["number"] for row in read_results(path)) == list(range(40))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(IgptError, match="results.jsonl has a line that is not JSON"):
        read_results(tmp_path / "results.jsonl")
    assert read_results(tmp_path / "none.jsonl") == []


# Runs, without training


def run_all(folder, train, jobs=2, hours=None):
    results = folder / "results.jsonl"
    failed = run_study(Study.read(folder / "study.yml"), Choice(), results, folder, jobs, hours, train)
    return failed, [(row["rate"], row["seed"]) for row in read_results(results)]


def test_the_best_rate_is_used_as_soon_as_it_is_known(folder):
    failed, rows = run_all(folder, lambda run, out, threads: result(run, loss=run.rate))
    assert failed == []
    assert sorted(rows) == [(0.001, 0), (0.001, 1), (0.003, 0)]
    assert run_all(folder, None) == ([], rows)  # nothing is left to train


def test_no_more_than_the_jobs_run_at_a_time(folder):
    both = threading.Barrier(2, timeout=60)

    def train(run, out, threads):
        if run.seed == 0:
            both.wait()  # two run at the same time
        return result(run)

    assert len(run_all(folder, train)[1]) == 3
    (folder / "results.jsonl").unlink()
    alone = threading.Lock()

    def train_alone(run, out, threads):
        assert alone.acquire(blocking=False)
        alone.release()
        return result(run)

    assert len(run_all(folder, train_alone, jobs=1)[1]) == 3


def test_a_run_that_fails_does_not_stop_the_others(folder):
    def train(run, out, threads):
        if run.rate == 0.003:
            raise IgptError("The loss is not finite.")
        return result(run)

    failed, rows = run_all(folder, train)
    assert [run.rate for run in failed] == [0.003]
    assert rows == [(0.001, 0), (0.001, 1)]


def test_no_run_is_started_after_the_deadline(folder):
    assert run_all(folder, None, hours=0) == ([], [])


def test_the_list_counts_finished_and_known_runs(folder, capsys):
    main(folder, ["--list"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("1. 0 of 2 done (0.0 h): adam on tiny; 60 steps; rates all")
    assert second.startswith("2. 0 of 0 done")
    run_all(folder, lambda run, out, threads: result(run))
    capsys.readouterr()
    main(folder, ["--list", "--rounds", "2", "--seeds", "1"])
    assert capsys.readouterr().out.startswith("2. 1 of 1 done")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "adam", "sgd"], "No trial is sgd; choose of adam."),
        (["--settings", "huge"], "No setting is huge; choose of tiny."),
        (["--seeds", "0", "7"], "No seed is 7; choose of 0, 1."),
        (["--rounds", "3"], "No round is 3; choose of 1, 2."),
    ],
)
def test_a_choice_without_a_run_is_refused(arguments, said, folder):
    with pytest.raises(SystemExit, match=said):
        main(folder, arguments)


def test_no_jobs_are_refused(folder, capsys):
    with pytest.raises(SystemExit):
        main(folder, ["--jobs", "0"])
    assert "--jobs is 0; it must be at least 1." in capsys.readouterr().err


# Training


def test_a_killed_study_resumes_and_records_the_run_once(folder):
    one = {"adam": {"overrides": ["optim=adam", "optim.lr=0.003"]}}
    (folder / "study.yml").write_text(yaml.safe_dump({**STUDY, "bases": one}))
    command = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'experiments')!r}); from pathlib import Path; "
        f"from studies.runner import main; main(Path({str(folder)!r}))"
    )
    arguments = ["--out", str(folder / "out"), "--only", "adam", "--rounds", "1", "--jobs", "1"]
    study = subprocess.Popen([sys.executable, "-c", command, *arguments])
    wait_until(lambda: list(folder.glob("out/adam/*/checkpoints/last.ckpt")))
    (lock,) = folder.glob("out/adam/*/train.lock")
    trained_by = json.loads(lock.read_text())["process"]
    os.kill(study.pid, signal.SIGKILL)
    study.wait()
    wait_until(lambda: ended(trained_by))  # also the process that trains
    assert read_results(folder / "results.jsonl") == []

    subprocess.run([sys.executable, "-c", command, *arguments], check=True)
    (row,) = read_results(folder / "results.jsonl")
    (run,) = folder.glob("out/adam/*")
    assert "Resuming" in (run / "output.log").read_text()
    assert (row["trial"], row["setting"], row["seed"], row["rate"], row["steps"]) == ("adam", "tiny", 0, None, 60)
    assert row["tokens"] == 60 * 16 * 64
    assert row["flops"] == 60 * 16 * (6 * 64 * (12 * 32**2 + 16 * 32) + 12 * 32 * 64**2)
    summary = json.loads((run / "summary.json").read_text())
    assert row["test_nats"] == pytest.approx(summary["test/nats_per_token"], abs=1e-5)
    assert row["parameters"] == summary["parameters"]
    assert row["precision"] == "32-true"


def test_a_run_without_a_result_is_named_with_the_last_line_of_its_log(folder, capsys):
    wrong = {**STUDY, "common": ["experiment=emoji_ar", "logger=csv", "model.n_layer=0"]}
    (folder / "study.yml").write_text(yaml.safe_dump(wrong))
    arguments = ["--out", str(folder / "out"), "--results", str(folder / "results.jsonl")]
    with pytest.raises(SystemExit, match="2 runs failed: adam on tiny, 60 steps, rate 0.00"):
        main(folder, arguments)
    assert "model.n_layer is 0; it must be a whole number of at least 1." in capsys.readouterr().out
    assert not (folder / "results.jsonl").exists()


def test_a_summary_without_a_measured_value_is_named(folder):
    """Such as that of a masked model, which has no likelihood. The run counts as failed, and the others continue."""
    run, *_ = Study.read(folder / "study.yml").runs(Study.read(folder / "study.yml").rounds[0], [])
    (folder / run.folder).mkdir(parents=True)
    (folder / run.folder / "summary.json").write_text('{"test/masked_nats_per_token": 1.0}')
    with pytest.raises(IgptError, match=r"summary\.json lacks test/nats_per_token; remove the folder"):
        train_run(run, folder, threads=1)
