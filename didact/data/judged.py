"""Feedback as data: ``feedback``, ``feedback:edits``, ``feedback:thumbs@runs/other.sqlite`` in a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.data.words import listed, nearest
from didact.errors import DataProblem, UsageProblem

if TYPE_CHECKING:
    from didact.feedback.jsonl import Form

# What may be asked of the store, and the format of didact.feedback.jsonl that it is.
WANTED: dict[str, Form] = {
    "good": "good",
    "edits": "sft",
    "thumbs": "kto",
    "ratings": "ratings",
    "rankings": "rankings",
    "preferences": "preferences",
}
NAMED = re.compile(r"feedback(:(?P<wanted>[^@]*))?(@(?P<place>.*))?", re.DOTALL)


def is_feedback(path: str) -> bool:
    """Whether a source's path names the feedback store; a folder of that name is ``./feedback``.

    Raises UsageProblem for what the store does not give, and where a file or folder may be meant as well.
    """
    match = NAMED.fullmatch(path)
    if match is None:
        return False
    if path == "feedback" and Path(path).exists():
        remedy = "write ./feedback for the one, feedback:good for the other"
        raise UsageProblem("is both a file or folder here and the feedback store", where=path, remedy=remedy)
    wanted = match["wanted"]
    if wanted is not None and wanted not in WANTED:
        meant = nearest(wanted, WANTED)
        remedy = f"did you mean feedback:{meant}?" if meant else f"there are {listed(WANTED)}"
        raise UsageProblem(f"there is no feedback of the kind {wanted[:40]!r}", where=path, remedy=remedy)
    return True


def records(path: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    """What the store holds of it now, ``(where, record)``, in the order it came.

    Raises UsageProblem where there is no store, DataProblem where it holds nothing of the kind.
    """
    from didact.feedback.jsonl import named  # of the same layer, and its packages are an extra
    from didact.feedback.place import there
    from didact.feedback.store import Store

    match = NAMED.fullmatch(path)
    assert match
    wanted = match["wanted"] or "good"
    with Store.open(there(match["place"])) as store:
        found = tuple((f"feedback:{id}", line) for id, line in named(store, WANTED[wanted]))
    if not found:
        what = f"the feedback store holds no {'edits and no thumbs up' if wanted == 'good' else wanted} yet"
        raise DataProblem(what, where=path, remedy="see what it holds with `didact feedback report`")
    return found
