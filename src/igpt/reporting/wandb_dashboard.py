"""A workspace and a report for W&B: panels of what igpt logs, built by the optional library wandb-workspaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from igpt.errors import IgptError
from igpt.libraries import library_errors, optional_library
from igpt.metric_names import FLOPS, METRICS, find_metric
from igpt.wandb_server import NO_KEY, has_key

ADVICE = "check entity, project, the network and the key"
STEP, LAYER = "trainer/global_step", "probe/layer"
MEDIA = ("samples", "completions", "filled")
FEATURES = ("trained", "untrained", "raw_pixels", "palette_histogram")
SCORES = ("test_accuracy", "test_knn_accuracy")
COLUMNS, WIDTH, HEIGHT = 3, 8, 6  # panels beside each other in a report, and their size there


class Dashboard:
    """The specification of a workspace and a report for a project."""

    def __init__(self, entity: str, project: str, name: str, monitor: str, parameters: Sequence[str]) -> None:
        """Sweeps are compared by `monitor` and the `parameters`, keys of the configuration.

        Raises :class:`IgptError` without the library.
        """
        self._reports, self._workspaces = _library("reports.v2"), _library("workspaces")
        self._monitor, self._parameters = monitor, parameters
        ws, wr = self._workspaces, self._reports
        self.workspace = ws.Workspace(entity=entity, project=project, name=name)
        self.workspace.sections = [
            ws.Section(name=title, panels=each, is_open=True) for title, each in self._sections()
        ]
        self.report = wr.Report(entity=entity, project=project, title=name, width="fluid")
        self.report.blocks = [block for section in self._sections() for block in self._in_report(*section)]

    def specification(self) -> dict[str, Any]:
        """Both as W&B stores them."""

        def stored(part: Any) -> Any:
            return part._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)

        return {"workspace": stored(self.workspace), "report": stored(self.report)}

    def save(self) -> Iterator[str]:
        """Store both in W&B; the address of each. Raises :class:`IgptError` if W&B does not take one."""
        for kind in ("workspace", "report"):
            with library_errors(f"W&B did not take the {kind}", ADVICE):
                address = str(getattr(self, kind).save().url)
            yield address

    def _sections(self) -> Iterator[tuple[str, list[Any]]]:
        """Title and panels of each section."""
        wr, monitor = self._reports, self._monitor
        yield (
            "Training",
            [
                self._lines("val/nats_per_token", "val_ema/nats_per_token"),
                self._lines("train/loss"),
                self._lines("val/accuracy", "train/accuracy"),
                self._lines("val/nats_per_token", x=FLOPS),
                self._lines("train/lr"),
                self._lines("train/grad_norm"),
            ],
        )
        yield (
            "Samples over time",
            [wr.MediaBrowser(title=name, media_keys=[name], gallery_axis="step") for name in MEDIA],
        )
        yield (
            "Probes by layer",
            [
                *(self._lines(*(f"probe/{kind}/{score}" for kind in FEATURES), x=LAYER) for score in SCORES),
                wr.LinePlot(title="Accuracy during training, by layer", x=STEP, metric_regex="probe/layer_.*"),
            ],
        )
        best = in_summary(monitor)
        columns = [*(wr.Config(name) for name in self._parameters), wr.SummaryMetric(best)]
        yield (
            "Comparison of a sweep",
            [
                wr.ParallelCoordinatesPlot(columns=[wr.ParallelCoordinatesPlotColumn(metric=each) for each in columns]),
                wr.ParameterImportancePlot(with_respect_to=best),
                wr.RunComparer(diff_only="split"),
            ],
        )
        speed = [metric.name for metric in METRICS if metric.panel == "speed"]
        yield "Cluster and speed", [self._lines(name) for name in speed]

    def _lines(self, *names: str, x: str = STEP) -> Any:
        """A line plot of metrics, with the title of the first one."""
        metric = find_metric(names[0])
        return self._reports.LinePlot(title=metric and metric.title, x=x, y=[*names])

    def _in_report(self, title: str, panels: Sequence[Any]) -> list[Any]:
        """A section of the report, whose panels have their places."""
        wr = self._reports
        for i, panel in enumerate(panels):
            panel.layout = wr.Layout(x=i % COLUMNS * WIDTH, y=i // COLUMNS * HEIGHT, w=WIDTH, h=HEIGHT)
        return [wr.H1(title), wr.PanelGrid(panels=[*panels])]


def in_summary(name: str) -> str:
    """The best value of a metric in the summary of a run, which has one if the metric has a goal."""
    metric = find_metric(name)
    return name if metric is None or metric.goal is None else f"{name}.{metric.goal}"


def check_key() -> None:
    """Raise :class:`IgptError` without a key, for which W&B's library would ask on the console."""
    if not has_key():
        raise IgptError(f"A dashboard is stored in W&B, but {NO_KEY}; --dry-run prints its specification.")


def default_entity() -> str:
    """The user or team whose projects the key opens by itself. Raises :class:`IgptError` if W&B does not say."""
    import wandb

    with library_errors("W&B did not say whose project it is", ADVICE):
        entity = wandb.Api().default_entity
    if not entity:
        raise IgptError("Your key has no default entity in W&B; give the user or team with entity=NAME.")
    return str(entity)


def _library(part: str) -> Any:
    return optional_library(f"wandb_workspaces.{part}", "A dashboard", "'igpt[dashboard]'")
