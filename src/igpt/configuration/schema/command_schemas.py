"""The whole configuration of each command, and the rules that relate its parts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, model_validator

from igpt.configuration.schema.components import UNSET, Component, Node, OneOf
from igpt.configuration.schema.data_schemas import RGB, Data, Gray, MNISTSource, Order, PaletteRecipe, Tokenizer
from igpt.configuration.schema.training_schemas import (
    Autoregressive,
    Callbacks,
    Classification,
    EarlyStop,
    Evaluators,
    KeepBest,
    Loggers,
    Masked,
    Model,
    Objective,
    OnlineProbe,
    Optim,
    PruneTrial,
    SampleImages,
    Sampling,
    ShardedStrategy,
    Trainer,
    WeightAverage,
)  # fmt: skip
from igpt.configuration.schema.values import (
    AnyShare,
    Checkpoint,
    ClassChoice,
    Count,
    Device,
    Flag,
    MatmulPrecision,
    MaybeCount,
    MaybeGoal,
    MaybeNatural,
    MaybeNotNegative,
    MaybePositive,
    MaybeShareOrAll,
    MaybeText,
    Natural,
    NotNegative,
    Positive,
    Seed,
    Text,
    Texts,
    Weights,
    before_model,
    expects,
    one_of,
    problem,
)  # fmt: skip
from igpt.generation.sampling_config import not_applicable
from igpt.metric_names import goal_of
from igpt.planning.devices import DEVICES

EXPORT_FORMATS = ("huggingface", "igpt")
GRAY_LEVELS = 256


def check_colors(data: Any, tokenizer: Any) -> None:
    """Refuse a palette that is built from gray images and has more colors than they can have."""
    gray = isinstance(getattr(data, "source", None), MNISTSource)
    if gray and isinstance(tokenizer, PaletteRecipe) and not tokenizer.path and (tokenizer.size or 0) > GRAY_LEVELS:
        text = (
            f"the images are gray and have at most {GRAY_LEVELS} colors; choose tokenizer=gray or tokenizer=palette_16"
        )
        raise problem(text, "tokenizer.size")


class Train(Node):
    """igpt-train."""

    data: Data
    tokenizer: Tokenizer
    model: Model
    objective: Objective
    optim: Optim
    trainer: Annotated[Any, OneOf("trainer", (Trainer,), Trainer.given)]
    callbacks: Callbacks = UNSET
    logger: Loggers = UNSET
    evaluators: Evaluators = UNSET
    name: Text
    run: MaybeText = UNSET
    init_from: MaybeText
    interpolate_positions: Flag
    seed: Seed
    order: Order
    compile: Flag
    activation_checkpointing: Flag
    matmul_precision: MatmulPrecision
    save_every: MaybeCount
    sample_every: MaybeCount
    sampling: Sampling
    monitor: Text
    monitor_mode: MaybeGoal
    image_class: ClassChoice
    run_dir: Text

    @model_validator(mode="after")
    def _positions_are_the_tokens_of_an_image(self, info: ValidationInfo) -> Train:
        tokens = None if before_model(info) else self._tokens()
        if tokens is not None and self.model.n_positions not in (None, tokens):
            side = self.data.source.resolution
            raise problem(f"images of {side}x{side} have {tokens} tokens; leave it null", "model.n_positions")
        return self

    def _tokens(self) -> int | None:
        """Tokens per image, if the configuration alone determines them."""
        source = getattr(self.data, "source", None)
        each = {RGB: 3, Gray: 1, PaletteRecipe: 1}.get(type(self.tokenizer))
        if not isinstance(source, Component) or each is None:
            return None
        resolution: int | None = getattr(source, "resolution", None)
        return resolution and each * resolution**2

    @model_validator(mode="after")
    def _gray_images_have_few_colors(self, info: ValidationInfo) -> Train:
        if not before_model(info):
            check_colors(self.data, self.tokenizer)
        return self

    @model_validator(mode="after")
    def _quarters_are_whole(self, info: ValidationInfo) -> Train:
        side = getattr(getattr(self.data, "source", None), "resolution", None)
        jigsaw = "jigsaw" in (getattr(self.objective, "transforms", None) or ())
        if jigsaw and side and side % 2 and not before_model(info):
            text = f"images of {side}x{side} cannot be divided into quarters; leave jigsaw out"
            raise problem(text, "objective.transforms")
        return self

    @model_validator(mode="after")
    def _stages_divide_the_resolution(self, info: ValidationInfo) -> Train:
        stages = getattr(self.objective, "stages", None) or ()
        if not stages or before_model(info):
            return self
        side = getattr(getattr(self.data, "source", None), "resolution", None)
        for resolution, _ in stages:
            if side and (resolution >= side or side % resolution):
                text = f"images of {side}x{side} cannot be averaged to {resolution}x{resolution}; choose a divisor"
                raise problem(text, "objective.stages")
        if self.order != "raster":
            raise problem("it needs order=raster; leave out one of the two", "objective.stages")
        if isinstance(self.tokenizer, dict):
            raise problem("it needs a tokenizer of igpt, which has one or three tokens per pixel", "objective.stages")
        return self

    @model_validator(mode="after")
    def _random_orders_need_learned_positions(self, info: ValidationInfo) -> Train:
        steps = getattr(self.objective, "random_order_steps", None)
        if steps is not None and self.model.positions != "learned" and not before_model(info):
            raise problem("it needs model.positions=learned; leave out one of the two", "objective.random_order_steps")
        return self

    @model_validator(mode="after")
    def _interpolation_needs_a_model(self) -> Train:
        if self.interpolate_positions and self.init_from is None:
            raise problem("it is for the position embeddings of a model in init_from", "interpolate_positions")
        return self

    @model_validator(mode="after")
    def _classifiers_have_a_task(self) -> Train:
        objective = self.objective
        if isinstance(objective, Classification) and objective.task is None and self.init_from is None:
            raise problem("without init_from it must name the pre-training task, ar or mlm", "objective.task")
        return self

    @model_validator(mode="after")
    def _layers_exist(self, info: ValidationInfo) -> Train:
        if before_model(info):
            return self
        n_layers = self.model.n_layer + 1  # with the final norm
        for name, callback in (self.callbacks or {}).items():
            for layer in callback.layers or () if isinstance(callback, OnlineProbe) else ():
                if not -n_layers <= layer < n_layers:
                    raise problem(f"layers are numbered from 0 to {n_layers - 1}", f"callbacks.{name}.layers")
        return self

    @model_validator(mode="after")
    def _validation_images_are_not_trained_on(self) -> Train:
        if getattr(getattr(self.data, "source", None), "full_train", False) is True:
            for name, callback in (self.callbacks or {}).items():
                if isinstance(callback, EarlyStop | OnlineProbe | PruneTrial):
                    text = f"callbacks.{name} uses the validation images, which would be trained on; set that to null"
                    raise problem(text, "data.source.full_train")
        return self

    @model_validator(mode="after")
    def _monitored_is_measured(self, info: ValidationInfo) -> Train:
        known = None if before_model(info) else self._measured()
        if known is None:
            return self
        monitors = {
            f"callbacks.{name}.monitor": getattr(c, "monitor", None) for name, c in (self.callbacks or {}).items()
        }
        for key, monitor in {"monitor": self.monitor, **monitors}.items():
            if monitor is not None and monitor not in known:
                raise problem(f"a validation of this run measures {', '.join(known)}", key)
            if monitor is not None and monitor.startswith("probe/"):
                self._require_probe_in_each_validation(key)
        return self

    def _require_probe_in_each_validation(self, key: str) -> None:
        """Otherwise its value at some validations is an old one."""
        interval = self.trainer.val_check_interval
        if interval >= self.trainer.max_steps:
            return  # there is one, of the last step, in which all probes are measured
        for name, callback in (self.callbacks or {}).items():
            if isinstance(callback, OnlineProbe) and callback.every_n_steps > interval:
                every = f"callbacks.{name}.every_n_steps is {callback.every_n_steps}"
                raise problem(f"{every}, but it must be measured by each validation, every {interval} steps", key)

    @model_validator(mode="after")
    def _best_value_is_known(self) -> Train:
        if self.monitor_mode is None:
            raise problem(unknown_goal(self.monitor), "monitor_mode")
        for name, callback in (self.callbacks or {}).items():
            if isinstance(callback, KeepBest | EarlyStop):
                goal = self.monitor_mode if callback.monitor == self.monitor else goal_of(callback.monitor)
                if callback.mode is None:
                    raise problem(unknown_goal(callback.monitor), f"callbacks.{name}.mode")
                if goal not in (None, callback.mode):
                    raise problem(f"the best {callback.monitor} is its {goal}; choose that", f"callbacks.{name}.mode")
        return self

    @model_validator(mode="after")
    def _sampling_applies_to_the_model(self) -> Train:
        causal = self._causal()
        if causal is None:
            return self
        sections = {"sampling": self.sampling}
        for name, callback in (self.callbacks or {}).items():
            if isinstance(callback, SampleImages) and callback.sampling is not None:
                sections[f"callbacks.{name}.sampling"] = callback.sampling
        for key, sampling in sections.items():
            for name in sampling.inapplicable(causal):
                raise problem(not_applicable(causal), f"{key}.{name}")
        return self

    def _causal(self) -> bool | None:
        """Whether the model is autoregressive; None if that does not follow from the configuration alone."""
        if isinstance(self.objective, Classification):
            return None if self.objective.task is None else self.objective.task == "ar"
        if isinstance(self.objective, Autoregressive | Masked):
            return isinstance(self.objective, Autoregressive)
        return None

    @model_validator(mode="after")
    def _shards_are_enough(self) -> Train:
        if not isinstance(getattr(self.trainer, "strategy", None), ShardedStrategy):
            return self
        if getattr(self.optim, "name", None) == "muon":
            raise problem("it needs whole matrices, which trainer=fsdp shards; choose optim=adam", "optim.name")
        for name, callback in (self.callbacks or {}).items():
            if isinstance(callback, WeightAverage):
                raise problem("it needs whole weights, which trainer=fsdp shards; set it to null", f"callbacks.{name}")
        return self

    def _measured(self) -> list[str] | None:
        """Names of the metrics of a validation; None if a component of the user's own may log others."""
        callbacks = (self.callbacks or {}).values()
        if isinstance(self.objective, dict) or any(isinstance(callback, dict) for callback in callbacks):
            return None
        measured = ["val/nats_per_token", "val/bits_per_token"]
        if isinstance(self.objective, Classification):
            measured.append("val/accuracy")
        if any(isinstance(callback, WeightAverage) for callback in callbacks):
            measured += [name.replace("val/", "val_ema/") for name in measured]
        for callback in callbacks:
            if isinstance(callback, OnlineProbe):
                all_layers = range(self.model.n_layer + 1)
                chosen = all_layers if callback.layers is None else [all_layers[layer] for layer in callback.layers]
                measured += [f"probe/layer_{layer}" for layer in chosen]
        return measured


