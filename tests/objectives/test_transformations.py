import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from conftest import random_weights
from igpt.batch import TokenBatch
from igpt.configuration.schema.training_schemas import TRANSFORMS
from igpt.data.datamodule import ImageDataModule
from igpt.data.sources import EmojiSource
from igpt.data.stream import fetch
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive, Masked, task_from_state, task_state
from igpt.objectives.transformations import KINDS, TransformationEmbedding, Transformations, n_views
from igpt.tokenizers import RGB


def noise(n, side):
    return torch.randint(256, (n, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def tiles(image, a, b, c, d):
    half = len(image) // 2
    parts = [image[y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
    return np.vstack([np.hstack([parts[a], parts[b]]), np.hstack([parts[c], parts[d]])])


EXPECTED = {
    "rotation": lambda image: [np.rot90(image, n) for n in range(4)],
    "transposition": lambda image: [image, image.swapaxes(0, 1)],
    "flip": lambda image: [image, image[:, ::-1]],
    "colors": lambda image: [image[..., list(p)] for p in itertools.permutations(range(3))],
    "jigsaw": lambda image: [tiles(image, *p) for p in itertools.permutations(range(4))],
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_an_image_gets_each_view_equally_often_and_the_one_that_is_told(kind):
    images, indices = noise(1, 6).expand(4000, -1, -1, -1), torch.arange(4000)
    transformations = Transformations([kind])
    views = transformations(images, torch.zeros_like(indices), indices).numpy()
    told = transformations.choices(torch.zeros_like(indices), indices)[kind]
    expected = np.stack(EXPECTED[kind](images[0].numpy()))
    assert len({view.tobytes() for view in expected}) == n_views(kind)
    np.testing.assert_array_equal(views, expected[told])
    assert chisquare(np.bincount(told, minlength=n_views(kind))).pvalue > 1e-3


def test_kinds_are_chosen_independently_and_by_seed_epoch_and_image_alone():
    every, indices = Transformations(list(KINDS)), torch.arange(3000)
    images, zeros = noise(3000, 4), torch.zeros_like(indices)
    views, choices = every(images, zeros, indices), every.choices(zeros, indices)
    for a, b in itertools.combinations(choices.values(), 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.06
    some = torch.randperm(3000)[:50]
    assert torch.equal(every(images[some], zeros[some], indices[some]), views[some])
    for others in (every(images, zeros + 1, indices), Transformations(list(KINDS), 1)(images, zeros, indices)):
        assert (others != views).flatten(1).any(1).float().mean() > 0.9


def test_the_order_in_which_kinds_are_listed_does_not_matter():
    a, b = Transformations(["jigsaw", "flip"]), Transformations(["flip", "jigsaw"])
    assert torch.equal(a(noise(20, 4), *[torch.arange(20)] * 2), b(noise(20, 4), *[torch.arange(20)] * 2))


def test_what_cannot_be_done_is_refused():
    with pytest.raises(IgptError, match=r"'shear'; choose from rotation, .*, jigsaw"):
        Autoregressive(transforms=["shear"])
    with pytest.raises(IgptError, match="images of 7x7 cannot be divided into quarters"):
        Transformations(["jigsaw"])(noise(1, 7), *[torch.zeros(1, dtype=torch.long)] * 2)
    assert tuple(KINDS) == TRANSFORMS


def test_the_embedding_of_an_untransformed_image_stays_zero():
    embedding = TransformationEmbedding(["rotation", "flip"], 8)
    optimizer = torch.optim.AdamW(embedding.parameters(), lr=0.1, weight_decay=0.1)
    rotations, flips = torch.arange(4).repeat(2), torch.arange(2).repeat_interleave(4)
    targets = torch.randn(8, 1, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        embedding({"rotation": rotations, "flip": flips}).sub(targets).square().sum().backward()
        optimizer.step()
    told = embedding({"rotation": rotations, "flip": flips})[:, 0]
    assert told[0].eq(0).all()
    assert told[1:].ne(0).all()
    assert len({tuple(row) for row in told.tolist()}) == 8


@pytest.mark.parametrize("task", [Autoregressive(transforms=["rotation"]), Masked(transforms=["rotation"])])
def test_the_model_is_told_the_transformation_at_every_position(task):
    model = random_weights(TransformerConfig(2, 2, 16, vocab_size=11, n_positions=64, causal=task.causal))
    head, indices = task.make_head(model.config, 0), torch.arange(8)
    rotations = head["transforms"].kinds["rotation"].weight
    torch.nn.init.normal_(rotations)
    tokens = torch.randint(11, (8, 64), generator=torch.Generator().manual_seed(0))
    batch = TokenBatch(tokens, indices, indices, torch.zeros_like(indices))
    expected = []
    for i, rotation in enumerate(task.transformations.choices(batch.epochs, batch.indices)["rotation"]):
        told = copy.deepcopy(model)
        told.position_embedding.weight.data += rotations[rotation]
        one = TokenBatch(*(part[i : i + 1] for part in batch))
        expected.append(type(task)().losses(told, None, one).loss)
    loss, logged = task.losses(model, head, batch)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    assert logged["nats_per_token"] == loss
    untold = type(task)().measure(model, None, batch)["nats_per_token"]
    assert torch.equal(task.measure(model, head, batch)["nats_per_token"], untold)


def test_a_trained_model_is_an_ordinary_one():
    task = Masked(ratio=0.3, transforms=["jigsaw", "colors"], seed=3)
    assert task_from_state(task_state(task)) == task
    ordinary, weights = task.trained({"model.a": torch.ones(1), "head.transforms.kinds.colors.weight": torch.ones(1)})
    assert ordinary == Masked(ratio=0.3, seed=3)
    assert list(weights) == ["model.a"]
    assert ordinary.trained(weights) == (ordinary, weights)


def test_training_images_are_those_the_task_tells_of_and_others_stay(tmp_path):
    data = ImageDataModule(EmojiSource(8), 8, str(tmp_path), tokenizer=RGB())
    data.prepare_data()
    data.setup()
    task = Autoregressive(transforms=["rotation"])
    data.transformed = task.transformed
    batch = fetch(data.splits["train"], np.arange(40), np.full(40, 3))
    rotations = task.transformations.choices(batch.epochs, batch.indices)["rotation"]
    rotated = np.stack([np.rot90(image, n) for image, n in zip(batch.images.numpy(), rotations, strict=True)])

    class Training:
        training = True
        global_step = 0

    for Training.training, expected in ((True, rotated), (False, batch.images.numpy())):
        data.trainer = Training
        tokens = data.on_after_batch_transfer(batch, 0).tokens
        np.testing.assert_array_equal(tokens, expected.reshape(40, -1))
