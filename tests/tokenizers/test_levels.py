import numpy as np
import pytest
import torch
from PIL import Image

from igpt.errors import IgptError
from igpt.tokenizers import RGB, Gray, tokenizer_from_state, tokenizer_state


def test_rgb_tokens_are_the_channels_pixel_by_pixel():
    image = torch.tensor([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]], dtype=torch.uint8)
    assert RGB().encode(image[None]).tolist() == [list(range(1, 13))]


def test_gray_is_pillows():
    colors = np.random.default_rng(0).integers(0, 256, (250, 400, 3), dtype=np.uint8)
    tokens = Gray().encode(torch.from_numpy(colors)[None]).reshape(250, 400)
    np.testing.assert_array_equal(tokens.numpy(), np.asarray(Image.fromarray(colors).convert("L")))


def test_gray_loses_color_and_nothing_of_gray():
    tokens = torch.arange(256)[None]
    images = Gray().decode(tokens)
    assert images.shape == (1, 16, 16, 3)
    np.testing.assert_array_equal(images[0, :, :, 0], np.arange(256).reshape(16, 16))
    assert torch.equal(Gray().encode(images), tokens)
    red = torch.tensor([[[[255, 0, 0]]]], dtype=torch.uint8)
    assert Gray().decode(Gray().encode(red)).tolist() == [[[[76] * 3]]]
    assert not Gray().lossless


@pytest.mark.parametrize("tokenizer", [RGB(), Gray()])
def test_resolution_is_the_inverse_of_the_number_of_tokens(tokenizer):
    assert [tokenizer.resolution(tokenizer.n_tokens(side)) for side in (1, 3, 32)] == [1, 3, 32]
    assert tokenizer_from_state(tokenizer_state(tokenizer)).fingerprint == tokenizer.fingerprint


def test_tokens_that_make_no_square_are_refused():
    with pytest.raises(IgptError, match="16 tokens of the tokenizer rgb do not make a square .* choose 12 or 27"):
        RGB().resolution(16)
    with pytest.raises(IgptError, match="12 tokens of the tokenizer gray do not make a square"):
        Gray().decode(torch.zeros(1, 12, dtype=torch.long))


@pytest.mark.parametrize("tokenizer", [RGB(), Gray()])
def test_only_uint8_images_are_encoded(tokenizer):
    with pytest.raises(TypeError, match="uint8"):
        tokenizer.encode(torch.zeros(1, 2, 2, 3))
