import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.data.pack import best_fit


@given(st.lists(st.integers(1, 64), max_size=300))
def test_every_document_has_a_row_and_no_row_overflows(lengths):
    lengths = np.asarray(lengths, np.int64)
    rows = best_fit(lengths, 64)
    assert len(rows) == len(lengths)
    if len(lengths):
        filled = np.bincount(rows, weights=lengths)
        assert filled.max() <= 64
        assert filled.min() > 0, "row numbers have gaps"


@given(st.lists(st.integers(1, 64), min_size=1, max_size=200))
def test_is_best_fit_decreasing(lengths):
    """The number of rows is that of the textbook loop."""
    lengths = np.asarray(lengths)
    room: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [i for i, left in enumerate(room) if left >= length]
        if fitting:
            room[min(fitting, key=lambda i: room[i])] -= length
        else:
            room.append(64 - length)
    assert best_fit(lengths, 64).max() + 1 == len(room)


def test_fill_of_realistic_lengths():
    lengths = np.clip(np.random.default_rng(0).lognormal(5, 0.7, 20_000).astype(int) + 1, 1, 2048)
    rows = best_fit(lengths, 2048)
    assert lengths.sum() / (2048 * (rows.max() + 1)) > 0.999


def test_refuses_what_cannot_fit():
    with pytest.raises(ValueError, match=r"1\.\.8"):
        best_fit(np.array([3, 9]), 8)
