"""What a cache has seen, in pieces of any length, gives the logits of the whole sequence."""

import pytest
import torch
from torch.nn import functional as F

from igpt.model.cache import FixedCache, cache_bytes


def close(logits, expected, tolerance=1e-5):
    torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lengths", [(0, 1, 1, 1), (1, 1, 5, 1), (7, 8), (15,), (0, 15)])
def test_logits_after_any_pieces_are_those_of_the_whole_sequence(tiny, lengths):
    tokens, seen, cache = torch.randint(11, (3, 16)), 0, tiny.new_cache(3)
    with torch.no_grad():
        expected = tiny(tokens)
        for length in lengths:
            logits = tiny.next_logits(tokens[:, seen : seen + length], cache)
            seen += length
            close(logits, expected[:, seen])


def test_a_repeated_cache_continues_where_the_prompt_ended(tiny):
    tokens = torch.randint(11, (6, 16))
    tokens[:, :7] = tokens[::3, :7].repeat_interleave(3, dim=0)
    with torch.no_grad():
        expected, cache = tiny(tokens), tiny.new_cache(2)
        tiny.next_logits(tokens[::3, :7], cache)
        cache = cache.repeat(3)
        for position in range(8, 16):
            close(tiny.next_logits(tokens[:, position - 1 : position], cache), expected[:, position])


def test_parts_of_a_cache_grow_independently(tiny):
    tokens = torch.randint(11, (3, 16))
    with torch.no_grad():
        expected, cache = tiny(tokens), tiny.new_cache(3)
        tiny.next_logits(tokens[:, :4], cache)
        two, one = cache.split(2)
        close(tiny.next_logits(tokens[2:, 4:9], one), expected[2:, 9])
        close(tiny.next_logits(tokens[:2, 4:5], two), expected[:2, 5])


def test_the_cache_has_the_bytes_and_the_precision_asked_for(tiny):
    cache = tiny.new_cache(3, torch.bfloat16)
    assert cache.storage.nbytes == cache_bytes(tiny.config, 3, torch.bfloat16)
    tokens = torch.randint(11, (3, 8))
    with torch.no_grad():
        expected = tiny(F.pad(tokens, (0, 8)))
        close(tiny.next_logits(tokens[:, :5], cache), expected[:, 5], 0.1)
        for position in range(6, 9):
            logits = tiny.next_logits(tokens[:, position - 1 : position], cache)
            close(logits, expected[:, position], 0.1)
            assert not torch.equal(logits, expected[:, position])


@pytest.mark.parametrize("prompt", [0, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_of_fixed_shapes_give_the_same_logits(tiny, prompt, dtype):
    tokens = torch.randint(11, (3, 16))
    with torch.no_grad():
        expected, cache = tiny(tokens), tiny.new_cache(3, dtype)
        tiny.next_logits(tokens[:, :prompt], cache)
        fixed = FixedCache(cache.storage, torch.tensor([cache.length]))
        for position in range(prompt + 1, 16):
            logits = tiny.next_logits(tokens[:, position - 1 : position], fixed)
            close(logits, expected[:, position], 1e-5 if dtype == torch.float32 else 0.1)
            fixed.length += 1
