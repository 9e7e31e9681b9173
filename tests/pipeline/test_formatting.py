"""Numbers as people read them."""

import pytest

from textsmooth.pipeline.formatting import counted, duration, percent, significant, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (1, "1.00"), (0.98765, "0.988"), (0.00012345, "0.000123"), (12.345, "12.3"), (128, "128"), (999.4, "999")),
        *((999.6, "1,000"), (1234.5, "1,230"), (4_763_210, "4,760,000"), (9_996, "10,000"), (float("nan"), "nan")),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [*((0, "0.0 kB"), (600, "0.6 kB"), (52_300, "52.3 kB"), (12_345_678, "12.3 MB")), (2_500_000_000, "2.5 GB"), (1.2e13, "12,000.0 GB")],
)
def test_bytes_have_a_decimal_unit(count: float, text: str) -> None:
    assert size(count) == text


def test_durations_percentages_and_counts() -> None:
    assert [duration(s) for s in (0.5, 119, 120, 3600, 7200)] == ["0.500 s", "119 s", "2.00 min", "60.0 min", "2.00 h"]
    assert percent(0.98765) == "98.8 %" and percent(0) == "0 %"
    assert counted(1, "row") == "1 row" and counted(2000, "row") == "2,000 rows"
