import functools
import re
from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_module
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.checkpoint import checkpoint

from igpt.commands.build import configured_task
from igpt.data.datamodule import ImageDataModule
from igpt.data.sources import EmojiSource
from igpt.errors import IgptError
from igpt.model.config import PRESETS, TransformerConfig
from igpt.model.transformer import MLP, Transformer
from igpt.objectives.losses import autoregressive_nats
from igpt.objectives.objective import Objective
from igpt.objectives.tasks import Autoregressive
from igpt.planning.compute import energy, measure, price
from igpt.planning.devices import DEVICES, PRECISIONS
from igpt.planning.memory import activation_memory
from igpt.planning.recipe import Recipe
from igpt.training.callbacks.weight_average import WeightAverage
from igpt.training.optimizers import OptimConfig

WIDE = TransformerConfig(n_layer=2, n_head=4, n_embd=64, vocab_size=32, n_positions=64)


def make_recipe(model=WIDE, **changes):
    """One laptop, float32; torch's norms are not fused there, as in the measurements below."""
    settings = {
        "resolution": 8, "batch_size": 8, "device_batch_size": None, "steps": 10, "optimizer": "adam",
        "precision_name": "32-true", "device": DEVICES["laptop"], "devices": 1, "utilization": 0.5,
    }  # fmt: skip
    return Recipe(model=model, **{**settings, **changes})


# Parameters and FLOPs


@pytest.mark.parametrize(
    ("name", "positions", "millions"), [("s", 1024, 76.57), ("m", 1024, 455.16), ("l", 1024, 1362.25)]
)
def test_counts_are_the_papers_and_the_closed_form(name, positions, millions):
    config = TransformerConfig(**PRESETS[name], n_positions=positions)
    size, depth, width = measure(config), config.n_layer, config.n_embd
    assert size.parameters / 1e6 == pytest.approx(millions, abs=0.01)
    assert size.block_matrices == 12 * depth * width**2
    # Forward 2, backward 4 FLOPs for each weight of a matrix and each token; the embeddings are looked up.
    assert size.linear_flops == 6 * positions * (12 * depth * width**2 + 512 * width)
    # Scores and averages: T x T x C products each, forward once and backward twice, causal or not.
    assert size.attention_flops == 12 * depth * width * positions**2
    assert measure(replace(config, causal=False)).flops == size.flops


def test_xl_at_64x64_has_the_papers_parameters():
    assert measure(TransformerConfig(**PRESETS["xl"], n_positions=4096)).parameters / 1e6 == pytest.approx(
        6801, rel=2e-3
    )


def test_igpt_s_is_about_6e19_flops_in_its_weights():
    assert measure(TransformerConfig(**PRESETS["s"])).linear_flops * 128 * 1e6 == pytest.approx(6e19, rel=0.02)


class Biased(MLP):
    def __init__(self, config):
        super().__init__(config)
        self.fc, self.out = (nn.Linear(layer.in_features, layer.out_features) for layer in (self.fc, self.out))

    def activate(self, x):
        return x.relu()


def test_a_variant_with_biases_is_counted():
    plain, biased = measure(WIDE), measure(replace(WIDE, mlp=f"{__name__}.Biased"))
    assert biased.parameters == plain.parameters + WIDE.n_layer * 5 * WIDE.n_embd
    assert biased.linear_flops == plain.linear_flops
    assert biased.attention_flops == plain.attention_flops


def test_modern_parts_are_counted():
    """Beside the paper's parameters: gains of queries and keys, a norm, and two weights per mix."""
    depth, width, head = WIDE.n_layer, WIDE.n_embd, WIDE.head_size
    plain = measure(WIDE)
    choices = {"rotary": "2d", "mlp": "relu2", "qk_norm": True, "embedding_norm": True, "logit_softcap": 15.0}
    modern = measure(replace(WIDE, **choices, value_residual=True, input_shortcut=True, zero_init=True))
    assert modern.parameters == plain.parameters + 2 * depth * head + width + 2 * 2 * (depth - 1)
    assert modern.block_matrices == plain.block_matrices
    assert (modern.linear_flops, modern.attention_flops) == (plain.linear_flops, plain.attention_flops)


def test_gates_and_value_embeddings_are_counted():
    config = TransformerConfig(n_layer=5, n_head=2, n_embd=24, vocab_size=32, n_positions=64)
    depth, width, plain = 5, 24, measure(config)
    gated = measure(replace(config, mlp="swiglu", value_embedding=[0, 3, -1]))
    assert gated.block_matrices == plain.block_matrices == depth * (4 + 3 * 8 / 3) * width**2
    assert gated.parameters == plain.parameters + 33 * width + 3 * 2  # a row for no token, two weights per mix
    assert (gated.linear_flops, gated.attention_flops) == (plain.linear_flops, plain.attention_flops)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_optimizer_values_are_what_the_optimizer_remembers(name):
    model = Transformer(WIDE)
    optimizer = OptimConfig(lr=0.1, total_steps=1, name=name).optimizer(model)
    model(torch.zeros(1, 64, dtype=torch.long)).sum().backward()
    optimizer.step()
    remembered = sum(t.numel() for state in optimizer.state.values() for t in state.values() if t.ndim > 0)
    assert measure(WIDE).optimizer_values(name) == remembered


