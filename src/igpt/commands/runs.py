"""igpt-runs: the runs below a folder, or of a W&B project, as a table that can be filtered and sorted."""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from igpt.configuration.app import run_app
from igpt.configuration.path_arguments import quote, unquote
from igpt.configuration.suggestions import resembling
from igpt.console import table_text
from igpt.errors import IgptError
from igpt.files import expand_user
from igpt.sweeps.job_records import natural_key
from igpt.sweeps.run_filters import is_number, parse_filter
from igpt.sweeps.run_records import COLUMNS, RunRecord, local_runs
from igpt.units import time_text

if TYPE_CHECKING:
    from omegaconf import DictConfig

IN_TABLE = tuple(name for name in COLUMNS if name not in ("monitor", "updated", "path"))  # and the age


def main() -> None:
    """The console script."""
    sys.argv[1:] = [quoted_filters(argument) for argument in sys.argv[1:]]
    run_app(runs, "runs")


def runs(config: DictConfig) -> None:
    """Print one line per run."""
    found, place = find_runs(config)
    if not found:
        raise IgptError(f"There is no run of igpt-train in {place}; give another folder, folder=DIR.")
    chosen = selected(found, as_list(config.where))
    further = as_list(config.columns)
    for key in (*further, *(key.removeprefix("-") for key in as_list(config.sort))):
        require_key(found, key)
    for key in reversed(as_list(config.sort)):
        chosen = in_order(chosen, key.removeprefix("-"), descending=key.startswith("-"))
    if config.format == "csv":
        write_csv(chosen, further)
    else:
        print(f"{len(chosen)} of {len(found)} runs in {place}")
        print(table(chosen, further))
        for record in chosen:
            if record.error:
                print(f"{record.value('name')}: {record.error}")


def find_runs(config: DictConfig) -> tuple[list[RunRecord], str]:
    """The runs that are asked for, and the name of where they are."""
    if config.wandb is not None:
        from igpt.sweeps.wandb_runs import wandb_runs

        return list(wandb_runs(config.wandb)), f"W&B's project {config.wandb}"
    folder = expand_user(config.folder)
    if not folder.is_dir():
        raise IgptError(f"folder is {config.folder}, which is no folder; give the one that has the runs.")
    return list(local_runs(folder)), str(folder)


def selected(records: list[RunRecord], where: Sequence[str]) -> list[RunRecord]:
    """The runs that all filters match."""
    filters = [parse_filter(text) for text in where]
    for each in filters:
        require_key(records, each.key)
    return [record for record in records if all(each.matches(record.value(each.key)) for each in filters)]


def require_key(records: Sequence[RunRecord], key: str) -> None:
    """Raise :class:`IgptError` if no run has a key."""
    if key in COLUMNS or any(record.value(key) is not None for record in records):
        return
    known = list(dict.fromkeys(name for record in records for name in record.known_keys()))
    if key in known:
        return  # null in all runs
    closest = resembling(key, known)
    suggestion = f"did you mean {closest}? Known are" if closest else "known are"
    metrics = ", ".join(sorted(name for name in known if "/" in name))
    raise IgptError(
        f"No run has the key {key}; {suggestion} {', '.join(COLUMNS)}, the keys of the configuration (model.n_layer), "
        f"and the values {metrics or 'that a run has logged'}."
    )


def in_order(records: list[RunRecord], key: str, descending: bool) -> list[RunRecord]:
    """The runs by a value: numbers before texts, and runs without the value at the end."""
    values = {id(record): record.value(key) for record in records}
    values = {name: None if value != value else value for name, value in values.items()}  # NaN has no order
    present = [record for record in records if values[id(record)] is not None]

    def order(record: RunRecord) -> tuple[bool, float, list[tuple[int, str]]]:
        value = values[id(record)]
        return (False, value, []) if is_number(value) else (True, 0.0, natural_key(str(value)))

    missing = [record for record in records if values[id(record)] is None]
    return sorted(present, key=order, reverse=descending) + missing


def table(records: Sequence[RunRecord], further: Sequence[str]) -> str:
    """The runs for a person to read."""
    monitors = {record.value("monitor") for record in records}
    heads = {"best": monitors.pop() or "best"} if len(monitors) == 1 else {}
    now = time.time()

    def cells(record: RunRecord) -> tuple[str, ...]:
        updated = record.value("updated")
        age = "" if updated is None else time_text(max(0.0, now - updated))
        return (*(cell(shown(record, name)) for name in names), age)

    names = list(dict.fromkeys((*IN_TABLE, *further)))
    return table_text((*(heads.get(name, name) for name in names), "age"), map(cells, records))


def shown(record: RunRecord, key: str) -> Any:
    """The value at a key, as it is printed: times in ISO 8601, in UTC."""
    value = record.value(key)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(value)) if key == "updated" and value else value


def cell(value: Any) -> str:
    """A value in the table; numbers that are not whole with five digits."""
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def write_csv(records: Iterable[RunRecord], further: Sequence[str]) -> None:
    """Write all columns, and further ones, to stdout."""
    names = list(dict.fromkeys((*COLUMNS, *further)))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for record in records:
        writer.writerow([shown(record, name) for name in names])


def as_list(value: Any) -> list[str]:
    """A text, a list of texts, or null, as a list."""
    return [] if value is None else [value] if isinstance(value, str) else [str(each) for each in value]


def quoted_filters(argument: str) -> str:
    """The argument `where=` with quotes around each filter, since = and < mean something to Hydra."""
    key, _, value = argument.partition("=")
    if key != "where" or value == "null":
        return argument
    if value.startswith("[") and value.endswith("]"):
        parts = re.findall(r"""\s*('[^']*'|"[^"]*"|[^,]+)""", value[1:-1])
        return f"where=[{','.join(quote(unquote(part.strip())) for part in parts)}]"
    return f"where={quote(unquote(value))}"


if __name__ == "__main__":
    main()
