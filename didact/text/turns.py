"""Which characters of a rendered conversation the assistant says, for any template, without its help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from didact.errors import DataProblem
from didact.text.template import Marks, Message, Seen, Template

# A conversation every chat template should take, to learn how it opens and closes what the assistant says.
PROBE = (
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
    {"role": "assistant", "content": "Four."},
)


@dataclass(frozen=True)
class Turn:
    """An assistant's turn in characters of the text.

    It starts at ``start``, all it says ends at ``said``, and its end-of-turn token lies after that and before
    ``limit``, where another message speaks.
    """

    index: int
    start: int
    said: int
    limit: int


def header(template: Template) -> str:
    """What stands between prompt and answer in a template that ignores ``add_generation_prompt``; mostly nothing."""
    closed, opened = template(PROBE[:1], None), template(PROBE[:1], None, prompt=True)
    text = template(PROBE, None)
    seen = look(template, text, PROBE, None)
    if closed != opened or not text.startswith(opened) or seen is None or 1 not in seen.starts:
        return ""
    gap = text[len(opened) : seen.starts[1][0]]
    return gap if gap.strip() else ""


def look(template: Template, text: str, messages: Sequence[Message], tools: Sequence[Any] | None) -> Seen | None:
    """Where the messages stand in their rendering; None if every way of marking them would change it."""
    marks = Marks(text)
    for assistants_only, ends_only in ((False, False), (True, False), (True, True)):
        marked = marks.place(messages, assistants_only, ends_only)
        rendered = template.tried(marked, tools)
        seen = None if rendered is None else marks.read(rendered, messages)
        if seen is not None and seen.text == text:
            return seen
    return None


@dataclass(frozen=True)
class Search:
    """The search for the turns of one conversation in its rendering, ``text``.

    A turn starts where the prompt for it ends, since that is where the model begins to speak; ``header`` follows
    the prompt in a template that writes none.
    """

    template: Template
    text: str
    messages: Sequence[Message]
    tools: Sequence[Any] | None
    header: str

    def turns(self) -> list[Turn]:
        """The assistant's turns whose ``weight`` is not 0.

        Raises DataProblem, naming the turn, where the template makes it impossible to tell.
        """
        seen = look(self.template, self.text, self.messages, self.tools)
        learned = [
            index
            for index, message in enumerate(self.messages)
            if message.get("role") == "assistant" and message.get("weight", 1)
        ]
        return [self._turn(index, seen) for index in learned]

    def _turn(self, index: int, seen: Seen | None) -> Turn:
        if seen is None:
            return self._unmarked(index)
        own = [*seen.starts.get(index, ()), *seen.ends.get(index, ())]
        if not own and says(self.messages[index]) and not self.messages[index].get("tool_calls"):
            raise self.problem(index, "its content does not appear")
        start = self._start(index, seen)
        said = max([start, *own])
        others = [place for place, of in seen.both() if of != index and place > start]
        limit = min(others, default=len(self.text))
        if limit < said:
            raise self.problem(index, f"message {self._named(limit, seen)} stands in the middle of it")
        self._check_calls(index, self.text[start:limit])
        return Turn(index, start, said, limit)

    def _check_calls(self, index: int, said: str) -> None:
        for call in self.messages[index].get("tool_calls") or ():
            name = call.get("function", call).get("name")
            if name is not None and name not in said:
                raise self.problem(index, f"it leaves out the call of {name!r}")

    def _named(self, place: int, seen: Seen) -> int:
        return next(of for at, of in seen.both() if at == place) + 1

    def _unmarked(self, index: int) -> Turn:
        """Without marks: the content must stand word for word right where the prompt ends."""
        start, core = self._prompted(index), says(self.messages[index])
        place = -1 if start is None else self.text.find(core, start)
        if start is None or place < 0 or self.messages[index].get("tool_calls"):
            raise self.problem(index, "the text is rewritten")
        return Turn(index, start, place + len(core), len(self.text))

    def _start(self, index: int, seen: Seen) -> int:
        first = min(seen.starts.get(index, ()), default=None)
        for found in self._starts(index, seen, first):
            if found is not None and (first is None or found <= first):
                return found
        raise self.problem(index, "it does not follow its own prompt")

    def _starts(self, index: int, seen: Seen, first: int | None) -> Iterator[int | None]:
        """Where it may start, best first; later ones are only looked for when needed."""
        yield self._prompted(index)
        yield self._anchored(index, seen)
        yield first
        yield self._suffix(index, seen)

    def _prompted(self, index: int) -> int | None:
        """Where the prompt for this turn ends, if the conversation begins with it."""
        prompt = self._prompt(self.messages[:index])
        return self._past(len(prompt)) if prompt is not None and self.text.startswith(prompt) else None

    def _prompt(self, messages: Sequence[Message]) -> str | None:
        return self.template.tried(messages, self.tools, prompt=True) if messages else None

    def _past(self, place: int) -> int:
        return place + len(self.header) * self.text.startswith(self.header, place)

    def _anchored(self, index: int, seen: Seen) -> int | None:
        """Where the prompt ends counted from the message before, for templates whose earlier text then differs."""
        marks = Marks(self.text)
        rendered = self._prompt(marks.place(self.messages[:index]))
        if rendered is None or index - 1 not in seen.ends:
            return None
        prompt = marks.read(rendered, self.messages[:index])
        if prompt.text != self._prompt(self.messages[:index]) or index - 1 not in prompt.ends:
            return None
        tail, here = prompt.text[prompt.ends[index - 1][-1] :], seen.ends[index - 1][-1]
        return self._past(here + len(tail)) if self.text.startswith(tail, here) else None

    def _suffix(self, index: int, seen: Seen) -> int | None:
        """Where the rest of a content begins whose head the template cut off, as earlier thoughts are."""
        ends, core = seen.ends.get(index, ()), says(self.messages[index])
        if len(ends) != 1:
            return None
        said, size = self.text[: ends[0]], 0
        while size < min(len(core), len(said)) and core[-size - 1] == said[-size - 1]:
            size += 1
        return ends[0] - len(core[len(core) - size :].lstrip()) if size else None

    def problem(self, index: int, what: str) -> DataProblem:
        """That the turn cannot be told from the text around it."""
        return DataProblem(
            f"turn {index + 1} (assistant) cannot be found in what the chat template makes of it: {what}",
            remedy="give the turn weight 0, or the model another chat template",
        )


def says(message: Message) -> str:
    """What a message says in text, without outer white space; empty for content in parts."""
    content = message.get("content")
    return content.strip() if isinstance(content, str) else ""
