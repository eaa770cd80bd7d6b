"""Resuming a run: what may change, the arguments for Hydra, and what is refused before anything is written."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from igpt.configuration.path_arguments import quote, unquote
from igpt.configuration.stored import Changes, configuration_of, difference
from igpt.configuration.suggestions import dotted_keys
from igpt.errors import IgptError, RunTakenError
from igpt.nested import leaves
from igpt.run_directory import RunDirectory, find_run_to_resume, resume_command

# Keys whose values may change when a run is resumed; docs/architecture.md has the same list. All other keys determine
# what is learned, or what is measured, and keep their values from the first step to the last.
MAY_CHANGE = (
    # The length of the run, and what is logged when.
    "trainer.max_steps",
    "trainer.val_check_interval",
    "trainer.log_every_n_steps",
    "save_every",
    "sample_every",
    "image_class",
    "sampling.*",
    "logger.*",
    "evaluators.*",
    "callbacks.*",  # except for the best checkpoint: see FIXED
    # The optimizer's rates.
    "optim.lr",
    "optim.matrix_lr",
    "optim.warmup_steps",
    "optim.schedule",
    "optim.decay_share",
    "optim.total_steps",
    "trainer.gradient_clip_val",
    # Machine, devices and speed.
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
    "data.source.path",  # the location of the data; their content is compared
    "data.source.root",
    "compile",
    "activation_checkpointing",
    "matmul_precision",
)
FIXED = ("callbacks.best", "callbacks.best.*")  # values before and after the resume are compared with each other

GROUPS = (
    "callbacks", "data", "data/augment", "debug", "evaluators", "experiment", "logger", "model", "model/parts",
    "objective", "optim", "tokenizer", "trainer",
)  # fmt: skip
STORED = ("config", "resumed")  # names of the configurations in a run directory


def may_change(key: str) -> bool:
    """Whether the value at a dotted key may change when a run is resumed."""
    allowed = any(fnmatchcase(key, pattern) or pattern == f"{key}.*" for pattern in MAY_CHANGE)
    return allowed and not any(fnmatchcase(key, pattern) for pattern in FIXED)


def resume_arguments(argv: Sequence[str]) -> list[str]:
    """The arguments of igpt-train, changed if they contain `run=DIR`: Hydra then reads the configuration stored in DIR
    and writes into DIR. Other arguments override values as usual.
    """
    given = [a for a in argv if re.match(r"\+{0,2}run=", a)]
    chosen = [value for a in given if (value := a.partition("=")[2]) != "null"]
    if not chosen:
        return list(argv)
    if {"-m", "--multirun"} & set(argv):
        raise IgptError(
            "run= resumes one run, which a sweep cannot do; leave out -m, or start new runs with init_from=."
        )
    if any(argument.startswith("hydra.run.dir=") for argument in argv):
        raise IgptError(
            "run= and hydra.run.dir= both name a directory; a run is resumed in its own, so leave out hydra.run.dir=."
        )
    run = find_run_to_resume(unquote(chosen[-1]))
    changes = [change for a in argv if a not in given for change in replace_group(a, run)]
    return stored_arguments(run, changes)


def replace_group(argument: str, run: RunDirectory) -> list[str]:
    """Arguments that change values instead of one that chooses from a group: a stored configuration has no groups.

    Only loggers can be chosen again. Any other group contains values that must not change, or (trainer.max_steps)
    values that the user did not mean to change.
    """
    if argument.startswith("~") and was_removed(argument[1:], run):
        return []  # a requeued job repeats its arguments
    choice = re.fullmatch(rf"({'|'.join(GROUPS)})=([\w-]+)", argument)
    if choice is None:
        return [argument]
    group, name = choice.groups()
    if group != "logger":
        raise IgptError(
            f"{argument} chooses a whole group, which a resumed run cannot change; give the values to change, for "
            "example trainer.devices=2."
        )
    others = [f"~logger.{tracker}" for tracker in configuration_of(run).get("logger") or () if tracker != name]
    return others if name in ("none", "null") else [f"+logger={name}", *others]


def was_removed(key: str, run: RunDirectory) -> bool:
    """Whether an earlier resume removed a key that the run had at its start."""
    at_start, now = (
        set(dotted_keys(OmegaConf.to_container(config, resolve=False)))
        for config in (OmegaConf.load(run.config), configuration_of(run))
    )
    return key in at_start - now


def stored_arguments(run: RunDirectory, changes: Sequence[str] = ()) -> list[str]:
    """Arguments that train in a run directory with the configuration stored there and these overrides."""
    name = (run.resumed_config if run.resumed_config.exists() else run.config).stem
    where = ["--config-path", str(run.config.parent), "--config-name", name]
    # Settings of Hydra itself are not part of the stored configuration.
    hydra = ["hydra.searchpath=[pkg://igpt.conf]", "hydra/job_logging=igpt", "hydra.job.name=train"]
    return [*where, *changes, *hydra, "hydra.output_subdir=null", f"hydra.run.dir={quote(run.path)}"]


def resumes() -> bool:
    """Whether this command resumes a run (`run=`), rather than starting one."""
    return HydraConfig.get().job.config_name in STORED


def starts_from_model(config: DictConfig) -> bool:
    """Whether a model in `init_from` is still to determine values of the configuration; a stored one has them."""
    return config.get("init_from") is not None and not resumes()


def changes_of(config: DictConfig, run: RunDirectory) -> Changes:
    """The changes that this command makes to the configuration of the run in its directory; none for a new run.

    Raises :class:`RunTakenError` if the directory holds a run with other settings, or if a change is not allowed.
    """
    if not resumes() and not run.trained:
        return {}
    if not run.config.exists():
        raise RunTakenError(
            f"{run.path} has a checkpoint but no {run.config}; choose another directory with hydra.run.dir."
        )
    changes = difference(configuration_of(run), config)
    if changes and not resumes():
        raise RunTakenError(
            f"{run.path} holds a run with other settings: {describe(changes)}; choose another directory, or resume "
            f"that run with {resume_command(run)}."
        )
    # If a value became a group of values, or the reverse, all keys of the group must be allowed to change.
    refused = {
        key: change
        for key, change in changes.items()
        if not all(may_change(leaf) for value in change.values() for leaf, _ in leaves({key: value}))
    }
    if refused:
        raise RunTakenError(
            f"A resumed run cannot change {describe(refused)}; leave that out, or start a new run "
            f"(init_from={run.path} takes its weights). docs/architecture.md lists what may change."
        )
    return changes


def describe(changes: Changes) -> str:
    """The changes as a list in a sentence: "KEY (OLD there, NEW now), ..."."""
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
