"""The runs of a W&B project, as igpt-runs shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from igpt.errors import IgptError, in_one_line
from igpt.sweeps.run_filters import is_number
from igpt.sweeps.run_records import RunRecord, is_training

STATUS = ("running", "finished", "failed")  # the others are of runs that were stopped or killed


class WandbRun(RunRecord):
    """A run of W&B's API, which igpt-train logged."""

    def __init__(self, run: Any) -> None:
        self.config = config = dict(run.config)
        self.summary = {name: best_of(value) for name, value in dict(run.summary).items()}
        probes = [value for name, value in self.summary.items() if name.startswith("probe/layer_") and is_number(value)]
        self.name = run.name
        self.data = target(config, "data", "source")
        self.model = shape(config.get("model"))
        self.objective = target(config, "objective")
        self.status = run.state if run.state in STATUS else "interrupted"
        self.steps = self.summary.get("steps", self.summary.get("trainer/global_step", -1) + 1)
        self.monitor = config["monitor"]
        self.best = self.value(self.monitor)
        self.probe = self.summary.get("best/probe/accuracy", max(probes, default=None))
        self.updated = self.summary.get("_timestamp")
        self.path = run.url


def wandb_runs(project: str) -> Iterator[WandbRun]:
    """The training runs of a project, ENTITY/PROJECT. Raises :class:`IgptError` if W&B does not give them."""
    import wandb

    try:
        for run in wandb.Api().runs(project):
            if is_training(dict(run.config)):  # not a probe or an evaluation
                yield WandbRun(run)
    except (wandb.Error, ValueError, OSError) as error:  # a project that does not exist is a ValueError
        reason = in_one_line(error).rstrip(".")
        raise IgptError(f"W&B does not give the runs of {project} ({reason}); check the name, or log in.") from None


def best_of(value: Any) -> Any:
    """A value of W&B's summary; of a metric whose best value is kept, that one."""
    if hasattr(value, "keys") and len(value) == 1 and {*value.keys()} <= {"min", "max"}:
        return next(iter(value.values()))
    return value


def target(config: dict[str, Any], *path: str) -> str | None:
    """The name of the class that a part of the configuration makes."""
    part: Any = config
    for key in path:
        part = part.get(key) if isinstance(part, dict) else None
    name = part.get("_target_") if isinstance(part, dict) else None
    return name and name.rpartition(".")[2]


def shape(model: Any) -> str | None:
    """The size of a model: blocks and width."""
    return f"{model.get('n_layer')} x {model.get('n_embd')}" if isinstance(model, dict) else None
