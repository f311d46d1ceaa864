import itertools

import numpy as np
import pytest
import torch

from didact.data.pieces import cut, filled
from didact.data.stream import EPOCH, TokenStream
from didact.errors import DataProblem
from tests.toy import toy_corpus, toy_parts, toy_stream


def take(stream, cursor, count):
    return list(itertools.islice(stream.start(cursor), count))


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("stop", [0, 1, 3, 8])
def test_resumes_exactly_at_any_cursor(pack, stop):
    whole = take(toy_stream(pack=pack), 0, 12)
    cursor = whole[stop - 1][1] if stop else 0
    again = take(toy_stream(pack=pack), cursor, 12 - stop)
    for (batch, at), (other, other_at) in zip(whole[stop:], again, strict=True):
        assert same(batch, other)
        assert at == other_at


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_processes_sees_the_same_global_batches(world):
    alone = take(toy_stream(), 0, 6)
    parts = [take(TokenStream(toy_parts(), 32, 4, 0, rank=rank, world=world), 0, 6) for rank in range(world)]
    for step, (batch, _) in enumerate(alone):
        rows = {int(b.row[i]): b.token[i] for part in parts for b in [part[step][0]] for i in range(b.size)}
        assert sorted(rows) == sorted(batch.row.tolist())
        for row, token in zip(batch.row.tolist(), batch.token, strict=True):
            width = min(len(token), len(rows[row]))
            assert torch.equal(rows[row][:width], token[:width])


def test_an_epoch_reads_every_document_once_and_the_next_in_another_order():
    stream = toy_stream(batch_size=1)
    first, second = (np.sort(stream.epoch(number).piece) for number in (0, 1))
    assert np.array_equal(first, np.arange(40))
    assert np.array_equal(second, first)
    assert not np.array_equal(stream.epoch(0).piece, stream.epoch(1).piece)


def test_rows_hold_whole_documents_with_their_columns():
    corpus = toy_corpus()
    documents = {tuple(corpus.token[a:b]) for a, b in itertools.pairwise(corpus.bound)}
    stream = TokenStream(cut([corpus], 32, "window")[0], 32, 4, 0)
    seen = 0
    for batch, cursor in stream.start(0):
        if cursor >= EPOCH:
            break
        for row in range(batch.size):
            for number in range(int(batch.doc[row].max()) + 1):
                inside = batch.doc[row] == number
                assert tuple(batch.token[row][inside].tolist()) in documents
                assert batch.position[row][inside].tolist() == list(range(int(inside.sum())))
                assert not batch.trained[row][inside][:3].any()
                assert batch.trained[row][inside][3:].all()
                seen += 1
    assert seen > 30


def test_weight_is_the_number_of_passes():
    parts = cut([toy_corpus(40, weight=2.0), toy_corpus(40, seed=1, weight=0.25)], 32, "window")[0]
    pieces = TokenStream(parts, 32, 1, 0).epoch(0).piece
    counts = np.bincount(pieces, minlength=80)
    assert (counts[:40] == 2).all()
    assert counts[40:].sum() == 10
    others = TokenStream(parts, 32, 1, 0).epoch(1).piece
    assert not np.array_equal(np.bincount(others, minlength=80)[40:], counts[40:]), "the quarter is a fresh one"


def test_windows_predict_every_token_once():
    corpus = toy_corpus(documents=5, longest=200, prompt=0)
    parts, counts = cut([corpus], 16, "window")
    predicted = np.zeros(len(corpus.token), int)
    for start, length in zip(parts[0].start, parts[0].length, strict=True):
        predicted[start + 1 : start + length] += 1
    first = np.zeros(len(corpus.token), bool)
    first[corpus.bound[:-1]] = True
    assert (predicted[~first] == 1).all()
    assert (predicted[first] == 0).all()
    assert counts.windowed == sum(np.diff(corpus.bound) > 16)


def test_overlong_documents_are_counted_when_dropped():
    corpus = toy_corpus(documents=30, longest=40)
    _, counts = cut([corpus], 16, "drop")
    assert counts.dropped_overlong == (np.diff(corpus.bound) > 16).sum() > 0
    assert any("dropped" in line for line in counts.lines())


def test_nothing_trained_is_an_error():
    with pytest.raises(DataProblem, match="no token of this data would be trained"):
        cut([toy_corpus(longest=40)], 4, "drop")


def test_filled_documents_go_on_with_their_last_trained_token():
    plain = toy_corpus(documents=9)
    plain.trained[plain.bound[1] - 1] = False  # a template may write more behind the end of an answer
    plain.trained[plain.bound[2] : plain.bound[3]] = False
    full = filled(plain, 8)
    assert len(full) == 9
    for i in range(9):
        one, other = slice(*plain.bound[i : i + 2]), slice(*full.bound[i : i + 2])
        size = one.stop - one.start
        token, trained = full.token[other], full.trained[other]
        assert len(token) % 8 == 0
        assert len(token) - size < 8
        assert (token[:size] == plain.token[one]).all()
        assert (trained[:size] == plain.trained[one]).all()
        if i == 2:
            assert not trained.any()
        else:
            assert (token[size:] == plain.token[one][plain.trained[one]][-1]).all()
            assert trained[size:].all()
    assert (filled(plain, 1).token == plain.token).all()
