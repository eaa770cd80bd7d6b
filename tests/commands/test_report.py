"""igpt-report: what it finds, what it refuses, and what is in the file. How the page works is tested in a browser."""

import html
import json
import shutil

import pytest
import yaml

from igpt.commands.report import runs_in
from igpt.reporting.overview import table_of_runs
from igpt.reporting.reported_run import ReportedRun
from igpt.run_directory import RunDirectory, write_job
from igpt.run_status import status_of
from written_run import METRICS, finish, hold_lock, owner, save_picture, write_run

HEAD = METRICS.splitlines(keepends=True)[0]


def content(file):
    """The text of a report, with the characters that HTML escapes, and without hints where lines may break."""
    return html.unescape(file.read_text(encoding="utf-8").replace("<wbr>", ""))


def test_a_moved_run_is_reported_again_over_an_earlier_report(command, tmp_path):
    finish(write_run(tmp_path / "here"))
    assert command("report", "run=here").strip() == "The report is here/report.html"
    shutil.move(tmp_path / "here", tmp_path / "there")
    (tmp_path / "there" / "report.html").write_text("earlier")
    command("report", "run=there")
    page = content(tmp_path / "there" / "report.html")
    assert str(tmp_path / "there") in page
    assert str(tmp_path / "here") not in page
    for shown in ("finished", "20 of 30", "2.875", "1,234,567", "50.0%", "90 s", "Position loss", "optim.total_steps"):
        assert shown in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


@pytest.mark.parametrize("metrics", [None, HEAD, HEAD + "0,4.5,4.5,,,,10\n", HEAD + "0,nan,nan,nan,inf,,10\n"])
def test_a_run_that_has_just_begun(command, tmp_path, metrics):
    run = write_run(tmp_path / "run", metrics or "", steps=())
    if metrics is None:
        (run / "metrics.csv").unlink()
    hold_lock(run)
    command("report", "run=run", "output=new/page.html")
    page = content(tmp_path / "new" / "page.html")
    assert "running" in page
    assert "Probes by layer" not in page
    assert ("Nothing is logged yet" in page) == (metrics in (None, HEAD))
    assert ("Not a finite number" in page) == ("nan" in (metrics or ""))


def test_statuses_of_runs(tmp_path):
    stopped, finished, failed, begun = (write_run(tmp_path / name) for name in "abcd")
    (stopped / "train.lock").write_text(json.dumps({**owner(), "process": 1, "started": "never"}))  # it was killed
    finish(finished)
    write_job(failed, status="failed")
    finish(begun)
    write_job(begun, status="failed")
    hold_lock(begun)  # it was resumed
    runs = [stopped, finished, failed, begun]
    assert [status_of(RunDirectory(run)) for run in runs] == ["interrupted", "finished", "failed", "running"]


def test_a_sweep_with_jobs_that_failed_or_wait(command, tmp_path):
    sweep = tmp_path / "sweep"
    finish(write_run(sweep / "0", lr=0.1, status="finished"))
    write_run(sweep / "1", lr=0.2, status="failed", error="It is <bad>.")
    (sweep / "slurm" / "7_2").mkdir(parents=True)
    (sweep / "slurm" / "7_2" / "job.json").write_text(
        json.dumps({"status": "pending", "overrides": ["seed=0", "optim.lr=0.4"]})
    )
    command("report", "run=sweep")
    page = content(sweep / "report.html")
    for shown in (
        "0: optim.lr=0.1",
        "1: optim.lr=0.2",
        "Job 1 failed: It is <bad>.",
        "Job 7_2 is pending: optim.lr=0.4",
    ):
        assert shown in page


def test_a_sweep_whose_jobs_all_wait(command, tmp_path):
    (tmp_path / "sweep" / "slurm" / "7_0").mkdir(parents=True)
    (tmp_path / "sweep" / "slurm" / "7_0" / "job.json").write_text(json.dumps({"status": "pending", "overrides": []}))
    with pytest.raises(SystemExit, match="No job has begun yet, so there is nothing to report. Job 7_0 is pending"):
        command("report", "run=sweep")


