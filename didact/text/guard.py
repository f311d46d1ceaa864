"""Text that others wrote stays text: a control token that a message spells must not act as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from didact.errors import DataProblem
from didact.text.template import Message

MARKS = ("\uf8e0", "\uf8e1", "\U000fff00", "\U0010ff00")  # unused characters, of which a text rarely has all


class Guard:
    """Messages and tools in which stand-ins of unused characters hide the control tokens they spell.

    ``special`` are the tokenizer's special tokens, hidden wherever they stand; ``written`` are further tokens that the
    chat template writes, such as ``<tool_call>``, hidden where anybody but the assistant says them.
    """

    def __init__(
        self, special: Iterable[str], written: Iterable[str], messages: Sequence[Message], tools: Sequence[Any] | None
    ):
        theirs = {*special}
        self.signs = sorted({*theirs, *written}, key=len, reverse=True)
        every, own = _either(self.signs), _either([sign for sign in self.signs if sign in theirs])
        text = "".join(_strings([messages, tools]))
        self.mark = next((mark for mark in MARKS if mark not in text), "")
        if not self.mark:
            raise DataProblem("text uses every private character there is", remedy="remove private-use characters")
        self.hides = bool(every.search(text))
        self.messages = [
            {**self._hidden(message, own if message.get("role") == "assistant" else every)} for message in messages
        ]
        self.tools = [self._hidden(tool, every) for tool in tools or []]

    def _hidden(self, value: Any, signs: re.Pattern[str]) -> Any:
        if isinstance(value, str):
            return signs.sub(lambda found: f"{self.mark}{self.signs.index(found[0])}{self.mark}", value)
        if isinstance(value, Mapping):
            return {self._hidden(key, signs): self._hidden(item, signs) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._hidden(item, signs) for item in value]
        return value

    def pieces(self, rendered: str) -> Iterator[tuple[str, bool]]:
        """The rendered text in order, and of each piece whether it was hidden."""
        for number, piece in enumerate(re.split(f"{self.mark}([0-9]+){self.mark}", rendered)):
            yield (self.signs[int(piece)], True) if number % 2 else (piece, False)


def _either(signs: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, signs)) or "(?!)")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
