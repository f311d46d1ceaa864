"""How errors about data speak: foreign values on one short line, and the nearest right spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def brief(value: object, width: int = 120) -> str:
    """Foreign text (a library's message, a key) on one line of bounded width."""
    line = " ".join(str(value)[: 8 * width].split())
    return line if len(line) <= width else line[: width - 3] + "..."


def listed(values: Iterable[object], most: int = 8) -> str:
    """The first few values, comma-separated, and how many more there are."""
    shown = [brief(value, 60) for value in values]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def kind(value: object) -> str:
    """What a JSON value is, in the user's words."""
    names: dict[type, str] = {str: "text", dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def nearest(name: str, among: Iterable[str], cutoff: float = 0.7) -> str | None:
    """The most similar of the names, case ignored, or None when nothing is close."""
    folded = {other.casefold(): other for other in among}
    match = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[match[0]] if match else None
