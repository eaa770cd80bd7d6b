"""The grammar of filters, and what they match."""

import pytest

from igpt.errors import IgptError
from igpt.sweeps.run_filters import Filter, parse_filter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.n_embd=128", Filter("model.n_embd", "=", "128")),
        ("val/nats_per_token < 1.2", Filter("val/nats_per_token", "<", "1.2")),
        ("steps>=1e3", Filter("steps", ">=", "1e3")),
        ("status!=finished", Filter("status", "!=", "finished")),
        ("best=null", Filter("best", "=", "null")),
        ("model.qk_norm=true", Filter("model.qk_norm", "=", "true")),
        ("name=a=b<c", Filter("name", "=", "a=b<c")),
        ("name=", Filter("name", "=", "")),
    ],
)
def test_filters_are_read(text, expected):
    assert parse_filter(text) == expected


@pytest.mark.parametrize("text", ["", "status", "=3", "<3", "best<x", "best>", "steps<true", "a b=3"])
def test_what_is_no_filter_is_one_sentence(text):
    with pytest.raises(IgptError, match=r"^where has '.*'.*; write .*\.$"):
        parse_filter(text)


@pytest.mark.parametrize(
    ("text", "matching", "others"),
    [
        ("x=3", [3, 3.0, "3"], [4, "3.0", None, True]),
        ("x=0", [0, "0"], ["1", ""]),  # the names of jobs of a sweep
        ("x!=3", [4, "a", None], [3, 3.0]),
        ("x<3", [2, -1.5], [3, 4, None, "1", True]),
        ("x<=3", [3, 2], [3.1]),
        ("x>3", [4], [3, None]),
        ("x>=3", [3], [2]),
        ("x=emoji*", ["emoji", "emoji_ar"], ["my_emoji", "Emoji", None, 3]),
        ("x=?1*", ["a1", "b12"], ["1"]),
        ("x=true", [True, "true"], [1, None, False]),
        ("x=1", [1], [True]),
        ("x=null", [None], [0, "", False]),
        ("x!=null", [0, "a"], [None]),
    ],
)
def test_what_matches(text, matching, others):
    found = parse_filter(text)
    assert [found.matches(value) for value in matching] == [True] * len(matching)
    assert [found.matches(value) for value in others] == [False] * len(others)
