"""Checkpoints name classes: ours by short names, others by dotted paths, and nothing but subclasses is used."""

from fractions import Fraction
from numbers import Number, Rational

import pytest

from igpt.errors import IgptError
from igpt.stored_names import class_of, name_of

OURS = {"ratio": Fraction}


def test_a_class_is_found_by_the_name_that_it_was_given():
    assert name_of(Fraction, OURS) == "ratio"
    assert name_of(Rational, OURS) == "numbers.Rational"
    for each in (Fraction, Rational):
        assert class_of(name_of(each, OURS), OURS, Number) is each


def test_a_subclass_of_ours_keeps_its_own_path():
    class Mine(Fraction):
        pass

    assert name_of(Mine, OURS).endswith("Mine")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("quotient", "number is 'quotient', which this version of igpt does not have"),
        ("shutil.rmtree", "shutil.rmtree, which is no subclass of igpt's Number"),
        ("pathlib.Path", "pathlib.Path, which is no subclass of igpt's Number"),
        ("not_there.Fraction", "not_there.Fraction, which cannot be imported .* put its module on the path"),
    ],
)
def test_other_names_are_refused(name, sentence):
    with pytest.raises(IgptError, match=sentence):
        class_of(name, OURS, Number)
