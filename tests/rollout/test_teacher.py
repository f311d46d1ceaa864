"""A teacher's columns against its own full probabilities, and their way through the stream."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from didact.batch import Batch
from didact.data.pieces import cut
from didact.data.stream import TokenStream
from didact.data.taught import LIKELIEST, open_taught, places
from didact.errors import DataProblem
from didact.objective.base import Teacher
from didact.rollout import teacher as module
from didact.rollout.teacher import write_columns
from tests.toy import VOCABULARY, toy_corpus, toy_model

CONTEXT = 16


def likeliest(model, ids: np.ndarray, temperature: float) -> torch.Tensor:
    """Log-probabilities of what follows each token of a text alone, [T, V]."""
    token = torch.tensor(ids, dtype=torch.int64)[None]
    index = torch.arange(token.shape[1])[None]
    batch = Batch({"token": token, "position": index, "doc": torch.zeros_like(index), "reach": index})
    with torch.no_grad():
        return (model.logits(model.hidden(batch))[0].float() / temperature).log_softmax(-1)


@pytest.mark.parametrize("top", [3, VOCABULARY + 5])
def test_columns_are_the_teachers_own(tmp_path, monkeypatch, top):
    """Each trained token of each piece, whatever else is read in the same row; and its row in the batch."""
    monkeypatch.setattr(module, "ROOM", 50)
    monkeypatch.setattr(module, "CHUNK", 7)
    model, corpus, k = toy_model().eval(), toy_corpus(documents=12), min(top, VOCABULARY)
    write_columns(model, corpus, CONTEXT, Teacher("self", top, 2.0), VOCABULARY, tmp_path)
    taught = open_taught(tmp_path, corpus.trained, LIKELIEST)
    parts = cut([replace(corpus, taught=taught)], CONTEXT, "window")[0]
    place, seen = places(corpus.trained), 0
    for start, length in zip(parts[0].start, parts[0].length, strict=True):
        found = likeliest(model, corpus.token[start : start + length], 2.0)
        for i in range(1, length):
            if corpus.trained[start + i]:
                row = place[start + i]
                wanted = found[i - 1].topk(k)
                assert taught.made["teacher_token"][row].tolist() == wanted.indices.tolist()
                np.testing.assert_allclose(taught.made["teacher_logprob"][row], wanted.values, atol=1e-5)
                seen += 1
    assert seen > 100
    batch = next(TokenStream(parts, CONTEXT, 8, 0).start(0))[0]
    assert batch.teacher_token.shape == (*batch.token.shape, k)
    for row, at in zip(*np.nonzero((batch.trained & (batch.position > 0)).numpy()), strict=True):
        begin = at - int(batch.position[row, at])
        ids = batch.token[row, begin:at].numpy()
        wanted = likeliest(model, ids, 2.0)[-1].topk(k)
        torch.testing.assert_close(batch.teacher_logprob[row, at], wanted.values, atol=1e-5, rtol=0)
        assert batch.teacher_token[row, at].tolist() == wanted.indices.tolist()


def test_damaged_columns_are_one_line(tmp_path):
    corpus = toy_corpus(documents=3)
    with pytest.raises(DataProblem, match="damaged"):
        open_taught(tmp_path, corpus.trained, LIKELIEST)
    write_columns(toy_model().eval(), corpus, CONTEXT, Teacher("self", 2, 1.0), VOCABULARY, tmp_path)
    with pytest.raises(DataProblem, match="damaged"):
        open_taught(tmp_path, corpus.trained[:-1], LIKELIEST)
