"""The domain ``arithmetic``: sums whose answers can be checked, written in one of three ways."""

from pathlib import Path
from typing import Any

from didact.data.domain.writing import Line, drawn_index, held_out, publish

LARGEST = 29  # of the two numbers
WAYS = ("<answer>{}</answer>", "{}", "It is {}.")


def arithmetic(folder: Path, holdout: float, seed: int) -> dict[str, Any]:
    """Writes ``questions.jsonl`` and, of other sums, ``questions.heldout.jsonl``; returns the provenance.

    A record asks for a sum of two numbers in ``messages``, answers in one of ``WAYS``, and has the sum as ``answer``.
    """
    sums = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
    sums.sort(key=lambda pair: drawn_index(1 << 60, seed, *pair))  # so that the first few are a fair share
    apart: dict[bool, list[Line]] = {False: [], True: []}
    for a, b in sums:
        apart[held_out(f"{a} + {b}", seed, holdout)].append(_question(a, b, seed))
    files = {"questions.jsonl": apart[False], "questions.heldout.jsonl": apart[True]}
    return publish(folder, files, {"domain": "arithmetic", "source": "made up", "licence": "CC0-1.0"})


def _question(a: int, b: int, seed: int) -> Line:
    way = WAYS[drawn_index(len(WAYS), seed, "way", a, b)]
    turns = (("user", f"{a} + {b} = ?"), ("assistant", way.format(a + b)))
    return {"messages": [{"role": role, "content": text} for role, text in turns], "answer": str(a + b)}
