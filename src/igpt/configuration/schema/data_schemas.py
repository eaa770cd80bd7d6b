"""The groups data, data/augment and tokenizer."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, model_validator

from igpt.configuration.schema.components import UNSET, Component, OneOf
from igpt.configuration.schema.values import (
    AnyShare,
    Count,
    Flag,
    MaybeCount,
    MaybeText,
    Natural,
    Seed,
    Share,
    Text,
    Texts,
    before_model,
    expects,
    one_of,
    problem,
)  # fmt: skip


class EmojiSource(Component):
    target = "igpt.data.sources.EmojiSource"

    resolution: Annotated[int, one_of(8, 16, 32)] = UNSET
    name: Text = UNSET
    classes: Texts = UNSET


class SplitSource(Component):
    """Keys of sources that split their data at random where it has no splits of its own."""

    resolution: Count = UNSET
    validation_share: Share = UNSET
    test_share: Share = UNSET
    full_train: Flag = UNSET
    split_seed: Seed = UNSET


class ImageFolderSource(SplitSource):
    target = "igpt.data.sources.ImageFolderSource"

    path: Text
    name: Text = UNSET
    labels: Flag = UNSET
    val_is_test: Flag = UNSET
    split_folders: Flag = UNSET
    group: MaybeText = UNSET
    cache_dir: MaybeText = UNSET


class HubSource(SplitSource):
    target = "igpt.data.sources.HubSource"

    path: Text
    subset: MaybeText = UNSET
    data_files: Annotated[
        str | list[str] | dict[str, Any] | None, expects("a file, a list of files, or SPLIT: FILES")
    ] = UNSET
    revision: MaybeText = UNSET
    splits: Annotated[
        dict[str, str] | None, expects("igpt's split: the data set's, as {train: train, test: validation}, or null")
    ] = UNSET
    image_column: MaybeText = UNSET
    label_column: MaybeText = UNSET
    labels: Flag = UNSET
    name: Text = UNSET
    cache_dir: MaybeText = UNSET


class ArraysSource(SplitSource):
    target = "igpt.data.sources.ArraysSource"
    given = ("arrays",)  # in Python only

    path: Text
    class_names: Annotated[list[str] | None, expects("a list of texts, [a,b], or null")] = UNSET
    labels: Flag = UNSET
    name: Text = UNSET
    cache_dir: MaybeText = UNSET


class CIFAR10Source(SplitSource):
    target = "igpt.data.sources.CIFAR10Source"

    resolution: Annotated[int, one_of(4, 8, 16, 32)] = UNSET
    root: MaybeText = UNSET


class CIFAR100Source(CIFAR10Source):
    target = "igpt.data.sources.CIFAR100Source"


class ImageNet32Source(CIFAR10Source):
    target = "igpt.data.sources.ImageNet32Source"


class ImageNet64Source(SplitSource):
    target = "igpt.data.sources.ImageNet64Source"

    resolution: Annotated[int, one_of(4, 8, 16, 32, 64)] = UNSET
    root: MaybeText = UNSET


class STL10Source(SplitSource):
    target = "igpt.data.sources.STL10Source"

    resolution: Annotated[int, one_of(4, 6, 8, 12, 16, 24, 32, 48, 96)] = UNSET
    fold: Annotated[int | None, Field(ge=0, le=9), expects("a whole number from 0 to 9, or null for all images")] = (
        UNSET
    )
    root: MaybeText = UNSET


class MNISTSource(SplitSource):
    target = "igpt.data.sources.MNISTSource"

    resolution: Annotated[int, one_of(4, 7, 14, 28)] = UNSET
    root: MaybeText = UNSET


class FashionMNISTSource(MNISTSource):
    target = "igpt.data.sources.FashionMNISTSource"


class Identity(Component):
    target = "igpt.data.augment.Identity"


class Flip(Component):
    target = "igpt.data.augment.Flip"


class PadCropFlip(Component):
    target = "igpt.data.augment.PadCropFlip"

    padding: Natural = UNSET
    flip: Flag = UNSET


class ImageNetCrop(Component):
    target = "igpt.data.augment.ImageNetCrop"

    resolution: Count = UNSET
    shorter_side: Annotated[
        list[Count], Field(min_length=2, max_length=2), expects("two whole numbers, [256, 384]")
    ] = UNSET
    crop: Count = UNSET

    @model_validator(mode="after")
    def _fits(self) -> ImageNetCrop:
        smallest, largest = self.shorter_side or (256, 384)
        if smallest > largest:
            raise problem("it must name the smaller end first", "shorter_side")
        if (self.crop or 224) > smallest:
            raise problem(f"it must not exceed the shorter side, which is at least {smallest} pixels", "crop")
        return self


SOURCES = (
    EmojiSource, ImageFolderSource, HubSource, CIFAR10Source, CIFAR100Source, ImageNet32Source, ImageNet64Source,
    STL10Source, MNISTSource, FashionMNISTSource, ArraysSource,
)  # fmt: skip


class ImageDataModule(Component):
    target = "igpt.data.datamodule.ImageDataModule"
    given = ("tokenizer", "seed")

    source: Annotated[Any, OneOf("data", SOURCES)]
    batch_size: Count
    cache_dir: Text
    eval_batch_size: Count = UNSET
    device_batch_size: MaybeCount = UNSET
    augment: Annotated[Any, OneOf("data/augment", (Identity, Flip, PadCropFlip, ImageNetCrop), optional=True)] = UNSET
    stored_resolution: MaybeCount = UNSET
    num_workers: Natural = UNSET
    processes: MaybeCount = UNSET
    max_unreadable: AnyShare = UNSET
    drop_duplicates: Flag = UNSET

    @model_validator(mode="after")
    def _crops_are_not_enlarged(self, info: ValidationInfo) -> ImageDataModule:
        resolution = getattr(self.source, "resolution", None)
        if not isinstance(self.augment, ImageNetCrop) or resolution is None or before_model(info):
            return self
        largest, crop = (self.augment.shorter_side or (256, 384))[1], self.augment.crop or 224
        needed = math.ceil(resolution * largest / crop)  # of which the smallest crop has `resolution` pixels
        if (self.stored_resolution or resolution) < needed:
            text = (
                f"crops of data.augment would have fewer than {resolution} pixels per side; set it to at least {needed}"
            )
            raise problem(text, "stored_resolution")
        return self


Data = Annotated[Any, OneOf("data", (ImageDataModule,), ImageDataModule.given)]


class PaletteRecipe(Component):
    target = "igpt.tokenizers.kmeans.PaletteRecipe"

    size: Annotated[int, Field(ge=2, le=4096), expects("a whole number of colors from 2 to 4096")] = UNSET
    iterations: Count = UNSET
    seed: Seed = UNSET
    path: MaybeText = UNSET


class RGB(Component):
    target = "igpt.tokenizers.RGB"


class Gray(Component):
    target = "igpt.tokenizers.Gray"


Tokenizer = Annotated[Any, OneOf("tokenizer", (PaletteRecipe, RGB, Gray))]
Order = Annotated[str, one_of("raster", "column", "serpentine", "spiral", "hilbert", "checkerboard", "random")]
