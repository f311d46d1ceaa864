"""Rows of prompts with answers: layout, sums, pairs; a prompt that stands once is as one that stands several times."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from didact.audit import laws
from didact.batch import Batch
from didact.data.answers import person
from didact.data.corpus import in_memory
from didact.data.example import Answers
from didact.data.pieces import cut
from didact.data.stream import TokenStream
from didact.objective.answers import by_answer, judged, of_same, pairs
from didact.objective.base import Objective
from didact.objective.tokens import causal_reach, next_token
from didact.text.render import Renderer
from didact.text.tokenizer import train
from tests.toy import toy_answers, toy_model


@dataclass(frozen=True)
class Better(Objective):
    """-log sigmoid of how much likelier the better answer is; measures how often it is."""

    judged: ClassVar[bool] = True
    gauges: ClassVar[frozenset[str]] = frozenset({"accuracy"})

    def prepare(self, model, batch, rng):
        target, trained = next_token(batch)
        weight = pairs(batch).float()
        return batch.with_(
            {"pair": weight, "accuracy": weight}, target=target, where=trained, reach=causal_reach(batch)
        )

    def loss(self, model, batch) -> Mapping[str, Tensor]:
        said = by_answer(model.logprob(model.hidden(batch), batch.target, batch.where), batch)  # [B, A]
        margin = said[:, :, None] - said[:, None, :]  # [B, A, A]
        return {"pair": -F.logsigmoid(0.1 * margin), "accuracy": (margin > 0).float()}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(train(["One. Two, three. Once upon a time more. Hi Yes? Go on."], 300))


def rows(**how) -> Batch:
    return next(toy_answers(**how).start(0))[0]


def test_a_row_says_which_token_answers_what():
    batch = rows(examples=40)
    assert (batch.of.max(1).values > 0).any(), "nothing was packed"
    for row in range(batch.size):
        for answer in range(int((batch.of[row] >= 0).sum())):
            mine = batch.answer[row] == answer
            (doc,) = batch.doc[row][mine].unique().tolist()
            assert doc == batch.of[row, answer]
            shared = (batch.doc[row] == doc) & (batch.answer[row] == -1)
            assert batch.position[row][mine].tolist() == list(range(int(shared.sum()), int(shared.sum() + mine.sum())))
            assert batch.order[row][shared].eq(0).all()
            assert batch.order[row][mine].unique().numel() == 1
            assert not batch.trained[row][mine][0]
            assert batch.trained[row][mine][1:].all()
    assert (batch.score.isnan() == (batch.of < 0)).all()


def test_sums_and_pairs_by_hand():
    batch = Batch(
        {
            "doc": torch.tensor([[0, 0, 0, 0, 0, 1, 1, -1]]),
            "answer": torch.tensor([[-1, 0, 0, 1, 1, 2, 3, -1]]),
            "trained": torch.tensor([[0, 0, 1, 0, 1, 1, 1, 0]]).bool(),
            "of": torch.tensor([[0, 0, 1, 1, -1]]),
            "score": torch.tensor([[1.0, 2.0, 5.0, float("nan"), float("nan")]]),
        }
    )
    assert by_answer(torch.arange(8.0)[None], batch).tolist() == [[3, 7, 5, 6, 0]]
    assert judged(batch).tolist() == [[True, True, True, False, False]]
    assert pairs(batch).nonzero().tolist() == [[0, 1, 0]]
    assert of_same(torch.tensor([[1.0, 2, 4, 8, 16]]), batch).tolist() == [[3, 3, 12, 12, 0]]
    silent = batch.with_(trained=torch.zeros_like(batch.trained))
    assert not pairs(silent).any()


@pytest.mark.parametrize("answers", [(2, 2), (2, 5)])
def test_a_shared_prompt_is_as_good_as_copies_of_it(answers):
    model = toy_model(hidden_size=64, intermediate_size=128)
    found = [
        laws.step_gradient(model, Better(), rows(answers=answers, share=share, seed=3), 4) for share in (True, False)
    ]
    assert laws.distance(*found) < 1e-6


def test_laws_hold_and_gauges_are_measured_but_not_learned():
    from didact.engine.mesh import Mesh
    from didact.engine.step import Task, take_step
    from didact.rng import Rng

    model, batch = toy_model(), rows()
    assert laws.micro_batches(model, Better(), batch) < 1e-6
    assert laws.packing(model, Better(), batch) < 1e-6
    assert laws.weight_zero(model, Better(), rows(pack=False)) < 1e-6
    steps = [
        take_step(model, [Task("t", Better(), iter([(batch, 1)]))], Mesh(torch.device("cpu")), Rng(0, 0), n)
        for n in (1, 4)
    ]
    assert steps[0].gauge == pytest.approx(steps[1].gauge)
    assert 0 < steps[0].gauge["t", "accuracy"] < 1
    assert list(steps[0].loss) == [("t", "pair")] == list(steps[0].weight)


def test_answers_are_rendered_as_they_are_served(renderer):
    chat = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go on."},
    )
    examples = [
        Answers("a", chat, ("One.", "Two, three."), (1.0, 0.0), "ann"),
        Answers("b", "Once", (" upon a time", " more"), (0.0, float("nan"))),
    ]
    corpus = in_memory(examples, renderer)
    stream = TokenStream(cut([corpus], 200, "drop")[0], 200, 1, 0, pack=False, shuffle=False, share=False)
    (first, _), (second, _) = (pair for pair, _ in zip(stream.start(0), range(2), strict=False))
    whole = renderer.conversation([*({**turn, "weight": 0} for turn in chat), {"role": "assistant", "content": "One."}])
    assert first.token[0, : len(whole.tokens)].tolist() == whole.tokens
    assert first.trained[0, : len(whole.tokens)].tolist() == whole.trained
    assert first.who.tolist() == [[person("ann")] * 2]
    assert second.who.tolist() == [[0, 0]]
    plain = renderer.completion("Once", " more")
    assert second.token[0, second.doc[0] == 1].tolist() == plain.tokens
    assert second.score[0, 0] == 0
    assert second.score[0, 1].isnan()


def test_an_example_is_as_long_as_its_longest_answer():
    corpus = in_memory_corpus()
    parts, counts = cut([corpus], 7, "drop")
    assert counts.dropped_overlong == 1
    assert len(parts[0].start) == 1


def in_memory_corpus():
    import numpy as np

    from didact.data.answers import Judged
    from didact.data.corpus import Corpus

    branch = np.asarray([0, 0, 1, 1, 1, 2, 2, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2], np.int16)
    judged = Judged(branch, np.asarray([1, 0, 1, 0], np.float32), np.zeros(4, np.int64), np.asarray([0, 2, 4]))
    return Corpus(np.arange(17, dtype=np.int32), branch > 0, np.asarray([0, 7, 17]), np.ones(2), judged=judged)
