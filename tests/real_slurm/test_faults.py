"""Faults on a real SLURM: whatever happens to a job, its losses are bitwise those of an undisturbed run.

`make test-cluster` runs these; they take ten minutes and need Debian's munge, slurmctld, slurmd and slurm-client.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import slurm
from slurm import Cluster, wait_until

from conftest import SMALL
from tracking_server import w_and_b_server

if not os.environ.get("IGPT_TEST_CLUSTER"):
    pytest.skip("these tests start their own SLURM: make test-cluster", allow_module_level=True)
if slurm.missing():
    pytest.skip(f"no SLURM can be started without {', '.join(slurm.missing())}", allow_module_level=True)

SCRIPTS = Path(__file__).parents[2] / "examples" / "sbatch"
STEPS = 200
RECIPE = (
    *SMALL, "trainer=cpu", "callbacks=none", "trainer.val_check_interval=100", "sample_every=999", "save_every=10",
    f"optim.total_steps={STEPS}", f"trainer.max_steps={STEPS}", "data.num_workers=2",  # which get the signals too
)  # fmt: skip
SLOW = ("+callbacks.slow._target_=slow.Slow", "+callbacks.slow.seconds=0.05")  # time for events during training
LAUNCH = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        running.environment.update(
            IGPT_CACHE=str(tmp_path_factory.mktemp("cache")), OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive",
            PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        )  # fmt: skip
        running.environment.pop("WANDB_API_KEY", None)
        yield running


@pytest.fixture(scope="module")
def whole(cluster, tmp_path_factory):
    """The losses of undisturbed runs: of one process, and of two."""
    folder = tmp_path_factory.mktemp("whole")
    for name, processes in (("one", 1), ("two", 2)):
        cluster.run("igpt-train", *RECIPE, f"trainer.devices={processes}", f"hydra.run.dir={name}", cwd=folder)
    return {name: losses(folder / name) for name in ("one", "two")}


def losses(run):
    with open(run / "metrics.csv") as file:
        return {int(row["step"]): row["train/nats_per_token"] for row in csv.DictReader(file)}


def launch(cluster: Cluster, cwd, *overrides):
    """Start a sweep, and return the process that waits for its jobs."""
    command = ["igpt-train", "-m", *RECIPE, *LAUNCH, "hydra.sweep.dir=sweep", *overrides]
    return subprocess.Popen(
        command, cwd=cwd, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def submit(cluster: Cluster, cwd, *overrides, tasks=1, options=(), script="igpt.sbatch"):
    """Submit a run by one of the example scripts, and return the job and its run directory."""
    size = (f"--ntasks-per-node={tasks}", "--gpus-per-node=0", "--cpus-per-task=1", "--partition=low", "--time=60")
    job = cluster.submit(*size, *options, SCRIPTS / script, *RECIPE, *overrides, cwd=cwd)
    return job, cwd / "outputs" / "slurm" / job


def starts(run):
    """How often the run was started or resumed."""
    return len(re.findall(r"Training in|Resuming", (run / "train.log").read_text()))


def wait_for_training(run, after=0.0):
    """Wait until the run has saved a checkpoint after that time."""
    last = run / "checkpoints" / "last.ckpt"
    wait_until(lambda: last.exists() and last.stat().st_mtime > after, f"no step was trained in {run}", 150)


def finished(run):
    return json.loads((run / "summary.json").read_text())["steps"]


def job_name(cluster, job):
    """The name of a job of an array in squeue."""
    fields = cluster.jobs()[job]
    return f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}" if "ArrayJobId" in fields else job


def tracked(run):
    """The IDs under which W&B knows this run."""
    return {path.name.rpartition("-")[2] for path in (run / "wandb").glob("*run-*")}


def log_of(cwd):
    return "".join(path.read_text() for path in cwd.glob("igpt-*.log"))


@pytest.mark.long
def test_a_run_resumes_after_a_time_limit(cluster, whole, tmp_path):
    # SLURM counts minutes and may send the warning up to a minute early; slow steps make the run longer than that.
    slow = ("+callbacks.slow._target_=slow.Slow", "+callbacks.slow.seconds=0.5")
    sweep = launch(
        cluster, tmp_path, *slow, "hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=30", "seed=0"
    )
    output, _ = sweep.communicate(timeout=500)
    run = tmp_path / "sweep" / "0"
    assert sweep.returncode == 0, output
    assert starts(run) >= 2
    assert losses(run) == whole["one"]


def test_a_sweep_runs_every_job_and_builds_the_palette_once(cluster, tmp_path, monkeypatch):
    monkeypatch.setitem(cluster.environment, "IGPT_CACHE", str(tmp_path / "cache"))
    sweep = launch(cluster, tmp_path, "trainer.max_steps=4,6", "seed=0,1", "hydra.launcher.array_parallelism=3")
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, output
    runs = [tmp_path / "sweep" / str(number) for number in range(4)]
    assert [finished(run) for run in runs] == [4, 4, 6, 6]
    logs = [(run / "train.log").read_text() for run in runs]
    assert sum("Built a palette" in log for log in logs) == 1
    script = next((tmp_path / "sweep" / "slurm").glob("*/*_submission.sh")).read_text()
    assert "--array=0-3%3" in script


def test_jobs_run_the_code_as_it_was_when_they_were_submitted(cluster, tmp_path):
    blocker = cluster.submit("--exclusive", "--output=/dev/null", "--wrap=sleep 60", cwd=tmp_path)
    cluster.wait(blocker, "RUNNING")
    sweep = launch(cluster, tmp_path, "trainer.max_steps=2", "seed=0")
    package = tmp_path / "sweep" / "code" / "igpt" / "__init__.py"
    wait_until(lambda: any(job["JobState"] == "PENDING" for job in cluster.jobs().values()), "nothing waits", 60)
    package.write_text(package.read_text() + f"\nopen({str(tmp_path / 'imported')!r}, 'w').close()\n")
    cluster.run("scancel", blocker)
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, output
    assert (tmp_path / "imported").exists()


def test_a_job_of_a_sweep_that_is_preempted_three_times_resumes_exactly(cluster, whole, tmp_path):
    sweep = launch(cluster, tmp_path, *SLOW, "logger=wandb", "hydra.launcher.partition=low", "seed=0")
    run = tmp_path / "sweep" / "0"
    after = 0.0
    for _ in range(3):
        wait_for_training(run, after)
        cluster.preempt(tmp_path)
        after = time.time()
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, output
    assert starts(run) == 4
    assert finished(run) == STEPS
    assert losses(run) == whole["one"]
    assert tracked(run) == {(run / "tracking_id.txt").read_text().strip()}
    assert [path.name for path in (tmp_path / "sweep").iterdir() if path.name.isdigit()] == ["0"]


def test_an_array_with_two_preempted_jobs_resumes_exactly_and_prints_its_table(cluster, tmp_path):
    grid = ("optim.lr=1e-3,3e-3", "seed=0,1")
    cluster.run("igpt-train", "-m", *RECIPE, *grid, "hydra.sweep.dir=whole", cwd=tmp_path)
    sweep = launch(cluster, tmp_path, *SLOW, "hydra.launcher.partition=low", *grid)
    runs = [tmp_path / "sweep" / str(number) for number in range(4)]
    for run in runs:
        wait_for_training(run)
    cluster.preempt(tmp_path, "--ntasks=2")
    shown = cluster.run("igpt-jobs", "sweep=sweep", cwd=tmp_path).splitlines()
    assert shown[0] == "4 jobs in sweep"
    assert all("/200" in line and "optim.lr=" in line for line in shown[2:6])
    assert sum(" RUNNING " in line for line in shown) >= 2
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, output
    assert sorted(starts(run) for run in runs) == [1, 1, 2, 2]
    for run in runs:
        assert losses(run) == losses(tmp_path / "whole" / run.name)
    lines = [line.split() for line in output.splitlines()]
    table = [line for line in lines if line[1:2] == ["finished"]]
    assert [line[0] for line in table] == ["0", "1", "2", "3"]
    assert [line[3:5] for line in table] == [
        [f"optim.lr={lr}", f"seed={seed}"] for lr in ("0.001", "0.003") for seed in (0, 1)
    ]
    assert "4 of 4 jobs produced a result" in output


def test_preempted_jobs_of_a_search_resume_in_their_directories(cluster, tmp_path):
    pytest.importorskip("optuna")
    search = ("hydra/sweeper=tpe", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "optim.lr=interval(1e-3,1e-2)")
    sweep = launch(cluster, tmp_path, *SLOW, "hydra.launcher.partition=low", *search)
    wait_until(lambda: len(list((tmp_path / "sweep").glob("*/checkpoints/last.ckpt"))) == 2, "no job is training", 150)
    cluster.preempt(tmp_path)
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, output
    runs = [file.parent for file in (tmp_path / "sweep").glob("*/job.json")]
    assert [starts(run) for run in runs] == [2, 2]
    assert [finished(run) for run in runs] == [STEPS, STEPS]
    assert all(sorted(losses(run)) == list(range(STEPS)) for run in runs)


@pytest.mark.long
def test_failed_jobs_are_listed_and_the_others_are_waited_for(cluster, tmp_path):
    sweep = launch(cluster, tmp_path, *SLOW, "trainer.max_steps=100", "optim.schedule=square,constant", "seed=0,1")
    runs = [tmp_path / "sweep" / str(number) for number in range(4)]
    wait_for_training(runs[2])
    name = json.loads((runs[2] / "job.json").read_text())["slurm"]
    job = next(job for job in cluster.jobs() if job_name(cluster, job) == name)
    os.kill(cluster.process(job, 0), signal.SIGKILL)
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    assert output.rstrip().endswith("Error: 3 of 4 jobs of the sweep produced no result; the table says why.")
    with open(tmp_path / "sweep" / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["failed", "failed", "failed", "finished"]
    assert all("optim.schedule is square" in row["error"] for row in rows[:2])
    assert "SLURM ended it as FAILED; its log is" in rows[2]["error"]
    states = {job_name(cluster, job): cluster.state(job) for job in cluster.jobs()}
    assert [states[row["slurm"]] for row in rows] == ["FAILED", "FAILED", "FAILED", "COMPLETED"]
    cluster.run("scontrol", "requeue", job)
    cluster.wait(job, "COMPLETED")
    assert "FAILED" not in cluster.run("igpt-jobs", "sweep=sweep", cwd=tmp_path).splitlines()[4]
    assert json.loads((runs[2] / "job.json").read_text())["status"] == "finished"


def test_a_plain_job_that_gets_only_sigterm_before_a_preemption_resumes_exactly(cluster, whole, tmp_path):
    job, run = submit(cluster, tmp_path)
    wait_for_training(run)
    os.kill(cluster.process(job, 0), signal.SIGTERM)
    cluster.wait(job, "COMPLETED")
    assert cluster.restarts(job) == 1
    assert losses(run) == whole["one"]


def test_two_equal_jobs_that_are_preempted_at_the_same_time_resume_exactly(cluster, whole, tmp_path):
    jobs = [submit(cluster, tmp_path, *SLOW) for _ in range(2)]
    for _, run in jobs:
        wait_for_training(run)
    cluster.preempt(tmp_path)
    for job, run in jobs:
        cluster.wait(job, "COMPLETED")
        assert cluster.restarts(job) == 1
        assert starts(run) == 2
        assert losses(run) == whole["one"]
    assert "Traceback" not in log_of(tmp_path)


def test_a_canceled_job_saves_and_is_not_requeued(cluster, tmp_path):
    job, run = submit(cluster, tmp_path)
    wait_for_training(run)
    cluster.run("scancel", job)
    cluster.wait(job, "CANCELLED")
    wait_until(lambda: "Stopped and saved" in log_of(tmp_path), "it did not save", 30)
    time.sleep(10)
    assert cluster.state(job) == "CANCELLED"
    assert (run / "checkpoints" / "last.ckpt").exists()


def test_a_signal_while_torch_is_imported_is_obeyed(cluster, whole, tmp_path):
    job, run = submit(cluster, tmp_path)
    wait_until(lambda: (run / "train.log").exists(), "the job did not start", 60)  # Hydra is imported, torch is not
    cluster.run("scancel", "--signal=USR2", job)
    cluster.wait(job, "COMPLETED")
    assert cluster.restarts(job) == 1
    assert losses(run) == whole["one"]


def test_two_processes_of_which_one_gets_the_signal_first_resume_exactly(cluster, whole, tmp_path):
    job, run = submit(cluster, tmp_path, tasks=2)
    wait_for_training(run)
    os.kill(cluster.process(job, 1), signal.SIGUSR2)
    wait_until(lambda: cluster.restarts(job) == 1, "the job did not go back into the queue", 60)
    wait_for_training(run, after=time.time())
    cluster.run("scancel", "--signal=USR2", job)
    cluster.wait(job, "COMPLETED")
    assert cluster.restarts(job) == 2
    assert losses(run) == whole["two"]


def test_a_killed_process_ends_the_job_which_resumes_exactly_when_requeued(cluster, whole, tmp_path):
    job, run = submit(cluster, tmp_path, tasks=2)
    wait_until(lambda: (run / "checkpoints" / "previous.ckpt").exists(), "nothing was saved", 120)
    os.kill(cluster.process(job, 1), signal.SIGKILL)
    cluster.wait(job, "FAILED", seconds=60)
    cluster.run("scontrol", "requeue", job)
    cluster.wait(job, "COMPLETED")
    assert "Resuming" in log_of(tmp_path)
    assert losses(run) == whole["two"]


def test_a_node_failure_loses_only_the_steps_after_the_last_checkpoint(cluster, whole, tmp_path):
    job, run = submit(cluster, tmp_path, *SLOW)
    wait_until(lambda: (run / "checkpoints" / "previous.ckpt").exists(), "nothing was saved", 120)
    cluster.kill_node(job)
    wait_until(lambda: cluster.state(job) == "PENDING", "the controller did not notice", 120)
    cluster.start_node()
    cluster.wait(job, "COMPLETED")
    assert cluster.restarts(job) == 1
    assert "Resuming" in log_of(tmp_path)
    assert losses(run) == whole["one"]


def test_two_jobs_that_need_the_same_palette_build_it_once(cluster, whole, tmp_path, monkeypatch):
    monkeypatch.setitem(cluster.environment, "IGPT_CACHE", str(tmp_path / "cache"))
    jobs = [submit(cluster, tmp_path) for _ in range(2)]
    for job, _ in jobs:
        cluster.wait(job, "COMPLETED")
    logs = [(run / "train.log").read_text() for _, run in jobs]
    assert sum("Built a palette" in log for log in logs) == 1
    assert [losses(run) for _, run in jobs] == [whole["one"], whole["one"]]


def test_without_a_w_and_b_server_a_run_with_a_key_continues_offline(cluster, whole, tmp_path, monkeypatch):
    monkeypatch.setitem(cluster.environment, "WANDB_API_KEY", "0" * 40)
    monkeypatch.setitem(cluster.environment, "WANDB_BASE_URL", f"http://127.0.0.1:{slurm.free_port()}")
    job, run = submit(cluster, tmp_path, *SLOW, "logger=wandb")
    wait_for_training(run)
    cluster.preempt(tmp_path)
    cluster.wait(job, "COMPLETED")
    assert starts(run) == 2
    assert f"127.0.0.1 cannot be reached, so this run is logged offline; `wandb sync {run}" in log_of(tmp_path)
    assert losses(run) == whole["one"]
    assert tracked(run) == {(run / "tracking_id.txt").read_text().strip()}


@pytest.mark.long
def test_a_w_and_b_server_that_disappears_does_not_delay_requeueing(cluster, whole, tmp_path, monkeypatch):
    with w_and_b_server() as server:
        monkeypatch.setitem(cluster.environment, "WANDB_API_KEY", "0" * 40)
        monkeypatch.setitem(cluster.environment, "WANDB_BASE_URL", server.url)
        job, run = submit(cluster, tmp_path, *SLOW, "logger=wandb")
        wait_for_training(run)
    cluster.preempt(tmp_path, "--ntasks=4")
    cluster.wait(job, "COMPLETED")
    assert starts(run) == 2
    assert "127.0.0.1 cannot be reached" in log_of(tmp_path)  # at the second start
    assert losses(run) == whole["one"]
    assert tracked(run) == {(run / "tracking_id.txt").read_text().strip()}
    kinds = sorted(path.name.split("run-")[0] for path in (run / "wandb").glob("*run-*"))
    assert kinds == ["", "offline-"]


@pytest.mark.long
def test_processes_of_torchrun_resume_exactly(cluster, whole, tmp_path, monkeypatch):
    monkeypatch.setitem(cluster.environment, "GPUS", "2")
    job, run = submit(cluster, tmp_path, script="igpt-torchrun.sbatch")
    wait_for_training(run)
    cluster.run("scancel", "--signal=USR2", job)
    cluster.wait(job, "COMPLETED")
    assert cluster.restarts(job) == 1
    assert losses(run) == whole["two"]
