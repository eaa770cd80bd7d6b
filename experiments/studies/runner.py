"""Train the runs of a study, several at a time, and record each in the results file as soon as it ends."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime, timezone
from pathlib import Path

from studies.cost import costs
from studies.results import Row, append_result, read_results
from studies.study import Choice, Run, Study, results_of

from igpt.cluster.signals import STARTED_BY
from igpt.errors import IgptError
from igpt.run_directory import RunDirectory
from igpt.stored_run import StoredRun

ROOT = Path(__file__).parents[2]
MEASURED = ("test/nats_per_token", "test/standard_error", "best/val/nats_per_token", "parameters", "seconds")
Train = Callable[[Run, Path, int], Row]


def main(folder: Path, arguments: Sequence[str] | None = None) -> None:
    """The command of the study in `folder`, which has study.yml and results.jsonl."""
    asked = read_arguments(folder, arguments)
    try:
        study = Study.read(folder / "study.yml")
        chosen = Choice(asked.only, asked.settings, asked.seeds, asked.rounds)
        chosen.check(study)
        if asked.list:
            print(state(study, read_results(asked.results), chosen))
            return
        failed = run_study(study, chosen, asked.results, asked.out, asked.jobs, asked.hours)
    except IgptError as error:
        sys.exit(f"Error: {error}")
    if failed:
        sys.exit(f"Error: {len(failed)} runs failed: {'; '.join(map(str, failed))}. Their logs are in {asked.out}.")


def read_arguments(folder: Path, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f"Train the runs of {folder.name}/study.yml that have no row in results.jsonl. "
        "Repeat the command after an interruption: finished runs are skipped, interrupted ones resume."
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("outputs", folder.name), help="folder of the run directories")
    add("--results", type=Path, default=folder / "results.jsonl", help="file of the results")
    add("--jobs", type=int, default=2, help="runs at a time; they share the cores")
    add("--hours", type=float, help="start no run after this time")
    add("--only", nargs="+", default=[], metavar="TRIAL", help="train only these trials")
    add("--settings", nargs="+", default=[], metavar="SETTING", help="train only on these settings")
    add("--seeds", nargs="+", type=int, default=[], metavar="SEED", help="train only with these seeds")
    add("--rounds", nargs="+", type=int, default=[], metavar="NUMBER", help="train only these rounds, counted from 1")
    add("--list", action="store_true", help="only print the rounds, and how much of each is done")
    asked = parser.parse_args(arguments)
    if asked.jobs < 1:
        parser.error(f"--jobs is {asked.jobs}; it must be at least 1.")
    return asked


def run_study(
    study: Study, chosen: Choice, results: Path, out: Path, jobs: int, hours: float | None, train: Train | None = None
) -> list[Run]:
    """Train all chosen runs that have no row in `results`; return those that failed."""
    deadline = None if hours is None else time.monotonic() + 3600 * hours
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    train = train or train_run
    running: dict[Future[Row], Run] = {}
    failed: list[Run] = []
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            free = jobs - len(running)
            while free and (deadline is None or time.monotonic() < deadline):
                taken = {*running.values(), *failed}
                run = study.next_run(read_results(results), taken, set(failed), chosen)
                if run is None:
                    break
                running[pool.submit(train, run, out, threads)] = run
                say(f"{run}: started")
                free -= 1
            if not running:
                return failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                try:
                    row = future.result()
                except IgptError as error:
                    failed.append(run)
                    say(f"{run}: {error}")
                else:
                    append_result(results, row)
                    say(f"{run}: test {row['test_nats']:.4f} nats per token in {row['seconds']:.0f} s")


def train_run(run: Run, out: Path, threads: int) -> Row:
    """Train a run by igpt-train, which resumes what was interrupted; return its row.

    Raises :class:`IgptError` with the last line of its log, if the command fails.
    """
    folder = (out / run.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.log"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    environment[STARTED_BY] = str(os.getpid())  # so that it ends with this process
    command = [sys.executable, "-m", "igpt.commands.train", *run.overrides, f"hydra.run.dir={folder}"]
    if not (folder / "summary.json").exists():
        with log.open("ab") as file:
            subprocess.run(command, env=environment, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if not (folder / "summary.json").exists():
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise IgptError(f"igpt-train ended without a result, see {log}: {lines[-1]}")
    return row_of(run, folder)


def row_of(run: Run, folder: Path) -> Row:
    """The result of a finished run. Raises :class:`IgptError` if its summary lacks a value."""
    stored = StoredRun(RunDirectory(folder))
    summary, steps = stored.summary, stored.steps
    if missing := [name for name in MEASURED if name not in summary]:
        raise IgptError(f"{folder / 'summary.json'} lacks {missing[0]}; remove the folder to train again.")
    commits = dict.fromkeys(str(start["commit"]) for start in stored.starts)  # several, if the code changed
    return {
        "trial": run.trial,
        "setting": run.setting,
        "seed": run.seed,
        "rate": run.rate,
        "steps": steps,
        "test_nats": round(summary["test/nats_per_token"], 5),
        "test_error": round(summary["test/standard_error"], 5),
        "validation_nats": round(summary["best/val/nats_per_token"], 5),
        "parameters": summary["parameters"],
        **{name: value * steps for name, value in costs(run.overrides)._asdict().items()},
        "seconds": summary["seconds"],
        "precision": str(stored.config["trainer"]["precision"]),
        "commit": " ".join(commits),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "overrides": list(run.overrides),
    }


def state(study: Study, rows: Sequence[Row], chosen: Choice) -> str:
    """The rounds, with the numbers of finished and of known runs. A best learning rate is unknown until it is tuned."""
    lines = []
    for number, one in enumerate(study.rounds, 1):
        if one not in chosen.rounds_of(study):
            continue
        runs = [run for run in study.runs(one, rows) if chosen.wants(run)]
        done = results_of(runs, rows)
        length = f"{one.steps} steps" if one.steps else f"{one.flops:.3g} FLOPs"
        hours = sum(row["seconds"] for row in done.values()) / 3600
        about = f"{', '.join(one.trials)} on {', '.join(one.settings)}; {length}; rates {one.rates}; seeds {one.seeds}"
        lines.append(f"{number}. {len(done)} of {len(runs)} done ({hours:.1f} h): {about}")
    return "\n".join(lines)


def say(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)
