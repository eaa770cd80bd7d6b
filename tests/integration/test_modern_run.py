"""Runs with parts that the paper does not have."""

import pytest
import torch

import igpt
from conftest import SMALL
from igpt.tokenizers.orders import order

FEW = ("trainer.val_check_interval=4", "sample_every=99")


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_dropout_goes_on_where_a_run_was_interrupted(command, tmp_path):
    recipe = (*SMALL, *FEW, "model.dropout=0.2", "model.attention_dropout=0.2", "optim.total_steps=4")
    micro_batches = ("data.batch_size=8", "data.device_batch_size=4")
    command("train", *recipe, *micro_batches, "trainer.max_steps=4", "hydra.run.dir=whole")
    command("train", *recipe, *micro_batches, "trainer.max_steps=2", "hydra.run.dir=parts")
    command("train", "run=parts", "trainer.max_steps=4")
    whole, parts = (weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_modern_model_knows_its_order_wherever_it_goes(command, tmp_path):
    command(
        "train", *SMALL, *FEW, "model/parts=modern", "order=hilbert", "trainer.max_steps=1", "hydra.run.dir=run"
    )  # fmt: skip
    command("export", "run=run", "format=igpt", "dtype=bfloat16", "output=exported")
    rows_and_columns = torch.stack([order("hilbert", 8) // 8, order("hilbert", 8) % 8], dim=1)
    for name in ("run", "exported"):
        model = igpt.load(tmp_path / name).model
        assert model.config.other_parts.keys() >= {"rotary", "qk_norm", "mlp", "value_residual", "input_shortcut"}
        assert torch.equal(model.coordinates, rows_and_columns)


def test_positions_that_do_not_tell_the_channels_of_a_pixel_apart_are_refused(command, tmp_path):
    rgb = ("tokenizer=rgb", "model.rotary=2d", "model.positions=none", "trainer.max_steps=1")
    with pytest.raises(
        SystemExit, match=r"2d alone does not tell the 3 tokens of a pixel apart; set model\.positions=le"
    ):
        command("train", *(part for part in SMALL if "size" not in part), *FEW, *rgb, "hydra.run.dir=run")
    assert not (tmp_path / "run").exists()
