"""The groups model, objective, optim, trainer, callbacks, logger and evaluators."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, WrapValidator, model_validator

from igpt.configuration.schema.components import UNSET, Component, Node, OneOf, OpenComponent, named_parts
from igpt.configuration.schema.values import (
    BelowOne,
    ClassChoice,
    Count,
    Flag,
    MaybeCount,
    MaybeFlag,
    MaybeGoal,
    MaybeNotNegative,
    MaybePositive,
    MaybeShareOrAll,
    MaybeText,
    Natural,
    NotNegative,
    Positive,
    Seed,
    ShareOrAll,
    Text,
    before_model,
    expects,
    one_of,
    problem,
)  # fmt: skip
from igpt.generation.sampling_config import CACHE_DTYPES, SamplingConfig
from igpt.model.config import PARTS, ROTARY, part_choices


class Sampling(Node):
    """:class:`igpt.generation.sampling_config.SamplingConfig`."""

    temperature: NotNegative = UNSET
    top_k: MaybeCount = UNSET
    top_p: ShareOrAll = UNSET
    passes: MaybeCount = UNSET
    choice_temperature: MaybeNotNegative = UNSET
    cache_dtype: Annotated[str | None, one_of(*CACHE_DTYPES, None)] = UNSET
    compile: Flag = UNSET

    def inapplicable(self, causal: bool) -> list[str]:
        return SamplingConfig(**self.model_dump(exclude_unset=True)).inapplicable(causal)


def part(kind: str) -> WrapValidator:
    """A part of the network: a name in PARTS, or a user's own class."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        if value in PARTS[kind]:
            return value
        if not isinstance(value, str) or "." not in value:
            raise problem(f"it must be {part_choices(kind)}")
        from igpt.model.parts import part_problem  # with torch, which a user's class needs anyway

        if (wrong := part_problem(value)) is not None:
            raise problem(wrong)
        return value

    return WrapValidator(check)


class Model(Node):
    n_layer: Count
    n_head: Count
    n_embd: Count
    n_positions: MaybeCount
    positions: Annotated[str, part("positions")]
    norm: Annotated[str, part("norm")]
    attention: Annotated[str, part("attention")]
    mlp: Annotated[str, part("mlp")]
    rotary: Annotated[str | None, one_of(*ROTARY, None)] = UNSET
    qk_norm: Flag = UNSET
    value_residual: Flag = UNSET
    value_embedding: Annotated[list[int], expects("a list of blocks, such as [0,-1]")] = UNSET
    input_shortcut: Flag = UNSET
    embedding_norm: Flag = UNSET
    logit_softcap: MaybePositive = UNSET
    zero_init: Flag = UNSET
    dropout: BelowOne = UNSET
    attention_dropout: BelowOne = UNSET

    @model_validator(mode="after")
    def _heads_share_the_width(self, info: ValidationInfo) -> Model:
        if self.n_embd % self.n_head and not before_model(info):
            raise problem(f"it must be a multiple of model.n_head={self.n_head}", "n_embd")
        return self

    @model_validator(mode="after")
    def _heads_can_turn(self, info: ValidationInfo) -> Model:
        if self.rotary and (self.n_embd // self.n_head) % (divisor := ROTARY[self.rotary]) and not before_model(info):
            raise problem(f"model.rotary={self.rotary} needs heads of a multiple of {divisor} channels", "n_head")
        return self

    @model_validator(mode="after")
    def _blocks_exist(self, info: ValidationInfo) -> Model:
        exist = all(-self.n_layer <= block < self.n_layer for block in self.value_embedding or ())
        if not exist and not before_model(info):
            raise problem(f"blocks are numbered from 0 to {self.n_layer - 1}", "value_embedding")
        return self


TRANSFORMS = ("rotation", "transposition", "flip", "colors", "jigsaw")


class Pretraining(Component):
    """Keys of both pre-training tasks."""

    transforms: Annotated[
        list[Annotated[str, one_of(*TRANSFORMS)]], expects(f"a list of some of {', '.join(TRANSFORMS)}")
    ] = UNSET
    stages: Annotated[
        list[Annotated[list[Count], Field(min_length=2, max_length=2)]],
        expects("a list of pairs of a resolution and a step, [[16, 1000]]"),
    ] = UNSET
    seed: Seed = UNSET

    @model_validator(mode="after")
    def _stages_rise(self) -> Pretraining:
        for first, second in itertools.pairwise(self.stages or ()):
            if first[0] >= second[0] or first[1] >= second[1]:
                raise problem("resolutions and steps must both increase", "stages")
        return self


class Autoregressive(Pretraining):
    target = "igpt.objectives.tasks.Autoregressive"

    random_order_steps: Annotated[
        list[Natural] | None, Field(min_length=2, max_length=2), expects("two steps, [1000, 2000], or null")
    ] = UNSET

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Autoregressive:
        start, stop = self.random_order_steps or (0, 0)
        if start > stop:
            raise problem("it must name the earlier step first", "random_order_steps")
        if self.random_order_steps and self.stages:
            raise problem("objective.stages cannot be combined with it; leave out one of the two", "random_order_steps")
        return self


class Masked(Pretraining):
    target = "igpt.objectives.tasks.Masked"

    ratio: ShareOrAll = UNSET
    max_ratio: MaybeShareOrAll = UNSET
    bert: Flag = UNSET

    @model_validator(mode="after")
    def _rises(self) -> Masked:
        if self.max_ratio is not None and self.max_ratio < (self.ratio or 0.15):
            raise problem(f"it must not be below objective.ratio={self.ratio}", "max_ratio")
        return self


class Classification(Component):
    target = "igpt.objectives.tasks.Classification"

    task: Annotated[str | None, one_of("ar", "mlm", None)]
    generative_weight: NotNegative = UNSET
    classification_weight: NotNegative = UNSET
    votes: Count = UNSET


Objective = Annotated[Any, OneOf("objective", (Autoregressive, Masked, Classification))]


class OptimConfig(Component):
    target = "igpt.training.optimizers.OptimConfig"
    given = ("bfloat16",)

    lr: Positive
    total_steps: Count
    name: Annotated[str, one_of("adam", "muon")] = UNSET
    betas: Annotated[
        list[BelowOne], Field(min_length=2, max_length=2), expects("two numbers of at least 0 and below 1, [0.9,0.95]")
    ] = UNSET
    warmup_steps: Natural = UNSET
    schedule: Annotated[str, one_of("cosine", "linear", "wsd", "constant")] = UNSET
    decay_share: ShareOrAll = UNSET
    matrix_lr: Positive = UNSET
    momentum: BelowOne = UNSET
    momentum_warmup_steps: Natural = UNSET
    weight_decay: NotNegative = UNSET
    cautious_decay: Flag = UNSET


Optim = Annotated[Any, OneOf("optim", (OptimConfig,))]


class ShardedStrategy(OpenComponent):
    target = "pytorch_lightning.strategies.ModelParallelStrategy"
    refused = {  # noqa: RUF012  # a ClassVar, as in the base class
        "data_parallel_size": "all processes share the weights",
        "tensor_parallel_size": "all processes share the weights",
    }

    save_distributed_checkpoint: Annotated[Literal[False], expects("false: a checkpoint of igpt is one file")]


PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "bf16", 16, 32, 64)
BY_STEPS = "training counts steps, so set trainer.max_steps"
BY_IGPT = "igpt sets it itself"