def unknown_goal(metric: str) -> str:
    return f"igpt does not know which value of {metric} is the best; choose min or max"


class Plan(Train):
    """igpt-plan."""

    run: Annotated[None, expects("null, since a plan needs a recipe: experiment=NAME or single values")] = UNSET
    device: Annotated[str, one_of(*DEVICES)]
    devices: MaybeCount
    utilization: MaybeShareOrAll
    watts: MaybeNotNegative
    price_per_hour: MaybeNotNegative
    fit: Flag
    scaling_fit: MaybeText
    budget: MaybePositive
    samples: Count

    @model_validator(mode="after")
    def _a_proposal_needs_a_law_and_a_budget(self) -> Plan:
        if (self.scaling_fit is None) != (self.budget is None):
            raise problem("scaling_fit and budget make a proposal together; give both", "budget")
        if self.budget is not None and self.init_from is not None:
            raise problem("the size is that of the model in init_from; leave scaling_fit and budget null", "budget")
        return self


class OfRun(Node):
    """Keys that all commands with a trained model share."""

    run: Text
    checkpoint: Checkpoint
    weights: Weights
    device: Device
    matmul_precision: MatmulPrecision


class Evaluate(OfRun):
    """igpt-evaluate."""

    data: Data = UNSET
    split: Annotated[str, one_of("train", "validation", "test")]
    evaluators: Evaluators = UNSET
    logger: Loggers = UNSET
    name: Text
    run_dir: Text
    seed: Seed


