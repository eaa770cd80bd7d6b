"""Resuming a run: what may change, the command line that Hydra gets, and what is refused before anything is written."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from igpt.configuration.path_arguments import quoted, unquoted
from igpt.configuration.stored import Changes, configuration_of, difference, leaves
from igpt.configuration.suggestions import dotted_keys
from igpt.errors import IgptError, RunTakenError
from igpt.run_directory import RunDirectory, find_run_to_resume, resume_command

# Keys whose values may change when a run is resumed; docs/architecture.md has the same list. Everything else decides
# what is learned from what, or what the numbers of one curve mean, and stays as it is from the first step to the last.
MAY_CHANGE = (
    # How long, and what is written down when.
    "trainer.max_steps",
    "trainer.val_check_interval",
    "trainer.log_every_n_steps",
    "save_every",
    "sample_every",
    "showcase_class",
    "sampling.*",
    "logger.*",
    "callbacks.*",  # but not the best checkpoint's: see STAYS
    # The optimizer's rates.
    "optim.lr",
    "optim.matrix_lr",
    "optim.warmup_steps",
    "optim.schedule",
    "optim.total_steps",
    "trainer.gradient_clip_val",
    # The machine: another one, other devices, other speed.
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.strategy.*",
    "trainer.precision",
    "data.device_batch_size",
    "data.eval_batch_size",
    "data.num_workers",
    "data.processes",
    "data.cache_dir",
    "data.source.path",  # where the data lie; that they are the same is checked by content
    "data.source.root",
    "compile",
    "activation_checkpointing",
    "matmul_precision",
)
STAYS = ("callbacks.best", "callbacks.best.*")  # two numbers, of which the better one is kept, must mean the same

GROUPS = (
    "callbacks", "data", "data/augment", "debug", "experiment", "logger", "model", "objective", "optim", "tokenizer",
    "trainer",
)  # fmt: skip
STORED = ("config", "resumed")  # names of the configurations that a run directory keeps


def may_change(key: str) -> bool:
    """Whether the value at a dotted key may be another one when a run is resumed."""
    allowed = any(fnmatchcase(key, pattern) or pattern == f"{key}.*" for pattern in MAY_CHANGE)
    return allowed and not any(fnmatchcase(key, pattern) for pattern in STAYS)


def resume_arguments(argv: Sequence[str]) -> list[str]:
    """Arguments that resume a run, from ones that hold `run=<dir>`: Hydra reads the configuration from there, and stays
    in that directory. Other arguments override values, as ever. Without `run=`, no change.
    """
    chosen = [a.removeprefix("run=") for a in argv if a.startswith("run=") and a != "run=null"]
    if not chosen:
        return list(argv)
    if {"-m", "--multirun"} & set(argv):
        raise IgptError(
            "run= resumes one run, which a sweep cannot do; leave out -m, or begin new runs with init_from=."
        )
    if any(argument.startswith("hydra.run.dir=") for argument in argv):
        raise IgptError(
            "run= and hydra.run.dir= both name a folder; a run is resumed where it is, so leave out the latter."
        )
    run = find_run_to_resume(unquoted(chosen[-1]))
    changes = [word for a in argv if not a.startswith("run=") for word in without_groups(a, run)]
    return stored_arguments(run, changes)


def without_groups(argument: str, run: RunDirectory) -> list[str]:
    """An argument that chooses from a group as ones that change values, since the run has no groups any more.

    That can be done for trackers. Any other group has values that must stay, or (trainer.max_steps) that nobody meant.
    """
    if argument.startswith("~") and is_left_out(argument[1:], run):
        return []  # a job of a cluster says the same each time it is requeued
    choice = re.fullmatch(rf"({'|'.join(GROUPS)})=([\w-]+)", argument)
    if choice is None:
        return [argument]
    group, name = choice.groups()
    if group != "logger":
        raise IgptError(
            f"{argument} chooses a whole group, which a resumed run cannot change; name the values that change, for "
            "example trainer.devices=2."
        )
    others = [f"~logger.{tracker}" for tracker in configuration_of(run).logger or () if tracker != name]
    return others if name in ("none", "null") else [f"+logger={name}", *others]


def is_left_out(key: str, run: RunDirectory) -> bool:
    """Whether an earlier resume has removed a key that the run began with."""
    begun, now = (
        set(dotted_keys(OmegaConf.to_container(config, resolve=False)))
        for config in (OmegaConf.load(run.config), configuration_of(run))
    )
    return key in begun - now


def stored_arguments(run: RunDirectory, changes: Sequence[str] = ()) -> list[str]:
    """Arguments that run what is stored in a run directory, in it, with other values for what `changes` name."""
    name = (run.resumed_config if run.resumed_config.exists() else run.config).stem
    where = ["--config-path", str(run.config.parent), "--config-name", name]
    # What Hydra itself does is not part of the stored configuration, so it is said again.
    hydra = ["hydra.searchpath=[pkg://igpt.conf]", "hydra/job_logging=igpt", "hydra.job.name=train"]
    return [*where, *changes, *hydra, "hydra.output_subdir=null", f"hydra.run.dir={quoted(run.path)}"]


def resumes() -> bool:
    """Whether this command was asked to resume a run (`run=`), and not to begin one."""
    return HydraConfig.get().job.config_name in STORED


def changes_of(config: DictConfig, run: RunDirectory) -> Changes:
    """What a command would change of the run in its directory; nothing, where there is none yet.

    Raises :class:`RunTakenError` where it asks for another run than the one that is there, or for a change that cannot
    be made to a run that has begun.
    """
    if not resumes() and not run.trained:
        return {}
    if not run.config.exists():
        raise RunTakenError(
            f"{run.path} has a checkpoint and no {run.config}; choose another folder with hydra.run.dir."
        )
    changes = difference(configuration_of(run), config)
    if changes and not resumes():
        raise RunTakenError(
            f"{run.path} holds a run with other settings: {shown(changes)}; choose another folder, or resume that run "
            f"with {resume_command(run)}."
        )
    # A value that became a group of values, or the other way round, is judged by all of the keys.
    refused = {
        key: change
        for key, change in changes.items()
        if not all(may_change(leaf) for value in change.values() for leaf in leaves(key, value))
    }
    if refused:
        raise RunTakenError(
            f"A resumed run keeps its settings, and cannot change {shown(refused)}; leave that out, or begin a new run "
            f"(init_from={run.path} takes its weights). docs/architecture.md lists what may change."
        )
    return changes


def shown(changes: Changes) -> str:
    """Changes for a sentence."""
    return ", ".join(
        f"{key} ({_value(change, 'from')} there, {_value(change, 'to')} now)" for key, change in changes.items()
    )


def _value(change: dict[str, object], side: str) -> str:
    if side not in change:
        return "nothing"
    value = change[side]
    if isinstance(value, dict):
        return "..."
    return value if isinstance(value, str) else json.dumps(value)
