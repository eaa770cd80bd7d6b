import numpy as np
import pytest
import torch

from conftest import random_weights
from igpt.batch import TokenBatch
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.model.rotary import raster_coordinates
from igpt.model.transformer import Transformer
from igpt.objectives.resolution_stages import ResolutionStages, averaged, low_positions
from igpt.objectives.tasks import Autoregressive, Masked, task_from_state, task_state
from igpt.tokenizers import RGB, Gray

MODERN = {
    "rotary": "2d", "qk_norm": True, "mlp": "relu2", "value_residual": True, "input_shortcut": True,
    "embedding_norm": True, "logit_softcap": 15,
}  # fmt: skip


def noise(n, side):
    return torch.randint(256, (n, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_images_are_means_of_blocks_until_the_step_of_each_stage():
    images, stages = noise(3, 12), ResolutionStages([[2, 5], [4, 9]])
    for step, side in ((0, 2), (4, 2), (5, 4), (8, 4), (9, 12), (99, 12)):
        blocks = images.numpy().reshape(3, side, 12 // side, side, 12 // side, 3).astype(float)
        expected = np.floor(blocks.mean(axis=(2, 4)) + 0.5)
        np.testing.assert_array_equal(stages(images, step).numpy(), expected)


@pytest.mark.parametrize("tokenizer", [Gray(), RGB()])
def test_a_low_resolution_token_has_the_positions_of_its_block_and_of_its_row_and_column(tokenizer):
    full, low = tokenizer.grid(tokenizer.n_tokens(6)), tokenizer.grid(tokenizer.n_tokens(2))
    blocks, at = low_positions(low.numel(), full.numel())
    for row in range(2):
        for column in range(2):
            for channel, token in enumerate(low[row, column]):
                block = full[3 * row : 3 * row + 3, 3 * column : 3 * column + 3, channel]
                assert blocks[token].tolist() == block.flatten().tolist()
                assert at[token] == full[row, column, channel]


@pytest.mark.parametrize(
    "parts", [{}, {"rotary": "2d", "positions": "none"}, MODERN], ids=["paper", "rotary", "modern"]
)
@pytest.mark.parametrize("kind", [Autoregressive, Masked])
def test_a_low_resolution_image_is_that_of_a_small_model_with_averaged_positions(kind, parts):
    task = kind(stages=[[4, 10]], transforms=["rotation"])
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 11, **parts}
    has_table = parts.get("positions") != "none"
    model = random_weights(TransformerConfig(**shape, n_positions=64, causal=kind.causal))
    small = Transformer(TransformerConfig(**shape, n_positions=16, causal=kind.causal))
    weights = model.state_dict()
    if has_table:
        table = weights["position_embedding.weight"].view(4, 2, 4, 2, 16)
        weights["position_embedding.weight"] = table.mean(dim=(1, 3)).view(16, 16)
    if parts:
        weights["rotary.coordinates"] = raster_coordinates(16)
    small.load_state_dict(weights)
    head, indices = task.make_head(model.config, 0), torch.arange(6)
    torch.nn.init.normal_(head["transforms"].kinds["rotation"].weight)
    tokens = torch.randint(11, (6, 16), generator=torch.Generator().manual_seed(0))
    batch = TokenBatch(tokens, indices, indices, torch.zeros_like(indices))
    expected = kind(transforms=["rotation"]).losses(small, head, batch).loss
    torch.testing.assert_close(task.losses(model, head, batch).loss, expected)
    if has_table:
        task.losses(model, head, batch).loss.backward()
        gradients = model.position_embedding.weight.grad.view(4, 2, 4, 2, 16)
        torch.testing.assert_close(gradients, gradients[:, :1, :, :1].expand_as(gradients))
        assert gradients.ne(0).any()


def test_what_cannot_be_is_refused():
    with pytest.raises(IgptError, match="resolutions and steps must both increase"):
        Autoregressive(stages=[[4, 10], [2, 20]])
    with pytest.raises(IgptError, match="has the resolution 5, but the images are 12x12"):
        averaged(noise(1, 12), 5)
    with pytest.raises(IgptError, match="exclude each other"):
        Autoregressive(stages=[[4, 10]], random_order_steps=[1, 2])
    with pytest.raises(IgptError, match="needs model.positions=learned or none"):
        Masked(stages=[[4, 10]]).make_head(TransformerConfig(1, 1, 8, positions="my_parts.Mine"), 0)
    task = Masked(stages=[[4, 10], [8, 20]])
    assert task_from_state(task_state(task)) == task
    assert task.trained({"model.a": torch.ones(1)}) == (Masked(), {"model.a": torch.ones(1)})