def test_the_best_value_is_in_the_column_of_its_metric(tmp_path):
    runs = []
    for name, monitor, mode in (("a", "val/nats_per_token", "min"), ("b", "probe/layer_1", "max")):
        run = write_run(tmp_path / name)
        (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump({"monitor": monitor, "monitor_mode": mode}))
        runs.append(ReportedRun(name, RunDirectory(run)))
    columns, rows = table_of_runs(runs)
    found = [dict(zip(columns, (cell.text for cell in row), strict=True)) for row in rows]
    assert [row["best val/nats_per_token"] for row in found] == ["2.875", ""]
    assert [row["best probe/layer_1"] for row in found] == ["", "0.75"]


def test_a_run_that_is_named_twice_keeps_what_it_has_of_its_own(command, tmp_path):
    for i, lr in enumerate((0.1, 0.2)):
        write_run(tmp_path / "sweep" / str(i), lr=lr, status="finished")
    command("report", "run=[sweep,sweep/1]")
    page = content(tmp_path / "report.html")
    assert "<title>2 runs</title>" in page
    assert "1: optim.lr=0.2" in page


def test_names_with_characters_of_html_are_text(command, tmp_path):
    name = "<img src=x onerror=alert(1)>&\"'"
    metrics = METRICS.replace("train/images_per_second", '"train/</script><b>"')
    run = write_run(tmp_path / name, metrics)
    save_picture(run / "figures" / "<b onclick='x'>.png", 1)
    command("report", f"run={name}", "output=page.html")
    source = (tmp_path / "page.html").read_text()
    assert name not in source
    assert name in content(tmp_path / "page.html")
    assert source.count("</script>") == 3
    assert "\\u003c/script\\u003e" in source


def test_a_folder_without_runs_is_refused(command, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"There is no run in empty, so there is nothing to report; give a run dir"):
        command("report", "run=empty")
    with pytest.raises(SystemExit, match="There is no run at nowhere"):
        command("report", "run=nowhere")
    with pytest.raises(SystemExit, match="There is no folder wandb:a/b/c:best, and a model by name has no report"):
        command("report", "run=wandb:a/b/c:best")
    assert list((tmp_path / "empty").iterdir()) == []


def test_output_must_be_a_page(command, tmp_path):
    write_run(tmp_path / "run")
    with pytest.raises(SystemExit, match="output is run, which is a folder; give a file, for example run/report.html"):
        command("report", "run=run", "output=run")
    with pytest.raises(SystemExit, match=r"output is run/metrics.csv; give a file that ends in .html"):
        command("report", "run=run", "output=run/metrics.csv")
    assert (tmp_path / "run" / "metrics.csv").read_text() == METRICS


def test_a_folder_with_runs_beside_a_sweep(command, tmp_path):
    """All runs are reported; jobs that were refused have no run, and are named."""
    my = tmp_path / "my"
    for name in ("one", "deeper/two"):
        write_run(my / name)
    for name, lr in (("sweep/0", 0.2), ("sweep/1", 0.3), ("other_sweep/0", 0.2)):
        write_run(my / name, lr=lr, status="finished")
    for name in ("sweep", "other_sweep"):
        (my / name / "overrides.json").write_text("[]")
    write_job(my / "sweep" / "refused" / "2", status="refused", overrides=["seed=0", "optim.lr=0.4"], error="Taken.")
    found, notes = runs_in(my)
    assert {str(run.relative_to(my)): changed for run, changed in found.items()} == {
        "other_sweep/0": [], "sweep/0": ["optim.lr=0.2"], "sweep/1": ["optim.lr=0.3"], "deeper/two": [], "one": [],
    }  # fmt: skip
    assert notes == ["Job sweep/refused/2 refused: Taken."]


def test_a_folder_of_runs_and_a_link_to_one_of_them(command, tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / "runs" / name)
    assert [path.name for path in runs_in(tmp_path / "runs")[0]] == ["a", "b"]
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "a")
    command("report", "run=[runs,link]")
    page = content(tmp_path / "report.html")
    assert "<title>2 runs</title>" in page
