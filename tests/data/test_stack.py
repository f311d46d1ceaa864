"""Rows become a batch by the names of their columns, whatever their lengths happen to be."""

import numpy as np
import torch

from didact.data.stack import stacked
from didact.rollout.decoder import Completion
from didact.rollout.rows import row, trimmed


def test_a_prompt_of_one_token_with_empty_answers_has_as_many_tokens_as_answers():
    empty, said = Completion(0, [], []), Completion(0, [7, 8], [-0.5, -0.25])
    short, long = row([5], [empty, empty]), row([5, 6], [empty, said])
    assert len(short["token"]) == len(short["of"]) == 2
    for here, rows in enumerate(([short, long], [long, short])):
        batch = stacked(rows)
        assert batch.token.shape == (2, 5)
        assert batch.of.shape == batch.finished.shape == (2, 2)
        assert batch.doc[here].tolist() == [0, 0, -1, -1, -1]
        assert batch.answer[here].tolist() == [0, 1, -1, -1, -1]
    alone = trimmed(stacked([short, long]).rows(torch.tensor([0])))
    assert alone.token.tolist() == [[5, 5]]
    assert alone.of.shape == (1, 2)


def test_columns_of_answers_are_filled_with_nobody():
    rows = [
        {"token": np.array([1]), "of": np.array([0]), "score": np.float32([2]), "value": np.float32(3)},
        {"token": np.array([1, 2]), "of": np.array([0, 0]), "score": np.float32([1, 0]), "value": np.float32(4)},
    ]
    batch = stacked(rows)
    assert batch.token.tolist() == [[1, 0], [1, 2]]
    assert batch.of.tolist() == [[0, -1], [0, 0]]
    assert batch.score[0].isnan().tolist() == [False, True]
    assert batch["value"].tolist() == [3, 4]
    assert batch["value"].dtype == torch.float32
