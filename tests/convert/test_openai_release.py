"""Import of OpenAI's release, from checkpoints that TensorFlow wrote (write_openai_release.py), against numpy."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from released_graph import MODEL_S, SMALL, Shape, logits, random_weights

import igpt
from igpt.convert import hugging_face, openai_release, tensor_bundle
from igpt.convert.read_model import files_of, read_model
from igpt.convert.tensor_bundle import Entry, TensorBundle, masked_crc
from igpt.errors import IgptError
from igpt.objectives.tasks import Autoregressive, Masked
from igpt.tokenizers import Palette

ROOT = Path(__file__).parents[2]
RELEASE = Path(__file__).parent / "openai_release"
NAME = "model.ckpt-131000"


@pytest.fixture
def release(tmp_path):
    """A copy of the autoregressive model, with its palette."""
    folder = tmp_path / "igpt-s"
    shutil.copytree(RELEASE / "ar", folder)
    shutil.copy(RELEASE / "kmeans_centers.npy", folder)
    return folder


def compare(folder: Path, shape: Shape) -> None:
    """The logits, in both precisions, of the model in a folder and of numpy. What is masked only matters to BERT."""
    weights, random = random_weights(shape), np.random.RandomState(1)
    tokens = random.randint(shape.n_vocab, size=(3, shape.n_ctx))
    masked = random.rand(3, shape.n_ctx) < 0.3
    expected = logits(shape, weights, tokens, masked)
    loaded = igpt.load(folder, device="cpu")
    with torch.inference_mode():
        for precision, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
            found = loaded.model.to(precision)(torch.from_numpy(tokens), torch.from_numpy(masked))
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bert", [False, True], ids=["ar", "bert"])
def test_logits_are_those_of_the_released_graph(bert):
    folder = RELEASE / ("bert" if bert else "ar")
    compare(folder, SMALL._replace(bert=bert))
    assert igpt.load(folder, device="cpu").task == (Masked(ratio=0.15) if bert else Autoregressive())


@pytest.mark.skipif("IGPT_TEST_RELEASE" not in os.environ, reason="needs what write_openai_release.py FOLDER writes")
@pytest.mark.parametrize("bert", [False, True], ids=["ar", "bert"])
def test_logits_in_the_shapes_of_model_s(bert):
    compare(Path(os.environ["IGPT_TEST_RELEASE"], "bert" if bert else "ar"), MODEL_S._replace(bert=bert))


def test_the_palette_is_that_of_the_published_processor(tmp_path):
    """Both give the same float32 colors, so that tokens and fingerprints are equal; and the palette in the folder
    itself comes first.
    """
    centers = np.load(RELEASE / "kmeans_centers.npy")
    (tmp_path / hugging_face.PROCESSOR).write_text(f'{{"clusters": {centers.tolist()}}}')
    expected = hugging_face.read_palette(tmp_path, 17)
    assert igpt.load(RELEASE / "ar", device="cpu").tokenizer.fingerprint == expected.fingerprint
    (tmp_path / "model").mkdir()
    np.save(tmp_path / openai_release.PALETTE, centers)
    np.save(tmp_path / "model" / openai_release.PALETTE, centers[::-1])
    assert np.array_equal(openai_release.read_palette(tmp_path / "model", 17).centroids, expected.centroids[::-1])


def test_a_step_may_be_named_and_the_newest_is_taken(release):
    for file in RELEASE.joinpath("ar").iterdir():
        shutil.copy(file, release / file.name.replace("131000", "1000000"))
    for run, step in ((release, 1000000), (release / NAME, 131000), (release / f"{NAME}.index", 131000)):
        assert read_model(run).path == release / f"model.ckpt-{step}.index"
        assert igpt.run_directory.find_run(run).path == release
    assert [file.name for file in files_of(release / f"{NAME}.index")] == [
        f"{NAME}.index",
        *(f"{NAME}.data-0000{i}-of-00003" for i in range(3)),
    ]


def test_it_is_a_run_of_every_command(release, command, tmp_path):
    printed = command("sample", "run=igpt-s", "n=1", "completions=0")
    assert "Results are in igpt-s/generated" in printed
    data = ("data=emoji", "data.source.resolution=8")
    assert "nats_per_token" in command("evaluate", f"run=igpt-s/{NAME}", *data)
    assert (release / "evaluation" / "emoji_test.json").exists()
    with pytest.raises(SystemExit, match="igpt-s is a model without data"):
        command("evaluate", "run=igpt-s")
    with pytest.raises(SystemExit, match="igpt-s has no checkpoint"):
        command("train", "run=igpt-s")
    command("export", "run=igpt-s", "output=exported")
    theirs, ours = read_model(tmp_path / "exported").weights, read_model(release).weights
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.items())


def test_the_published_images_are_evaluated_as_the_tokens_that_they_are(release, command, tmp_path, monkeypatch):
    """By the code in docs/weights.md; the loss is that of the released graph."""
    tokens = np.random.RandomState(2).randint(SMALL.n_vocab, size=(30, SMALL.n_ctx))
    np.save(tmp_path / "imagenet_vaX.npy", tokens)
    np.save(tmp_path / "imagenet_teX.npy", tokens[::2])
    code = re.search(r"^```python\n(.*?)^```", (ROOT / "docs" / "weights.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    command("evaluate", "run=igpt-s", "data=arrays", "data.source.path=release32.npz", "data.source.resolution=8")
    found = json.loads((release / "evaluation" / "arrays-release32.npz_test.json").read_text())["test/nats_per_token"]
    scores = logits(SMALL, random_weights(SMALL), tokens[::2], tokens[::2] < 0)
    chosen = np.take_along_axis(scores, tokens[::2, :, None], axis=-1)[..., 0]
    assert found == pytest.approx((np.log(np.exp(scores).sum(axis=-1)) - chosen).mean(), rel=1e-6)


# Bad input


def refusal(folder: Path) -> str:
    with pytest.raises(IgptError) as caught:
        igpt.load(folder, device="cpu")
    return str(caught.value).replace(str(folder), "FOLDER")


def flip_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_damaged_and_missing_shards(release):
    shard = release / f"{NAME}.data-00001-of-00003"
    flip_byte(shard, 100)
    assert refusal(release).startswith(f"FOLDER/{shard.name} is damaged: model/")
    for size in (3000, 0):
        os.truncate(shard, size)
        assert refusal(release).startswith(f"FOLDER/{shard.name} is truncated: it has {size} bytes of at least ")
    shard.unlink()
    assert refusal(release) == f"FOLDER lacks {shard.name}, shards of {NAME}.index; get them."


def test_damaged_and_missing_indexes(release):
    index = release / f"{NAME}.index"
    whole = index.read_bytes()
    in_footer = len(whole) - tensor_bundle.FOOTER + 3  # where the place of the index block is
    for at in (0, len(whole) // 2, in_footer):
        flip_byte(index, at)
        assert refusal(release).startswith(f"FOLDER/{NAME}.index is damaged (")
        index.write_bytes(whole)
    for content in (whole[:-1], whole[:20], b"", b"not an index, but long enough to be one" * 9):
        index.write_bytes(content)
        assert refusal(release).startswith(f"FOLDER/{NAME}.index is not the index of a TensorFlow checkpoint, or it is")
    index.unlink()
    assert refusal(release).startswith(f"FOLDER/{NAME}.index cannot be read (No such file or directory); get it")
    with pytest.raises(IgptError, match=f"There is no run at .*{NAME}; give"):
        igpt.load(release / NAME)


def test_a_compressed_index(release):
    index = release / f"{NAME}.index"
    content = bytearray(index.read_bytes())
    footer = content[-tensor_bundle.FOOTER :]
    block, _ = tensor_bundle._place(footer, tensor_bundle._place(footer, 0)[1])  # the index block
    content[block.stop] = 1
    checksum = masked_crc(bytes(content[block.start : block.stop + 1]))
    content[block.stop + 1 : block.stop + 5] = checksum.to_bytes(4, "little")
    index.write_bytes(content)
    assert "is damaged (a block is compressed, which no version of TensorFlow since 1.2 does)" in refusal(release)


FLOATS = Entry(torch.float32, (8,), 0, 0, 32, 0)
NO_BYTES = FLOATS._replace(size=0)  # as TensorFlow enters a tensor in slices, which it stores under other names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model/wtet": None}, "lacks the tensors model/wtet;"),
        ({"model/h1/mlp/c_fc/b": FLOATS}, "has tensors that do not belong to this model: model/h1/mlp/c_fc/b;"),
        ({"model/h3/ln_1/g": FLOATS}, r"lacks the tensors .*model/h2/attn/q_proj.* \(15\);"),
        ({"model/ln_f/g": FLOATS._replace(shape=(9,))}, r"has model/ln_f/g with shape \(9,\) instead of \(8,\);"),
        ({"model/ln_f/g": FLOATS._replace(dtype=None)}, "has model/ln_f/g in slices, or in a type"),
        ({"model/ln_f/g": NO_BYTES}, "has model/ln_f/g in slices, or"),
        ({"model/wte": None, "dense/kernel": FLOATS}, "is the checkpoint of another TensorFlow model: it lacks"),
        ({"model/wte": FLOATS}, "is the checkpoint of another TensorFlow model: it lacks"),
    ],
)
def test_other_tensors_than_those_of_the_release(changes, message, monkeypatch):
    read_index = TensorBundle.__init__

    def read_and_change(bundle: TensorBundle, index: Path) -> None:
        read_index(bundle, index)
        entries = {**bundle.entries, **changes}
        bundle.entries = {name: entry for name, entry in entries.items() if entry is not None}

    monkeypatch.setattr(TensorBundle, "__init__", read_and_change)
    with pytest.raises(IgptError, match=message):
        igpt.load(RELEASE / "ar", device="cpu")


def test_what_is_ignored(monkeypatch):
    """The optimizer's state, whose names the slots in the files have, and a classifier."""
    names = set(TensorBundle(RELEASE / "ar" / f"{NAME}.index").entries)
    assert {"model/wte/Adam", "model/wte/Adam_1", "beta1_power", "global_step"} <= names
    read, asked = TensorBundle.read, []
    monkeypatch.setattr(TensorBundle, "read", lambda bundle, name: asked.append(name) or read(bundle, name))
    read_model(RELEASE / "ar")
    assert sorted(asked) == sorted(random_weights(SMALL))


def test_no_palette_and_other_palettes(release):
    palette = release / "kmeans_centers.npy"
    np.save(palette, np.zeros((5, 3)))
    assert refusal(release) == (
        "FOLDER/kmeans_centers.npy has 5 colors, but the model in FOLDER has 17; get the right one."
    )
    palette.write_bytes(b"no array")
    assert refusal(release).startswith("FOLDER/kmeans_centers.npy is not a palette; give")
    palette.unlink()
    assert refusal(release).startswith("FOLDER has no kmeans_centers.npy, the palette of the release; put https://")


def test_the_palette_of_the_release_has_double_precision_on_the_way(tmp_path):
    centers = np.float32([[0.1, -0.3, 1 / 3]])
    np.save(tmp_path / "kmeans_centers.npy", centers)
    expected = (127.5 * (centers.astype(np.float64) + 1)).astype(np.float32)
    assert np.array_equal(Palette.load(tmp_path / "kmeans_centers.npy").centroids, expected)
