"""The dashboard shows what igpt logs, and nothing else."""

import json
import sys

import pytest

from igpt.metric_names import find_metric
from igpt.reporting.wandb_dashboard import MEDIA, STEP, Dashboard
from tracking_server import w_and_b_server

pytest.importorskip("wandb_workspaces")
KEYS = {"optim.lr", "optim.matrix_lr", "data.batch_size", "model.n_layer", "model.n_embd"}  # of the configuration


def values_at(names, part):
    """All texts at keys of these names, at any depth."""
    if isinstance(part, dict):
        for key, inner in part.items():
            found = inner if isinstance(inner, list) else [inner]
            yield from (text for text in found if key in names and isinstance(text, str))
            yield from values_at(names, inner)
    elif isinstance(part, list):
        for inner in part:
            yield from values_at(names, inner)


def unknown_names(specification):
    """What the panels show that igpt does not log."""
    metrics = {*values_at({"metrics", "metricRegex", "xAxis", "targetKey"}, specification)}
    columns = {*values_at({"accessor"}, specification)}
    metrics |= {name.removeprefix("summary:") for name in columns if name.startswith("summary:")}
    metrics = {name.removesuffix(".min") for name in metrics}  # the best value, in the summary of a run
    configured = {name.removeprefix("config:").replace(".value", "") for name in columns if name.startswith("config:")}
    assert metrics
    assert configured
    media = {*values_at({"mediaKeys"}, specification)}
    return {
        *(name for name in metrics - {STEP, "_step"} if find_metric(name) is None),
        *(configured - KEYS),
        *(media - {"samples", "completions", "filled"}),
    }


def test_the_printed_specification_names_only_what_is_logged(command, trained):
    specification = json.loads(command("dashboard", "--dry-run"))
    for part in ("workspace", "report"):
        assert unknown_names(specification[part]) == set()
    found = {*values_at({"metrics", "targetKey"}, specification["report"])}
    assert {"train/loss", "val/nats_per_token", "probe/trained/test_accuracy", "speed/mfu"} <= found
    assert {"samples", "completions"} <= {path.name for path in trained.iterdir()} & {*MEDIA}


def test_an_unknown_name_is_found(command):
    for overrides in (["monitor=val/nonsense"], ["parameters=[optim.nonsense]"]):
        specification = json.loads(command("dashboard", "dry_run=true", *overrides))
        assert len(unknown_names(specification["report"])) == 1


def test_without_key_or_library(command, monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(SystemExit, match="A dashboard is stored in W&B, but no API key is set"):
        command("dashboard")
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(
        SystemExit, match=r"needs wandb_workspaces, which is not installed: pip install 'igpt\[dashboard\]'"
    ):
        command("dashboard", "--dry-run")


@pytest.fixture
def server(monkeypatch):
    with w_and_b_server() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        yield server


def test_workspace_and_report_are_stored_in_the_project_of_the_key(command, server):
    workspace, report = command("dashboard", "name=mine").split()
    assert workspace.startswith(f"{server.url}/somebody/igpt?nw=")
    assert report.startswith(f"{server.url}/somebody/igpt/reports/mine")
    for stored in (server.views["project-view"], server.views["runs"]):
        assert (stored["entityName"], stored["projectName"], stored["displayName"]) == ("somebody", "igpt", "mine")
        assert unknown_names(json.loads(stored["spec"])) == set()


def test_an_entity_is_needed_where_the_key_has_none(command, server, monkeypatch):
    monkeypatch.setattr("wandb.apis.public.Api.default_entity", None)
    with pytest.raises(SystemExit, match="no default entity in W&B; give the user or team with entity=NAME"):
        command("dashboard")
    assert server.views == {}
    command("dashboard", "entity=us")
    assert {stored["entityName"] for stored in server.views.values()} == {"us"}


def test_panels_of_the_report_do_not_overlap():
    report = Dashboard("me", "igpt", "igpt", "val/nats_per_token", ["optim.lr"]).report
    for block in report.blocks[1::2]:
        places = [(panel.layout.x, panel.layout.y) for panel in block.panels]
        assert len(set(places)) == len(places)
        assert all(panel.layout.x + panel.layout.w <= 24 for panel in block.panels)
