"""Recall and mean reciprocal rank by hand."""

import pytest
import torch

from didact.data.example import Document, Texts
from didact.engine.mesh import Mesh
from didact.errors import DataProblem
from didact.measure import Subject, resolve
from didact.measure.recall import Recall, belongings, rank
from didact.model.model import Model
from didact.text.render import Renderer
from tests.model.folders import tiny, tiny_tokenizer


def pair(anchor: str, positive: str) -> Texts:
    return Texts("a:1", (anchor, positive), ("query", "document"))


def subject() -> Subject:
    return Subject(Model(tiny("llama").eval()), Renderer(tiny_tokenizer()), Mesh(torch.device("cpu")))


def test_ranks():
    score = torch.tensor([[0.9, 0.5, 0.7, 0.1], [0.3, 0.3, 0.2, 0.3], [0.0, 0.1, 0.2, 0.3]])
    right = torch.tensor([[False, True, False, False], [True, False, False, False], [False, True, False, True]])
    assert rank(score, right).tolist() == [3, 3, 1]


def test_an_anchor_that_stands_twice_has_two_positives():
    right = belongings(["a", "b", "a"], ["x", "y", "z"], ["x", "y", "z"])
    assert right.int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_a_text_finds_itself():
    found = [pair(f"{word} cat", f"{word} cat") for word in ("one", "two", "three", "four")]
    assert resolve("recall", {"k": 1})(subject(), found) == 1
    assert resolve("mrr", {})(subject(), found) == 1


def test_recall_and_mrr_go_with_the_ranks():
    found = [pair(f"what is {n}?", f"the number {n * n} of {n}") for n in range(12)]
    ranks = Recall().ranks(subject(), found).double()
    assert ranks.max() > 3
    assert resolve("recall", {"k": 3})(subject(), found) == pytest.approx(float((ranks <= 3).double().mean()))
    assert resolve("mrr", {})(subject(), found) == pytest.approx(float((1 / ranks).mean()))


def test_other_data_is_refused():
    with pytest.raises(DataProblem, match="no anchor with its positive"):
        resolve("recall", {})(subject(), [Document("a:1", "text")])