class Sample(OfRun):
    """igpt-sample."""

    n: Natural
    completions: Natural
    images: Annotated[
        Text | Annotated[list[Text], Field(min_length=1)] | None,
        expects("a file or folder, a list of them, [a.png,folder], or null for test images"),
    ]
    mask: Annotated[
        Text | Annotated[list[Text], Field(min_length=1)] | None,
        expects("an image file or folder, a list of them, [a.png,folder], or null"),
    ]
    n_images: Count
    image_class: ClassChoice
    given: AnyShare
    seed: Seed
    sampling: Sampling
    output: MaybeText

    @model_validator(mode="after")
    def _something_is_asked_for(self) -> Sample:
        if self.n == 0 and self.completions == 0:
            raise problem("with completions=0 there is nothing to generate; give n of 1 or more", "n")
        if self.completions == 0 and self.mask is not None:
            raise problem("it is how often the mask is filled, so it must be at least 1", "completions")
        return self


class Export(Node):
    """igpt-export."""

    run: Text
    format: Annotated[str, one_of(*EXPORT_FORMATS)]
    output: MaybeText
    push_to: Annotated[
        str | None,
        Field(pattern=r"^(wandb:[\w.-]+/)?[\w.-]+/[\w.-]+$"),
        expects("OWNER/NAME on the Hugging Face Hub, wandb:ENTITY/PROJECT/NAME, or null"),
    ]
    checkpoint: Checkpoint
    weights: Weights
    dtype: Annotated[str | None, one_of("float32", "bfloat16", "float16", None)]
    evaluate: Flag
    evaluators: Evaluators = UNSET
    license: MaybeText


