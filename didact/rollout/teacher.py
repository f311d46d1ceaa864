"""A teacher reads a corpus once and leaves its likeliest tokens, or what it finds of the tokens that are there."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from didact.batch import Batch
from didact.data.corpus import Corpus
from didact.data.pieces import Pieces, cut
from didact.data.stream import TokenStream
from didact.data.taught import places
from didact.model.model import Model
from didact.objective.base import Teacher
from didact.objective.tokens import causal_reach, next_token, prefix_reach

ROOM = 2048  # tokens in one forward pass
CHUNK = 256  # positions whose logits stand at once


@torch.inference_mode()
def write_columns(model: Model, corpus: Corpus, context: int, teacher: Teacher, size: int, folder: Path) -> None:
    """Writes ``token.npy`` int32 and ``logprob.npy`` float32 [trained tokens, k]; see ``data.taught``.

    The corpus is read in pieces of ``context`` tokens; ``size`` counts the token ids that student and teacher share.
    """
    place, count, k = places(corpus.trained), int(corpus.trained.sum()), min(teacher.top, size)
    token = open_memmap(folder / "token.npy", "w+", np.int32, (count, k))
    logprob = open_memmap(folder / "logprob.npy", "w+", np.float32, (count, k))
    device = next(model.parameters()).device
    for batch, index in _rows(cut([corpus], context, "window")[0][0]):
        reach = prefix_reach(batch) if model.bidirectional_prompt else causal_reach(batch)
        asked = next_token(batch)[1][0].bool()
        rows = place[index[asked.numpy()] + 1]
        hidden = model.hidden(batch.with_(reach=reach).to(device))[0][asked.to(device)]
        for a in range(0, len(rows), CHUNK):
            logits = model.logits(hidden[a : a + CHUNK]).float()[:, :size] / teacher.temperature
            best = logits.log_softmax(-1).topk(k)
            token[rows[a : a + CHUNK]] = best.indices.cpu().numpy()
            logprob[rows[a : a + CHUNK]] = best.values.cpu().numpy()
    token.flush()
    logprob.flush()


def write_reference(model: Model, corpus: Corpus, context: int, folder: Path) -> None:
    """Writes ``reference.npy``, the ``logprobs`` of a corpus of prompts with answers; see ``data.taught``."""
    np.save(folder / "reference.npy", logprobs(model, corpus, context))


@torch.inference_mode()
def logprobs(model: Model, corpus: Corpus, context: int) -> np.ndarray:
    """log p of each trained token of prompts with answers in its place, float32 [trained tokens].

    It is 0 in examples that do not fit ``context``.
    """
    pieces = cut([replace(corpus, weight=1.0)], context, "drop")[0][0]
    assert pieces.example is not None
    order = np.argsort(pieces.length, kind="stable")  # so that little is padding
    start, length, example = (column[order] for column in (pieces.start, pieces.length, pieces.example))
    place, device = places(corpus.trained), next(model.parameters()).device
    found = np.zeros(int(corpus.trained.sum()), np.float32)
    rows = max(ROOM // int(length.max()), 1)
    pieces = replace(pieces, start=start, length=length, example=example)
    stream = TokenStream([pieces], context, rows, 0, pack=False, shuffle=False)
    for first, (batch, _) in zip(range(0, len(start), rows), stream.start(0), strict=False):
        target, said = next_token(batch)
        ready = batch.with_(reach=causal_reach(batch)).to(device)
        logprob = model.logprob(model.hidden(ready), target.to(device), said.to(device)).float().cpu().numpy()
        for row, begin in enumerate(start[first : first + rows]):  # the last batch goes on with the first rows
            at = np.flatnonzero(said[row].numpy())
            found[place[begin + at + 1]] = logprob[row, at]
    return found


def _rows(pieces: Pieces) -> Iterator[tuple[Batch, np.ndarray]]:
    """Pieces in their order, as many to a row of one batch as there is room for, and each token's corpus index."""
    row = (np.cumsum(pieces.length) - pieces.length) // ROOM
    for number in np.unique(row):
        spans = list(zip(pieces.start[row == number], pieces.length[row == number], strict=True))
        index = np.concatenate([np.arange(start, start + length) for start, length in spans])
        columns = {
            "token": np.asarray(pieces.corpus.token[index], np.int64),
            "trained": np.asarray(pieces.corpus.trained[index]),
            "doc": np.repeat(np.arange(len(spans), dtype=np.int32), [length for _, length in spans]),
            "position": np.concatenate([np.arange(length) for _, length in spans]),
        }
        yield Batch({name: torch.from_numpy(column)[None] for name, column in columns.items()}), index
