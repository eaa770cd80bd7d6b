"""igpt's features as a scikit-learn transformer: scikit-learn's own checks, pipelines, searches, copies, bad input."""

import pickle
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from PIL import Image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import igpt
from conftest import random_weights
from igpt.checkpoint import Description
from igpt.convert import igpt_folder
from igpt.convert.stored_model import StoredModel
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive, task_state
from igpt.sklearn import ImageGPTFeatures
from igpt.tokenizers import RGB, tokenizer_state

SIDE = 2
IMAGES = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE, 3), np.uint8)
TABLE = IMAGES.reshape(len(IMAGES), -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_random_model(tmp_path_factory.mktemp("models") / "model", SIDE)


def export_random_model(folder, side):
    """Two layers of width 16 with random weights, in igpt's own format."""
    model = random_weights(TransformerConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=256, n_positions=3 * side**2))
    description = Description(
        model=asdict(model.config), task=task_state(Autoregressive()), tokenizer=tokenizer_state(RGB()),
        classes=[], data={}, configuration={}, commit="",
    )  # fmt: skip
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    folder.mkdir()
    igpt_folder.write(StoredModel(folder, description, weights), folder)
    return str(folder)


# scikit-learn's checks


class AnyNumbers(ImageGPTFeatures):
    """Takes the tables of random numbers that scikit-learn's checks pass, of any width, as images."""

    def _unflattened(self, table):
        columns = np.arange(self.model.resolution**2 * 3) % table.shape[1]
        return super()._unflattened((50 * table[:, columns]).round() % 256)


@pytest.fixture(scope="module")
def one_pixel(tmp_path_factory):
    return export_random_model(tmp_path_factory.mktemp("models") / "one_pixel", side=1)


@parametrize_with_checks([AnyNumbers("the folder, which a fixture makes", layer=1)])
def test_scikit_learns_own_checks(estimator, check, one_pixel):
    check(estimator.set_params(run=one_pixel))


