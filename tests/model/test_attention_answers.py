"""Answers that share one copy of their prompt: every attention path against the dense oracle, and against copies."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from didact.errors import UsageProblem
from didact.model import attention_cpu, attention_gpu
from didact.model.attention import Sight, dispatch
from didact.model.attention_plain import oracle
from tests.model.test_attention import SCALE, close, inputs

# (prompt, answers) of the documents of each row
ROWS = [
    [[(40, [10, 70, 33])], [(0, [5, 6]), (3, [1, 2, 40])]],
    [[(100, [4, 4, 4, 90])], [(12, []), (30, [60, 60])]],
    [[(7, [1]), (5, [2, 2]), (9, [30, 31, 32, 33])], [(2, [3])]],
]


def laid(rows: list[list[tuple[int, list[int]]]], tokens: int = 220) -> tuple[Tensor, Tensor]:
    """``doc`` and ``order`` of rows, [B, T]."""
    doc, order = torch.full((len(rows), tokens), -1), torch.zeros(len(rows), tokens, dtype=torch.int64)
    for row, documents in enumerate(rows):
        at = 0
        for number, (prompt, answers) in enumerate(documents):
            for place, size in enumerate([prompt, *answers]):
                doc[row, at : at + size], order[row, at : at + size] = number, max(2 * place - 1, 0)
                at += size
    return doc.int(), order


def sight(rows) -> Sight:
    doc, order = laid(rows)
    return Sight(doc, torch.arange(doc.shape[1]).expand(doc.shape), order)


@pytest.fixture(params=[(32, 64), (96, 1024)], ids=["small blocks", "usual blocks"])
def _blocks(monkeypatch, request):
    monkeypatch.setattr(attention_cpu, "QUERIES", request.param[0])
    monkeypatch.setattr(attention_cpu, "KEEP", request.param[1])


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_cpu_path_equals_the_oracle(rows, softcap):
    saw = sight(rows)
    real = (saw.doc >= 0)[:, None, :, None]
    q, k, v = inputs(len(rows), saw.reach.shape[1])
    out, grad = [], torch.randn(q.shape)
    for path in (attention_cpu.attention, oracle):
        made = path(q, k, v, saw, SCALE, softcap=softcap)
        out.append((made * real, *torch.autograd.grad(made, (q, k, v), grad * real)))
    for ours, theirs in zip(*out, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("rows", ROWS)
def test_flex_equals_the_oracle(rows):
    saw = sight(rows)
    real = (saw.doc >= 0)[:, None, :, None]
    q, k, v = (x.detach() for x in inputs(len(rows), saw.reach.shape[1]))
    close(
        attention_gpu.attention(q, k, v, saw, SCALE, kernel=flex_attention) * real, oracle(q, k, v, saw, SCALE) * real
    )


def test_only_plain_and_branching_documents_take_the_fast_path():
    assert sight(ROWS[0]).branches
    doc, order = laid(ROWS[0])
    assert not Sight(doc, torch.zeros_like(order), order + 1).branches  # a clean copy is seen by others
    assert Sight(doc, torch.zeros_like(order)).branches


def test_a_long_prompt_and_a_late_answer_are_multiplied_without_what_lies_between():
    doc, order = laid([[(400, [300, 300, 50])]], tokens=1050)
    blocks = attention_cpu.blocks_of(Sight(doc, torch.arange(1050)[None], order), None, 3, torch.float32)
    last = blocks[-1]
    assert last.shared == (0, 400)
    assert last.low >= 700 - attention_cpu.LANES
    assert last.keys <= 400 + 350 + attention_cpu.LANES
    assert last.keys % attention_cpu.LANES == 0


def test_a_window_that_slides_is_refused():
    saw = sight(ROWS[0])
    q, k, v = inputs(2, saw.reach.shape[1])
    with pytest.raises(UsageProblem, match="sliding windows"):
        dispatch(q, k, v, saw, SCALE, window=50)
    dispatch(q, k, v, saw, SCALE, window=500)
