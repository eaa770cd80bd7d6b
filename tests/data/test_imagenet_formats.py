"""ImageNet as WebDataset tars and as Parquet that other programs wrote: center squares and whole photos."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from conftest import train_two_steps
from igpt.data.packed import open_photos, pack
from igpt.data.sources import SPLITS, HubSource, WholePhotos

datasets = pytest.importorskip("datasets")
SIZES = {"train": 12, "validation": 4}


def photo(number):
    """A photo of one color, alternately wide and high."""
    shape = (60, 40) if number % 2 else (40, 60)
    return Image.new("RGB", shape, (10 * number, 255 - 10 * number, 7))


def jpeg(number):
    file = io.BytesIO()
    photo(number).save(file, "JPEG", quality=95)
    return file.getvalue()


def label(number):
    return 3 * (number % 3)


def write_tars(folder):
    """Two tars per split, with the files NUMBER.jpg, NUMBER.cls and NUMBER.json of each sample."""
    for split, n in SIZES.items():
        for shard in range(2):
            with tarfile.open(folder / f"{split}-{shard}.tar", "w") as tar:
                for number in range(shard * n // 2, (shard + 1) * n // 2):
                    about = json.dumps({"filename": f"n{number}.JPEG"}).encode()
                    files = {"jpg": jpeg(number), "cls": str(label(number)).encode(), "json": about}
                    for suffix, content in files.items():
                        member = tarfile.TarInfo(f"{number:05}.{suffix}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
    data_files = {split: [str(folder / f"{split}-{shard}.tar") for shard in range(2)] for split in SIZES}
    return {"path": "webdataset", "data_files": data_files, "label_column": "cls"}


def write_parquet(folder):
    """By pyarrow, without the description of columns that the library datasets adds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, n in SIZES.items():
        images = [{"bytes": jpeg(number), "path": f"n{number}.JPEG"} for number in range(n)]
        table = pa.table({"image": images, "label": [label(number) for number in range(n)]})
        pq.write_table(table, folder / f"{split}.parquet")
    data_files = {split: str(folder / f"{split}.parquet") for split in SIZES}
    return {"path": "parquet", "data_files": data_files, "image_column": "image", "label_column": "label"}


@pytest.fixture(params=[write_tars, write_parquet])
def settings(request, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return {**request.param(tmp_path), "splits": {"train": "train", "test": "validation"}}


def test_photos_and_labels_are_those_that_were_written(settings, tmp_path):
    source = HubSource(**settings, resolution=20, validation_share=0.25)
    assert source.sizes() == {"train": 9, "validation": 3, "test": 4}
    assert source.classes == ("0", "3", "6")
    squares = source.read("test", 0, 4)
    assert squares.images.shape == (4, 20, 20, 3)
    assert squares.labels.tolist() == [0, 1, 2, 0]
    found = open_photos(pack(WholePhotos(source), tmp_path / "cache", processes=1))
    for number, whole in enumerate(found["test"]):
        assert whole.shape == ((20, 30, 3) if number % 2 else (30, 20, 3))
        np.testing.assert_allclose(whole[10, 10], photo(number).getpixel((0, 0)), atol=3)
        np.testing.assert_allclose(squares.images[number, 10, 10], whole[10, 10], atol=1)
    assert sum(len(found[split]) for split in SPLITS) == 16
    assert HubSource(**settings, resolution=20, validation_share=0.25).key() == source.key()


def test_training_on_random_crops_of_them(settings, command, tmp_path):
    files = ",".join(f"{split}:{json.dumps(paths)}" for split, paths in settings["data_files"].items())
    columns = [f"data.source.{key}={value}" for key, value in settings.items() if key.endswith("column")]
    summary = train_two_steps(
        command, tmp_path, "hub", f"data.source.path={settings['path']}", f"+data.source.data_files={{{files}}}",
        "+data.source.splits={train:train,test:validation}", "data/augment=imagenet", "data.source.resolution=8",
        "data.stored_resolution=20", "data.source.validation_share=0.25", "tokenizer=gray",
        "data.num_workers=0", *columns,
    )  # fmt: skip
    assert summary["test/images"] == 4
