"""Missing optional libraries and errors of libraries are one sentence each."""

import sys

import pytest

from igpt.errors import IgptError
from igpt.libraries import library_errors, optional_library


def test_an_optional_library_that_is_missing(monkeypatch):
    assert optional_library("json", "A test", "json") is sys.modules["json"]
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        IgptError, match=r"^A palette needs faiss, which is not installed: pip install 'igpt\[cpu\]'\.$"
    ):
        optional_library("faiss", "A palette", "'igpt[cpu]'")


def test_errors_of_a_library():
    with (
        pytest.raises(IgptError, match=r"^It failed \(403\); check the key\.$"),
        library_errors("It failed", "check the key"),
    ):
        raise RuntimeError("403.\nLong explanation")
    with library_errors("It failed", "check the key"):
        pass
