"""Bins of a reliability diagram and how sure they are."""

import math

import pytest

from utils.reporting.calibration import read_bins, wilson


@pytest.mark.parametrize(("share", "count"), [(100.0, 1), (0.0, 10), (50.0, 20), (80.0, 100), (99.5, 4000)])
def test_an_interval_ends_where_the_share_would_be_196_standard_errors_away(share, count):
    """The score test that Wilson's interval inverts, with the standard error of each end's own share."""
    low, high = wilson(share, count)
    for end in {low, high} - {0.0, 100.0}:
        error = math.sqrt(end * (100 - end) / count)
        assert abs(share - end) == pytest.approx(1.959964 * error, rel=1e-5)
    assert 0 <= low <= share <= high <= 100
    assert (low == 0, high == 100) == (share == 0, share == 100)


def test_bins_of_seeds_are_pooled_by_their_images_and_those_of_few_are_marked():
    first = {"count": [0, 30, 5], "confidence": [None, 50.0, 90.0], "accuracy": [None, 40.0, 100.0]}
    second = {"count": [0, 10, 0], "confidence": [None, 54.0, None], "accuracy": [None, 80.0, None]}
    half, high = read_bins([first, second])
    assert half[:5] == pytest.approx((100 / 3, 200 / 3, 40, 51.0, 50.0))
    assert high[:5] == pytest.approx((200 / 3, 100, 5, 90.0, 100.0))
    assert (half.few, high.few) == (False, True)
    assert high.low < 60 < high.high == 100
    assert read_bins([]) == read_bins([{"count": [], "confidence": [], "accuracy": []}]) == []