class ProbeSettings(Component):
    target = "igpt.evaluation.probe_scores.ProbeSettings"

    penalties: Annotated[
        list[NotNegative], Field(min_length=1), expects("one number or more of at least 0, such as [0.01,1]")
    ] = UNSET
    standardize: Flag = UNSET
    regions: Count = UNSET
    solver: Annotated[str, one_of("lbfgs", "stream")] = UNSET
    learning_rates: Annotated[
        list[Positive], Field(min_length=1), expects("one number or more above 0, such as [1,0.1]")
    ] = UNSET
    epochs: Count = UNSET
    batch_size: Count = UNSET
    augment: Flag = UNSET
    attentive: Flag = UNSET
    attentive_rate: Positive = UNSET
    save_every: Count = UNSET
    concatenate: MaybeCount = UNSET
    neighbors: Count = UNSET
    layer: MaybeNatural = UNSET


class Probe(OfRun):
    """igpt-probe."""

    data: Data = UNSET
    logger: Loggers = UNSET
    precision: Annotated[str, one_of("auto", "32-true", "bf16-mixed")]
    masks: Natural
    untrained: Flag
    labels_per_class: Annotated[list[Count], expects("a list of whole numbers of at least 1, such as [4,25]")]
    subsets: Count
    probe: Annotated[Any, OneOf("probe", (ProbeSettings,))]
    devices: Count
    num_nodes: Count
    name: Text
    seed: Seed
    run_dir: Text

    @model_validator(mode="after")
    def _settings_apply_to_the_solver(self) -> Probe:
        settings = self.probe
        if not isinstance(settings, ProbeSettings):
            return self
        if settings.solver == "stream":
            if self.labels_per_class:
                raise problem("few labels are for probe.solver=lbfgs; leave it []", "labels_per_class")
            if settings.attentive is True and self.masks:
                raise problem("attention pooling sees whole images; set masks=0", "masks")
            return self
        for name in ("augment", "attentive"):
            if getattr(settings, name) is True:
                raise problem("it needs probe.solver=stream", f"probe.{name}")
        for name in ("devices", "num_nodes"):
            if getattr(self, name) > 1:
                raise problem("only probe.solver=stream uses several processes", name)
        return self


class Palette(Node):
    """igpt-palette."""

    data: Data
    tokenizer: Tokenizer

    @model_validator(mode="after")
    def _gray_images_have_few_colors(self, info: ValidationInfo) -> Palette:
        if not before_model(info):
            check_colors(self.data, self.tokenizer)
        return self


class Jobs(Node):
    """igpt-jobs."""

    sweep: MaybeText


class Report(Node):
    """igpt-report."""

    run: Annotated[
        Text | Annotated[list[Text], Field(min_length=1)],
        expects("a run directory, the directory of a sweep, or a list of them, [DIR,DIR]"),
    ]
    output: MaybeText


class Dashboard(Node):
    """igpt-dashboard."""

    entity: MaybeText
    project: Text
    name: Text
    monitor: Text
    parameters: Texts
    dry_run: Flag


class Runs(Node):
    """igpt-runs."""

    folder: Text
    wandb: Annotated[
        str | None, Field(pattern=r"^[^/\s]+/[^/\s]+$"), expects("the name of a W&B project, ENTITY/PROJECT, or null")
    ]
    where: Annotated[Text | list[Text] | None, expects("a filter, KEY=VALUE or KEY<VALUE, a list of filters, or null")]
    sort: Annotated[Text | list[Text] | None, expects("a key, -KEY, a list of keys, or null")]
    columns: Annotated[Text | list[Text] | None, expects("a key, a list of keys, or null")]
    format: Annotated[str, one_of("table", "csv")]


COMMANDS: dict[str, type[Node]] = {
    "dashboard": Dashboard,
    "evaluate": Evaluate,
    "export": Export,
    "jobs": Jobs,
    "palette": Palette,
    "plan": Plan,
    "probe": Probe,
    "report": Report,
    "runs": Runs,
    "sample": Sample,
    "train": Train,
}