def test_tables_of_other_numbers_are_refused(folder):
    """What the checks cannot see, since they pass no images."""
    for table, sentence in (
        (TABLE / 255, "The rows of X are not images, whose values are whole numbers from 0 to 255."),
        (TABLE + 1.0 * 256, "whole numbers from 0 to 255"),
        (TABLE[:, :11], "X has 11 features per row, but an image of the model has 2 x 2 x 3 values; resize"),
        (TABLE - 128.0, "Negative values in data"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ImageGPTFeatures(folder, 1).fit(table)


def test_regions_are_those_of_the_model(folder):
    features = ImageGPTFeatures(folder, layer=1, regions=2).set_output(transform="pandas").fit_transform(IMAGES)
    np.testing.assert_array_equal(features.to_numpy(), igpt.load(folder).features(IMAGES, layer=1, regions=2))
    for regions, sentence in ((0, "regions is 0; an image of"), (1.5, "regions is 1.5; it must be a whole number")):
        with pytest.raises(igpt.IgptError, match=sentence):
            ImageGPTFeatures(folder, layer=1, regions=regions).fit(IMAGES)


# What X may be


def test_every_form_gives_the_features_of_the_model(folder, tmp_path):
    expected = igpt.load(folder).features(IMAGES, layer=1)
    pil = [Image.fromarray(image) for image in IMAGES]
    paths = [tmp_path / f"{i}.png" for i in range(len(pil))]
    for image, path in zip(pil, paths, strict=True):
        image.save(path)
    names = [f"pixel{i}" for i in range(TABLE.shape[1])]
    forms = {
        "array": IMAGES,
        "list of arrays": list(IMAGES),
        "PIL images": pil,
        "paths": paths,
        "column of paths": pd.Series([str(path) for path in paths], index=range(5, 5 + len(paths))),
        "table": TABLE,
        "table of floats": TABLE.astype(np.float64),
        "nested lists": TABLE.tolist(),
        "data frame": pd.DataFrame(TABLE.astype(int), columns=names),
    }
    for form, given in forms.items():
        features = ImageGPTFeatures(folder, layer=1)
        np.testing.assert_array_equal(features.fit_transform(given), expected, err_msg=form)
        np.testing.assert_array_equal(features.fit(given).transform(given), expected, err_msg=form)
    assert features.feature_names_in_.tolist() == names


@pytest.mark.parametrize(("given", "sentence"), [
    (np.zeros((2, 4, 4, 3), np.uint8), "The model takes uint8 images of shape (N, 2, 2, 3)"),
    (IMAGES / 255, "these are float64 of shape (12, 2, 2, 3)"),
    (IMAGES[:0], "No image is given; give at least one."),
    ([], "Expected 2D array, got 1D array instead"),
    (IMAGES[0], "dim 3"),
    (["nowhere.png"], "nowhere.png is not an image that can be read"),
    ([Image.new("F", (4, 4))], "An image of mode F cannot be used"),
    (None, "Expected 2D array, got scalar array instead"),
])  # fmt: skip
def test_what_is_no_image_is_a_value_error(folder, given, sentence):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the sentence is compared below
        ImageGPTFeatures(folder, 1).fit(given)
    assert sentence in str(caught.value)


def test_a_layer_or_run_that_is_not_there(folder, tmp_path):
    for call in ("fit", "fit_transform"):
        with pytest.raises(ValueError, match="layer is 7; this model has layers 0 to 2"):
            getattr(ImageGPTFeatures(folder, 7), call)(IMAGES)
    with pytest.raises(igpt.IgptError, match="nowhere"):
        ImageGPTFeatures(tmp_path / "nowhere", 0).fit(IMAGES)
    with pytest.raises(NotFittedError):
        ImageGPTFeatures(folder, 0).transform(IMAGES)


@pytest.mark.parametrize("wrong", [{"layer": None}, {"layer": "1"}, {"layer": 1.0}, {"batch_size": 0}])
def test_parameters_that_are_no_numbers_of_their_kind(folder, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; it must be"):
        ImageGPTFeatures(folder, **{"layer": 0, **wrong}).fit(IMAGES)


def test_a_list_of_paths_and_images_is_refused(folder, tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    with pytest.raises(ValueError):  # noqa: PT011, scikit-learn's
        ImageGPTFeatures(folder, 0).fit([str(tmp_path / "a.png"), Image.fromarray(IMAGES[0])])


# In scikit-learn's hands


def test_a_column_of_paths_with_pandas_output(folder, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    columns = ColumnTransformer([("features", ImageGPTFeatures(folder, layer=1), "path")])
    frame = columns.set_output(transform="pandas").fit_transform(pd.DataFrame({"path": paths}))
    assert frame.columns[0] == "features__imagegptfeatures0"
    np.testing.assert_array_equal(frame.to_numpy(), igpt.load(folder).features(IMAGES, layer=1))


def test_names_of_features_and_pandas_output(folder):
    features = ImageGPTFeatures(folder, layer=2).set_output(transform="pandas")
    frame = features.fit_transform(pd.DataFrame(TABLE, index=range(100, 112), columns=map(str, range(12))))
    assert frame.columns.tolist() == [f"imagegptfeatures{i}" for i in range(16)]
    assert frame.columns.tolist() == features.get_feature_names_out().tolist()
    assert frame.index.tolist() == list(range(100, 112))
    np.testing.assert_array_equal(frame.to_numpy(), igpt.load(folder).features(IMAGES, layer=2))


def test_a_search_over_layers_scores_each_layer_as_its_features_do(folder):
    labels = np.arange(len(IMAGES)) % 2
    pipeline = make_pipeline(ImageGPTFeatures(folder, layer=0), LogisticRegression())
    layers = {"imagegptfeatures__layer": [0, 1, 2]}
    with parallel_config("threading"):
        search = GridSearchCV(pipeline, layers, cv=3, n_jobs=2, scoring="neg_log_loss").fit(IMAGES, labels)
    every = igpt.load(folder).features(IMAGES)
    expected = [
        cross_val_score(LogisticRegression(), every[:, layer], labels, cv=3, scoring="neg_log_loss").mean()
        for layer in range(3)
    ]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected, rtol=1e-4)
    assert len({round(score, 3) for score in expected}) == 3


def test_copies_load_the_model_again_instead_of_carrying_it(folder):
    fitted = ImageGPTFeatures(folder, layer=1).fit(IMAGES)
    stored = pickle.dumps(fitted)
    assert len(stored) < 1000
    np.testing.assert_array_equal(pickle.loads(stored).transform(IMAGES), fitted.transform(IMAGES))
    with pytest.raises(NotFittedError):
        clone(fitted).transform(IMAGES)


def test_igpt_does_not_import_scikit_learn():
    code = "import sys, igpt; igpt.load, igpt.read_images; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