class Trainer(OpenComponent):
    target = "pytorch_lightning.Trainer"
    given = ("callbacks", "logger", "plugins", "default_root_dir")
    refused = {  # noqa: RUF012  # a ClassVar, as in the base class
        "accumulate_grad_batches": "set data.device_batch_size instead, how many images a device takes at once",
        "callbacks": "add a callback to the group callbacks",
        "logger": "add a logger to the group logger",
        "plugins": BY_IGPT,
        "default_root_dir": BY_IGPT,
        "enable_checkpointing": BY_IGPT,
        "max_epochs": BY_STEPS,
        "min_epochs": BY_STEPS,
        "limit_train_batches": BY_STEPS,
        "overfit_batches": "it would change what is trained on; use a smaller data set",
        "fast_dev_run": "use debug=fast",
        "reload_dataloaders_every_n_epochs": "training is one endless epoch",
        "enable_progress_bar": BY_IGPT,
        "barebones": "callbacks=none logger=none leaves out what is not needed",
    }

    accelerator: Annotated[str, one_of("auto", "cpu", "gpu", "cuda", "mps")]
    devices: Annotated[
        Count | Annotated[list[Natural], Field(min_length=1)] | Literal[-1, "auto"],
        expects("a number of devices, a list of their numbers, -1 for all or auto"),
    ]
    precision: Annotated[str | int, one_of(*PRECISIONS)]
    max_steps: Count
    val_check_interval: Count
    check_val_every_n_epoch: Annotated[Literal[None], expects("null: training is one endless epoch")] = UNSET
    log_every_n_steps: Count
    gradient_clip_val: MaybePositive = UNSET
    limit_val_batches: Annotated[
        int | float | None, Field(ge=0), expects("a number of at least 0, or null for all")
    ] = UNSET
    num_sanity_val_steps: Natural = UNSET
    enable_model_summary: Flag = UNSET
    use_distributed_sampler: Annotated[Literal[False], expects("false: igpt divides batches itself")] = UNSET
    strategy: Annotated[Any, OneOf("trainer", (ShardedStrategy,), words=("auto", "ddp"))] = UNSET
    num_nodes: Count = UNSET


