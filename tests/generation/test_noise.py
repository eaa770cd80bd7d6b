"""The noise of sampling: which numbers are equal, and that all others are independent."""

import numpy as np
import pytest
import torch

from igpt.errors import IgptError
from igpt.generation.noise import BITS, Noise

EULER = 0.5772156649


def uniform(noise, pass_number=0, n_positions=64):
    return noise.integers(n_positions, pass_number).double() / 2**BITS


def test_a_number_depends_on_its_own_prompt_copy_and_position_alone():
    whole = Noise(7, range(5), range(4))
    integers, gumbel = whole.integers(16, 2).view(5, 4, 16), whole.gumbel(16, 2).view(5, 4, 16)
    for prompts, copies in ((range(5), range(1)), (range(3, 5), range(2, 4)), (range(4, 5), range(4))):
        part = Noise(7, prompts, copies)
        rows = slice(prompts.start, prompts.stop), slice(copies.start, copies.stop)
        assert torch.equal(part.integers(16, 2), integers[rows].reshape(-1, 16))
        assert torch.equal(part.gumbel(16, 2), gumbel[rows].reshape(-1, 16))
        assert torch.equal(part.integers(9, 2), integers[rows].reshape(-1, 16)[:, :9])


@pytest.mark.parametrize("change", ["seed", "prompt", "copy", "position", "pass", "stream"])
def test_what_differs_in_one_thing_is_independent(change):
    base = uniform(Noise(3, range(50), range(40)))
    other = {
        "seed": lambda: uniform(Noise(4, range(50), range(40))),
        "prompt": lambda: uniform(Noise(3, range(1, 51), range(40))),
        "copy": lambda: uniform(Noise(3, range(50), range(1, 41))),
        "position": lambda: base.roll(1, dims=1),
        "pass": lambda: uniform(Noise(3, range(50), range(40)), pass_number=1),
        "stream": lambda: Noise(3, range(50), range(40)).gumbel(64, 0).double().neg().exp().neg().exp(),
    }[change]()
    assert not torch.isclose(base, other, rtol=0, atol=1e-12).any()
    n = base.numel()  # 128,000 pairs: a correlation has standard error 0.0028, a cell of 8 x 8 about 44 counts
    assert abs(np.corrcoef(base.flatten(), other.flatten())[0, 1]) < 0.015
    cells = np.histogram2d(base.flatten(), other.flatten(), bins=8, range=[[0, 1], [0, 1]])[0]
    chi_square = ((cells - n / 64) ** 2 / (n / 64)).sum()
    assert chi_square < 63 + 5 * (2 * 63) ** 0.5


def test_gumbel_noise_has_the_moments_of_its_distribution():
    gumbel = Noise(0, range(100), range(20)).gumbel(64, 3).double()
    assert gumbel.isfinite().all()
    assert gumbel.mean() == pytest.approx(EULER, abs=0.02)
    assert gumbel.var() == pytest.approx(np.pi**2 / 6, rel=0.03)


def test_prompt_and_copy_are_not_interchangeable():
    assert not torch.equal(uniform(Noise(0, range(1, 2), range(2, 3))), uniform(Noise(0, range(2, 3), range(1, 2))))


def test_seeds_are_64_bit_integers():
    lowest, highest = Noise(-(2**63), range(2), range(1)), Noise(2**63 - 1, range(2), range(1))
    assert not torch.equal(lowest.integers(4), highest.integers(4))
    for seed in (-(2**63) - 1, 2**63):
        with pytest.raises(IgptError, match=f"seed is {seed}; it must be from"):
            Noise(seed, range(2), range(1))
