"""Features of a trained model as a scikit-learn transformer, for pipelines and searches.

from igpt.sklearn import ImageGPTFeatures

classifier = make_pipeline(ImageGPTFeatures("outputs/NAME/TIME", layer=3), LogisticRegression())
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igpt.data.image_files import read_image
from igpt.data.image_input import as_images
from igpt.errors import IgptError
from igpt.files import expand_user
from igpt.pretrained import Pretrained, load

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise ImportError("igpt.sklearn needs scikit-learn 1.6 or later: pip install 'igpt[sklearn]'.") from None


class InvalidInputError(IgptError, ValueError):
    """A layer or images that the model cannot use; a ValueError, since scikit-learn expects one."""


class ImageGPTFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The mean-pooled features (N, C), float32, of one layer of a trained model with R x R pixels.

    `run` is what :func:`igpt.load` takes, `layer` and `regions` are those of :meth:`igpt.Pretrained.features`, and
    `device` None is a GPU if there is one. `fit` learns nothing: it loads the model and checks the layer and the
    images. A copy or pickle contains the name of the run and not the model, which is loaded again at first use.

    X is one of

    - an array of images, uint8 (N, R, R, 3);
    - a list of images, each a uint8 array (R, R, 3) or a PIL image of any size, or of paths of image files;
    - a table of flattened images (N, R * R * 3), in the order of `image.ravel()`: an array or data frame of any dtype
      with whole numbers from 0 to 255.

    Images that cannot be used raise :class:`InvalidInputError`, or scikit-learn's ValueError.
    """

    def __init__(
        self, run: str | Path, layer: int, device: str | None = None, batch_size: int = 64, regions: int = 1
    ) -> None:
        self.run = run
        self.layer = layer
        self.device = device
        self.batch_size = batch_size
        self.regions = regions

    def fit(self, X: Any, y: Any = None) -> ImageGPTFeatures:  # noqa: N803
        """Load the model; check the layer and X."""
        images = self._load_and_check(X)
        self._features(images[:1])
        return self

    def fit_transform(self, X: Any, y: Any = None) -> NDArray[np.float32]:  # noqa: N803
        """`fit(X).transform(X)`, which reads image files once."""
        return self._features(self._load_and_check(X))

    def transform(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Features (N, C) of the images X."""
        check_is_fitted(self)
        return self._features(self._images(X, reset=False))

    def _load_and_check(self, X: Any) -> NDArray[np.uint8]:  # noqa: N803
        for name in ("layer", "batch_size", "regions"):
            if not isinstance(getattr(self, name), Integral):
                raise InvalidInputError(f"{name} is {getattr(self, name)!r}; it must be a whole number.")
        if self.batch_size < 1:
            raise InvalidInputError(f"batch_size is {self.batch_size}; it must be at least 1.")
        self._model = load(self.run, self.device)
        self._n_features_out = self.regions**2 * self._model.model.config.n_embd
        self.resolution_ = self._model.resolution
        return self._images(X, reset=True)

    @property
    def model(self) -> Pretrained:
        """The loaded model."""
        check_is_fitted(self)
        if not hasattr(self, "_model"):
            self._model = load(self.run, self.device)
        self._model.batch_size = self.batch_size
        return self._model

    def _features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with value_errors():
            return self.model.features(images, layer=self.layer, regions=self.regions)

    def _images(self, X: Any, reset: bool) -> NDArray[np.uint8]:  # noqa: N803
        """X as uint8 (N, R, R, 3); `reset` as in scikit-learn's validate_data."""
        side = self.model.resolution
        with value_errors():
            if getattr(X, "ndim", None) == 4:
                return as_images(X, side)
            items = list(X) if isinstance(X, (list, tuple)) or getattr(X, "ndim", None) == 1 else []
            if items and all(map(is_image, items)):
                return as_images(items, side)
            if items and all(map(is_path, items)):
                return np.stack([read_image(expand_user(path), side) for path in items])
            table = validate_data(self, X, reset=reset, dtype="numeric", ensure_non_negative=True)
            return self._unflattened(table)

    def _unflattened(self, table: NDArray[Any]) -> NDArray[np.uint8]:
        """The images (N, R, R, 3) in the rows of a table."""
        side = self.model.resolution
        if table.shape[1] != side**2 * 3:
            raise IgptError(
                f"X has {table.shape[1]} features per row, but an image of the model has {side} x {side} x 3 values; "
                f"resize the images to {side}x{side} pixels."
            )
        if table.max() > 255 or (table % 1).any():
            raise IgptError("The rows of X are not images, whose values are whole numbers from 0 to 255.")
        return table.astype(np.uint8).reshape(-1, side, side, 3)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_model"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = []
        return tags


@contextmanager
def value_errors() -> Iterator[None]:
    """An :class:`IgptError` in this block becomes an :class:`InvalidInputError` of the same message."""
    try:
        yield
    except IgptError as error:
        raise InvalidInputError(str(error)) from None


def is_path(value: Any) -> bool:
    return isinstance(value, (str, PathLike))


def is_image(value: Any) -> bool:
    return isinstance(value, Image.Image) or getattr(value, "ndim", None) == 3