# Memory, against what torch holds


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_the_average_of_the_weights_is_what_the_callback_keeps(precision):
    objective = Objective(Transformer(WIDE), Autoregressive(), dict)
    if precision == "bf16-true":
        objective.bfloat16()
    callback = WeightAverage()
    callback.on_fit_start(None, objective)
    kept = sum(weight.nbytes for weight in callback.average.state_dict().values())
    with_average, without = (
        make_recipe(precision_name=precision, averages=averages).memory(1, checkpointed=False)
        for averages in (True, False)
    )
    assert with_average.average == kept
    assert with_average.peak == without.peak + kept


def test_the_plan_shows_the_average_of_a_recipe_with_one(command):
    averaged = lines_of(command("plan", "experiment=emoji_ar", "callbacks=ema", "device=laptop"))
    assert averaged["average"] == averaged["weights"]  # float32
    assert "average" not in lines_of(command("plan", "experiment=emoji_ar", "callbacks=null", "device=laptop"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("width", [64, 256])  # where weights or activations are most of it
def test_activations_are_what_autograd_saves(width, precision, causal):
    config, images = replace(WIDE, n_layer=5, n_embd=width, causal=causal), 3
    model, tokens = Transformer(config), torch.randint(32, (images, 64))
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage
        return tensor

    mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor), mixed:
        loss = autoregressive_nats(model(tokens), tokens).mean()
    assert loss.requires_grad
    kept, logits, _ = activation_memory(config, PRECISIONS[precision], images, checkpointed=False)
    measured = sum(storage.nbytes() for storage in saved.values())
    assert kept + logits / 3 == pytest.approx(measured, rel=0.02)  # of the logits, their log-probabilities are saved


MANY = replace(WIDE, n_layer=6)  # with these, activations decide on 8 images; WIDER's state decides on 3
WIDER = replace(WIDE, n_embd=192, n_layer=4)


@pytest.mark.parametrize(
    ("model", "images", "precision", "checkpointed"),
    [
        (MANY, 8, "32-true", False),
        (MANY, 8, "32-true", True),
        (MANY, 8, "bf16-mixed", False),
        (MANY, 8, "bf16-mixed", True),
        (WIDER, 3, "32-true", False),
        (WIDER, 3, "bf16-mixed", True),
    ],
)
def test_peak_is_that_of_a_training_step(model, images, precision, checkpointed):
    network, tokens = Transformer(model), torch.randint(32, (images, model.n_positions))
    if checkpointed:
        for block in network.blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    optimizer = torch.optim.Adam(network.parameters(), foreach=True)  # as on GPUs
    tracker = MemTracker()
    tracker.track_external(network, optimizer, tokens)
    with tracker:
        for _ in range(2):  # in Lightning's order: the last step's gradients live through the forward pass
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                loss = autoregressive_nats(network(tokens), tokens).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tracker.reset_mod_stats()
    (measured,) = (parts["Total"] for parts in tracker.get_tracker_snapshot("peak").values() if parts["Total"] > 0)
    planned = make_recipe(model, batch_size=images, precision_name=precision).memory(images, checkpointed).peak
    assert planned == pytest.approx(measured, rel=0.15 if checkpointed else 0.03)


def test_largest_micro_batch_fits_and_one_more_does_not():
    recipe = make_recipe(device=DEVICES["h100"], precision_name="bf16-mixed", model=TransformerConfig(**PRESETS["m"]))
    for checkpointed in (False, True):
        most = recipe.largest_micro_batch(checkpointed)
        assert recipe.memory(most, checkpointed).peak <= recipe.usable < recipe.memory(most + 1, checkpointed).peak


def test_no_batch_fits_where_the_state_does_not():
    recipe = make_recipe(device=DEVICES["rtx4090"], model=TransformerConfig(**PRESETS["xl"]))
    assert recipe.largest_micro_batch(checkpointed=True) == 0


# Time and money


def test_time_is_that_of_the_slower_of_arithmetic_and_memory():
    recipe = make_recipe(batch_size=8, utilization=0.25)
    assert recipe.micro_step().arithmetic_bound
    assert recipe.step_seconds == pytest.approx(8 * recipe.size.flops / (0.384e12 * 0.25))
    slow = replace(recipe, device=replace(recipe.device, bandwidth=1e6))
    assert slow.step_seconds == pytest.approx(2 * slow.memory(8, checkpointed=False).peak / 1e6)
    of_two = make_recipe(batch_size=2).step_seconds
    assert make_recipe(batch_size=8, device_batch_size=3).step_seconds == pytest.approx(4 * of_two)


def test_energy_and_price():
    assert energy(3600, devices=8, watts=700) == pytest.approx(5.6)
    assert price(7200, devices=8, per_hour=3) == pytest.approx(48)


# What igpt-train would do


@pytest.mark.parametrize(("images", "devices", "most"), [(128, 8, None), (128, 4, 10), (12, 2, 4), (7, 1, 3)])
def test_batches_are_cut_as_the_data_module_cuts_them(images, devices, most, tmp_path):
    data = ImageDataModule(EmojiSource(8), images, str(tmp_path), device_batch_size=most)
    recipe = make_recipe(batch_size=images, devices=devices, device_batch_size=most)
    assert recipe.n_micro_batches == data.accumulation(devices)


def test_causal_is_what_the_task_says():
    with initialize_config_module("igpt.conf", version_base="1.3"):
        assert configured_task(compose("plan", ["objective=ar"])).causal
        assert not configured_task(compose("plan", ["objective=mlm"])).causal
        assert not configured_task(compose("plan", ["objective=classify", "objective.task=mlm"])).causal


def lines_of(text):
    """The lines of a plan by their names."""
    return {line[2:22].strip(): line[22:].strip() for line in text.splitlines()}


def test_plan_of_a_recipe_needs_nothing_but_the_recipe(command, tmp_path):
    lines = lines_of(command("plan", "experiment=emoji_ar", "device=laptop"))
    assert (
        lines["parameters"]
        == f"{sum(p.numel() for p in Transformer(TransformerConfig(6, 4, 128, 128, 256)).parameters()):,}"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("device", "expected"), [("laptop", "32-true"), ("v100", "32-true"), ("a100", "bf16-mixed")])
def test_the_plan_is_in_the_precision_that_suits_its_device(command, device, expected):
    lines = lines_of(command("plan", "experiment=emoji_ar", f"device={device}"))
    assert lines["device"].endswith(f"TFLOP/s in {expected}")


def test_plan_of_rgb_tokens_has_three_a_pixel(command):
    lines = lines_of(command("plan", "experiment=emoji_ar", "tokenizer=rgb", "data.source.resolution=8"))
    assert lines["images"] == "8x8 pixels, 192 tokens, vocabulary of 256"


def test_plan_fits_the_micro_batch(command):
    lines = lines_of(command("plan", "model=xl", "trainer=gpu", "fit=true"))
    assert "with a single image the peak is" in lines["checkpointing off"]
    advice = lines_of(command("plan", "model=s", "trainer=gpu", "fit=true", "data.batch_size=512"))
    assert advice["fits 72.0 GB"].split()[0] == "no"
    taken = lines_of(command("plan", "model=s", "trainer=gpu", "data.batch_size=512", advice["checkpointing off"]))
    assert taken["fits 72.0 GB"].split()[0] == "yes"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["device=abacus"], "it must be h100, h200, a100, v100, rtx4090 or laptop"),
        (["device=v100", "trainer.precision=bf16-mixed"], "V100 SXM2 32GB does not support bf16"),
        (["trainer.precision=64-true"], "igpt-plan knows 32-true, bf16-mixed"),
        (["devices=3"], "choose a multiple of 3"),
        (["trainer.max_steps=-1"], "trainer.max_steps is -1; it must be a whole number of at least 1"),
        (["model.n_positions=7"], "have 1024 tokens"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(command, arguments, message):
    with pytest.raises(SystemExit) as caught:
        command("plan", *arguments)
    assert caught.value.code.startswith("Error: ")
    assert message in caught.value.code


def test_a_utilization_above_one_is_refused():
    with pytest.raises(IgptError, match=r"utilization in \(0, 1\]"):
        make_recipe(utilization=1.5)


def test_devices_that_share_a_model_keep_their_share_and_what_computes():
    """Four devices, numbers of 4 bytes. Of blocks of 12 C^2 weights, two are gathered, and the gradients of one."""
    whole, shared = (make_recipe(devices=4, sharded=sharded).memory(2, checkpointed=False) for sharded in (False, True))
    parameters, block = measure(WIDE).parameters, 12 * 64**2
    assert (shared.weights, shared.gradients, shared.optimizer) == (
        parameters,
        parameters,
        2 * parameters,
    )  # of 4 bytes
    assert shared.gathered == 4 * (3 * block + 2 * (parameters - 2 * block))
    assert (whole.gathered, shared.activations) == (0, whole.activations)


def test_fsdp_is_planned_with_shares(command):
    arguments = ("model=xl", "data=imagenet", "optim=adam", "devices=8", "device=a100", "data.batch_size=64")
    plans = [command("plan", *arguments, trainer) for trainer in ("trainer=ddp", "trainer=fsdp")]
    weights = [float(re.search(r"weights +([0-9.]+)", plan)[1]) for plan in plans]
    assert weights[1] == pytest.approx(weights[0] / 8, abs=0.001)
