"""What makes steps fast or small must leave their numbers, and the names in checkpoints, as they are."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from conftest import random_weights
from igpt.batch import TokenBatch
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive, Masked
from igpt.training.callbacks.stop_on_nan import StopOnNaN
from igpt.training.optimizers import OptimConfig

has_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="needs a C++ compiler")
has_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make(causal=True):
    config = TransformerConfig(n_layer=3, n_head=2, n_embd=16, vocab_size=11, n_positions=16, causal=causal)
    return random_weights(config, std=0.1)


def batch_of(n):
    tokens = torch.randint(11, (n, 16), generator=torch.Generator().manual_seed(n))
    numbers = torch.arange(n)
    return TokenBatch(tokens, labels=numbers, indices=numbers, epochs=torch.zeros_like(numbers))


def train(model, n, task=None):
    """The loss and its gradients."""
    model.zero_grad()
    loss = (task or Autoregressive()).run(model, batch_of(n)).nats.mean()
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters()]


def saved_bytes(model):
    """What autograd keeps, each storage once."""
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        train(model, 8)
    return sum(sizes.values())


@pytest.mark.parametrize("task", [Autoregressive(), Masked(0.5)])
def test_checkpointing_saves_memory_and_changes_no_gradient(task):
    plain, checkpointed = make(task.causal), make(task.causal)
    checkpointed.checkpointing = True
    (loss, gradients), (other, others) = train(plain, 8, task), train(checkpointed, 8, task)
    assert torch.equal(loss, other)
    for ours, theirs in zip(gradients, others, strict=True):
        assert torch.equal(ours, theirs)
    if task.causal:
        assert saved_bytes(checkpointed) < saved_bytes(plain) / 2


def test_checkpoints_of_compiled_models_are_those_of_plain_ones():
    plain, compiled = make(), make()
    compiled.compile(backend="aot_eager")
    train(compiled, 2)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.nn.init.normal_(plain.head.weight)
    compiled.load_state_dict(plain.state_dict())
    torch.testing.assert_close(train(compiled, 2), train(plain, 2))
    torch.nn.init.normal_(compiled.head.weight)
    plain.load_state_dict(compiled.state_dict())
    torch.testing.assert_close(train(compiled, 2), train(plain, 2))


@torch.inference_mode()
def validate(model, n):
    return Autoregressive().run(model, batch_of(n)).nats


@has_compiler
def test_compiled_steps_equal_plain_ones_and_are_compiled_once():
    torch._dynamo.reset()
    plain, compiled = make(), make()
    compiled.compile()
    for n in (8, 8):
        torch.testing.assert_close(train(compiled, n), train(plain, n), rtol=1e-4, atol=1e-6)
    for n in (32, 21):  # the first validation; its last batch is smaller
        torch.testing.assert_close(validate(compiled, n), validate(plain, n))
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(compiled, 8)
        for n in (32, 21, 5):
            validate(compiled, n)
        train(compiled, 8)
        prompt, expected = batch_of(3).tokens[:, :4], plain(batch_of(3).tokens)  # sampling while training
        with torch.inference_mode():
            cache = compiled.new_cache(3)
            torch.testing.assert_close(compiled.next_logits(prompt, cache), expected[:, 4])
            torch.testing.assert_close(compiled.next_logits(batch_of(3).tokens[:, 4:5], cache), expected[:, 5])


@has_gpu
@pytest.mark.parametrize("task", [Autoregressive(), Masked()])
def test_a_step_never_waits_for_the_device(task, tmp_path):
    model = make(task.causal).cuda()
    optimizer = OptimConfig(lr=0.01, total_steps=10).optimizer(model)
    guard = StopOnNaN(tmp_path / "last.ckpt")
    trainer = SimpleNamespace(global_step=1, log_every_n_steps=10, accumulate_grad_batches=1)
    batch = TokenBatch(*(part.cuda() for part in batch_of(8)))
    for step in range(3):
        torch.cuda.set_sync_debug_mode("error" if step > 0 else "default")  # the first step may set things up
        try:
            loss = task.run(model, batch).nats.mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            guard.on_train_batch_end(trainer, model, {"loss": loss}, batch, step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
