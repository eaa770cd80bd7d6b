import pytest

from igpt.units import number_text, time_text

DAY = 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 µs"), (4.2e-6, "4.2 µs"), (0.0351, "35.1 ms"), (0.9994, "999 ms"), (0.9996, "1 s"), (1.0612, "1.06 s"),
        (59.94, "59.9 s"), (119.9, "120 s"), (192, "3.2 minutes"), (3 * 3600, "3 hours"), (1.7 * DAY, "41 hours"),
        (99 * DAY, "99 days"), (2410 * DAY, "6.6 years"), (1e12, "31,688 years"),
    ],
)  # fmt: skip
def test_a_time_has_a_unit_that_suits_it(seconds, text):
    assert time_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.001234, "0.00123"),
        (1.234e-5, "0.0000123"),
        (-0.5, "-0.5"),
        (1.061, "1.06"),
        (99.96, "100"),
        (65_700, "65,700"),
    ],
)
def test_a_number_has_no_exponent(value, text):
    assert number_text(value, 3) == text
