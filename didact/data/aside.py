"""Judgements kept aside: of prompts, and of people, that a reward model never learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from didact.data.answers import Judged
from didact.data.corpus import Corpus
from didact.data.sets import taken


@dataclass(frozen=True)
class Aside:
    """What to learn from, and what to measure on: others' ``prompts``, and other ``people``'s judgements."""

    learned: list[Corpus]
    prompts: list[Corpus]
    people: list[Corpus]


def set_aside(corpora: Sequence[Corpus], heldout: Sequence[Corpus], prompts: float, people: float, seed: int) -> Aside:
    """Shares of the prompts and of the people, chosen by the seed and who they are, however much else there is.

    Where ``heldout`` is given it takes the place of the share of prompts. What a person said who is not learned from
    counts as ``people``'s, also about a prompt on which others are learned from.
    """
    apart = [np.array([_rank(person, seed) < people for person in _people(c)], bool) for c in corpora]
    away = [
        np.zeros(len(c), bool) if heldout else np.array([_rank(one, seed) < prompts for one in prompt_ids(c)], bool)
        for c in corpora
    ]
    learned = [_some(c, ~person & ~prompt) for c, person, prompt in zip(corpora, apart, away, strict=True)]
    known = {person for corpus in learned for person in _people(corpus)}
    asked = heldout or [_some(c, ~person & prompt) for c, person, prompt in zip(corpora, apart, away, strict=True)]
    others = [np.array([bool(person) and person not in known for person in _people(c)], bool) for c in asked]
    strangers = [_some(c, other) for c, other in zip(asked, others, strict=True)]
    strangers += [_some(c, person) for c, person in zip(corpora, apart, strict=True)]
    kept = [_some(c, ~other) for c, other in zip(asked, others, strict=True)]
    return Aside(*([corpus for corpus in some if len(corpus)] for some in (learned, kept, strangers)))


def judged(corpus: Corpus) -> Judged:
    """What people said, of a corpus that holds it."""
    assert corpus.judged is not None
    return corpus.judged


def prompt_ids(corpus: Corpus) -> list[int]:
    """A number for each example's prompt, the same for the same tokens."""
    branch, bound = np.asarray(judged(corpus).branch), corpus.bound
    spans = [slice(bound[i], bound[i + 1]) for i in range(len(corpus))]
    shared = [np.asarray(corpus.token[span], np.int32)[branch[span] == 0].tobytes() for span in spans]
    return [int.from_bytes(hashlib.blake2b(tokens, digest_size=7).digest()) for tokens in shared]


def _people(corpus: Corpus) -> list[int]:
    """Who judged each example; 0 for nobody known."""
    said = judged(corpus)
    return np.asarray(said.who)[said.bound[:-1]].tolist() if len(corpus) else []


def _some(corpus: Corpus, which: np.ndarray) -> Corpus:
    return taken(corpus, np.flatnonzero(which))


def _rank(one: int, seed: int) -> float:
    """A number between 0 and 1 that is the same wherever the person or prompt stands; 1 for nobody known."""
    if not one:
        return 1.0
    return int.from_bytes(hashlib.blake2b(f"{seed}:{one}".encode(), digest_size=7).digest()) / 2**56