class KeepBest(Component):
    target = "igpt.training.callbacks.keep_best.KeepBest"

    path: Text
    monitor: Text
    mode: MaybeGoal  # Train refuses null


class EarlyStop(OpenComponent):
    target = "igpt.training.callbacks.early_stop.EarlyStop"

    monitor: Text
    mode: MaybeGoal  # Train refuses null
    patience: Natural


class SampleImages(Component):
    target = "igpt.training.callbacks.sample_images.SampleImages"

    directory: Text
    every_n_steps: MaybeCount
    n_samples: Count = UNSET
    n_images: Count = UNSET
    n_completions: Count = UNSET
    image_class: ClassChoice = UNSET
    sampling: Sampling = UNSET


class OnlineProbe(Component):
    target = "igpt.training.callbacks.online_probe.OnlineProbe"

    every_n_steps: Count
    layers: Annotated[
        list[int] | None, Field(min_length=1), expects("a list of layers, [0, 3, -1], or null for all")
    ] = UNSET
    n_train: Count = UNSET
    n_validation: Count = UNSET
    penalty: NotNegative = UNSET


class Alerts(Component):
    target = "igpt.training.callbacks.alerts.Alerts"

    directory: Text
    spike: MaybePositive = UNSET
    horizon: Count = UNSET
    stalled_minutes: MaybePositive = UNSET
    low_mfu: MaybePositive = UNSET


class LayerNorms(Component):
    target = "igpt.training.callbacks.layer_norms.LayerNorms"

    every_n_steps: Count


class LossDetails(Component):
    target = "igpt.training.callbacks.loss_details.LossDetails"

    directory: Text
    every_n_steps: Count


class AttentionMaps(Component):
    target = "igpt.training.callbacks.attention_maps.AttentionMaps"

    directory: Text
    every_n_steps: Count
    n_images: Count = UNSET
    pixels: Annotated[
        list[Annotated[list[Natural], Field(min_length=2, max_length=2)]] | None,
        Field(min_length=1),
        expects("a list of pixels, [[ROW,COLUMN],...], or null"),
    ] = UNSET


class WeightAverage(Component):
    target = "igpt.training.callbacks.weight_average.WeightAverage"

    decay: BelowOne = UNSET


class PruneTrial(Component):
    target = "igpt.sweeps.pruning.PruneTrial"

    run_dir: Text
    storage: Text
    study: Text
    monitor: Text
    warmup: Annotated[float, Field(ge=0, le=1), expects("a number from 0 to 1")] = UNSET
    startup_trials: Natural = UNSET


CALLBACKS = (
    KeepBest,
    EarlyStop,
    SampleImages,
    OnlineProbe,
    Alerts,
    LayerNorms,
    LossDetails,
    AttentionMaps,
    WeightAverage,
    PruneTrial,
)
Callbacks = Annotated[
    dict[str, Annotated[Any, OneOf("callbacks", CALLBACKS, optional=True)]] | None, named_parts("callbacks")
]


class WandbTracker(OpenComponent):
    target = "igpt.training.loggers.wandb_tracker.WandbTracker"
    takes = ("pytorch_lightning.loggers.WandbLogger", "wandb.init")
    refused = {"log_model": "set logger.wandb.artifacts=[best] instead"}  # noqa: RUF012  # a ClassVar

    run_dir: Text
    project: Text
    entity: MaybeText = UNSET
    name: Text
    group: MaybeText = UNSET
    job_type: MaybeText = UNSET
    tags: Annotated[list[str] | None, expects("a list of texts, [a,b], or null")] = UNSET
    notes: MaybeText = UNSET
    offline: MaybeFlag
    artifacts: Annotated[
        list[Annotated[str, one_of("best", "last")]], expects("a list of checkpoints to upload, [best], [last], or []")
    ] = UNSET
    artifact_days: MaybeCount = UNSET


class TensorBoardTracker(OpenComponent):
    target = "igpt.training.loggers.tensorboard_tracker.TensorBoardTracker"
    takes = ("pytorch_lightning.loggers.TensorBoardLogger", "torch.utils.tensorboard.SummaryWriter")

    run_dir: Text


LOGGERS = (WandbTracker, TensorBoardTracker)
Loggers = Annotated[
    dict[str, Annotated[Any, OneOf("logger", LOGGERS, ("first_step",), optional=True)]] | None,
    named_parts("logger"),
]


class LikelihoodEvaluator(Component):
    target = "igpt.evaluation.likelihood.LikelihoodEvaluator"


class ClassificationEvaluator(Component):
    target = "igpt.evaluation.classification.ClassificationEvaluator"


EVALUATORS = (LikelihoodEvaluator, ClassificationEvaluator)
Evaluators = Annotated[
    dict[str, Annotated[Any, OneOf("evaluators", EVALUATORS, optional=True)]] | None, named_parts("evaluators")
]
