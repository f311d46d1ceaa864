"""Best-fit packing: documents into rows of fixed capacity, as a pure function of their lengths."""

import numpy as np


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Row number of each document, int64 [n], by best-fit decreasing.

    Documents are taken longest first, each into the row where it leaves the least room (Johnson 1974; for language
    models Ding et al. 2024, arXiv:2404.10830). Documents of one length are placed together, so the work grows with
    the number of different lengths, not of documents. Every length must be between 1 and ``capacity``.
    """
    if len(lengths) == 0:
        return np.zeros(0, np.int64)
    if lengths.min() < 1 or lengths.max() > capacity:
        raise ValueError(f"lengths must lie in 1..{capacity}, got {lengths.min()}..{lengths.max()}")
    order = np.argsort(-lengths, kind="stable")
    distinct, first = np.unique(-lengths[order], return_index=True)
    rows = np.empty(len(lengths), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]  # by room left
    filled = 0  # bit r is set when open_rows[r] is not empty
    count = 0
    for length, group in zip((-distinct).tolist(), np.split(order, first[1:]), strict=True):
        placed = 0
        while placed < len(group):
            fitting = filled >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                take = open_rows[room]
                chosen = take[-(len(group) - placed) :]
                del take[-len(chosen) :]
                if not take:
                    filled &= ~(1 << room)
            else:  # nothing fits: as many new rows as the rest fills, one document each to begin with
                room = capacity
                new = -(-(len(group) - placed) // (capacity // length))
                chosen = list(range(count, count + new))
                count += new
            rows[group[placed : placed + len(chosen)]] = chosen
            placed += len(chosen)
            left = room - length
            if left:
                open_rows[left].extend(chosen)
                filled |= 1 << left
    return rows
