"""Answers that people judged, as columns beside a corpus's tokens, and as rows in which a prompt stands once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from didact.data.example import Answers
from didact.errors import DataProblem


@dataclass(frozen=True)
class Judged:
    """An example's tokens are its prompt but for the last token, then each answer, behind that last token.

    ``branch`` int16 [N]: 0 in what the answers share, k in the k-th answer. Answer j has ``score`` float32 (NaN: nobody
    judged it), ``who`` int64 (see ``person``) and, where that is known, ``trust`` float32, how much it counts;
    ``bound`` int64 [examples + 1]: those of example i are ``bound[i]:bound[i + 1]``.
    """

    branch: np.ndarray
    score: np.ndarray
    who: np.ndarray
    bound: np.ndarray
    trust: np.ndarray | None = None

    def of(self, example: int) -> slice:
        """The answers of an example."""
        return slice(int(self.bound[example]), int(self.bound[example + 1]))


def person(name: str) -> int:
    """The number of an annotator, the same wherever the name stands; 0 for the empty name."""
    if not name:
        return 0
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1 or 1


def write_judged(examples: list[Answers], folder: Path) -> None:
    """What people said, beside the tokens; ``branch`` is written with them."""
    np.save(folder / "score.npy", np.asarray([v for one in examples for v in one.values], np.float32))
    who = [person(one.annotator) for one in examples for _ in one.values]
    np.save(folder / "who.npy", np.asarray(who, np.int64))
    np.save(folder / "answers.npy", np.cumsum([0, *(len(one.values) for one in examples)], dtype=np.int64))


def open_judged(folder: Path, tokens: int, examples: int) -> Judged:
    """Maps what ``write_judged`` left. Raises DataProblem where it is not whole."""
    problem = DataProblem("these cached answers are damaged", where=str(folder), remedy="delete this folder")
    try:
        branch = np.memmap(folder / "text.bin", np.int16, "r")
        score, who, bound = (np.load(folder / f"{name}.npy") for name in ("score", "who", "answers"))
    except (OSError, ValueError, EOFError) as error:
        raise problem from error
    if len(branch) != tokens or len(bound) != examples + 1 or not len(score) == len(who) == bound[-1]:
        raise problem
    return Judged(branch, score, who, bound)


def columns(judged: Judged, example: int, where: slice, share: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One example as it stands in a row: its tokens' places in the corpus [T], and columns.

    ``doc``, ``position``, ``answer`` (all from 0 on) and, where answers ``share`` one copy of the prompt, ``order``,
    each [T]; ``of`` (all 0), ``score`` and ``who``, each [answers]. Where they do not share, every answer is a document
    of its own.
    """
    branch = np.asarray(judged.branch[where], np.int64)
    place = np.arange(where.start, where.stop)
    shared, size = int((branch == 0).sum()), np.bincount(branch)[1:]
    inside = np.arange(len(branch) - shared) - np.repeat(np.cumsum(size) - size, size)  # offset in its answer
    said = {"score": judged.score[judged.of(example)], "who": judged.who[judged.of(example)]}
    if judged.trust is not None:
        said["trust"] = judged.trust[judged.of(example)]
    said["of"] = np.zeros(len(said["score"]), np.int64)
    if share:
        position = np.concatenate([np.arange(shared), shared + inside])
        order = np.where(branch == 0, 0, 2 * branch - 1)  # an answer sees itself and what is shared; see Sight
        doc = np.zeros(len(branch), np.int32)
        return place, said | {"doc": doc, "position": position, "answer": branch - 1, "order": order}
    first = shared + np.cumsum(size) - size
    index = np.concatenate([np.r_[0:shared, a : a + n] for a, n in zip(first, size, strict=True)])
    doc = np.repeat(np.arange(len(size), dtype=np.int32), shared + size)
    position = np.concatenate([np.arange(shared + n) for n in size])
    return place[index], said | {"doc": doc, "position": position, "answer": branch[index] - 1}
