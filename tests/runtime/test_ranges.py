from pathlib import Path

import pytest

from utils.runtime.errors import UserError
from utils.runtime.ranges import COUNT, PERCENT, optional, require_ranges


def test_a_number_is_within_its_range_only_as_a_finite_number_of_its_kind():
    for value in (0, 0.0, 100, 99.5):
        assert PERCENT(value)
    for value in (-1e-9, 100.1, float("nan"), float("inf"), True, "5", None, [5], 10**400):
        assert not PERCENT(value)
        assert optional(PERCENT)(value) == (value is None)
    assert [COUNT(value) for value in (3, 3.0, 3.5)] == [True, True, False]
    with pytest.raises(
        UserError, match=r"x\.json cannot be right: top1 is \\x1b, not a number from 0 to 100 \(hint: h"
    ):
        require_ranges(Path("x.json"), {"top1": "\x1b"}, {"top1": PERCENT}, "h")
