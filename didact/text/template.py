"""Chat templates: rendering one with its complaints in one line, and seeing where it puts a message."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from didact.errors import DataProblem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Message = Mapping[str, Any]

# ChatML with tools as Hermes and Qwen write them; BEGIN and END are replaced below.
_CHATML = """\
{{- BEGIN }}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- 'You may call these functions. Write a call as <tool_call>{"name": ..., "arguments": {...}}</tool_call>.\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\\n' }}
    {%- endfor %}
    {{- END + '\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.content %}
            {{- message.content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if message.content or not loop.first %}
                {{- '\\n' }}
            {%- endif %}
            {{- '<tool_call>' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
            {{- '</tool_call>' }}
        {%- endfor %}
        {{- END + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
CHATML = _CHATML.replace("BEGIN", "''").replace("END", "'<|im_end|>'")


def chatml(tokenizer: PreTrainedTokenizerFast, bos: bool) -> str:
    """The template of a tokenizer that came without: ChatML, closed by a token this model knows.

    Turns end with ``<|im_end|>`` where the vocabulary has it and with the end-of-sequence token otherwise (an encoder's
    separator), so that stopping is always one token; the turn's header may then be plain text.
    """
    closing = "eos_token" if tokenizer.eos_token else "sep_token"
    end = "'<|im_end|>'" if "<|im_end|>" in tokenizer.get_added_vocab() else closing
    return _CHATML.replace("BEGIN", "bos_token" if bos else "''").replace("END", end)


@dataclass(frozen=True)
class Template:
    """A chat template (or several by name, of which a tokenizer picks one) and the values of its variables."""

    tokenizer: PreTrainedTokenizerFast
    source: str | dict[str, str]
    values: Mapping[str, Any]

    def __call__(self, messages: Sequence[Message], tools: Sequence[Any] | None, prompt: bool = False) -> str:
        """The rendered text; with ``prompt`` it ends where the assistant starts to speak.

        Raises DataProblem with the template's own complaint.
        """
        from jinja2 import TemplateError

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=list(tools) if tools else None,
                    chat_template=self.source if isinstance(self.source, str) else None,
                    add_generation_prompt=prompt,
                    tokenize=False,
                    **self.values,
                )
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:  # what jinja and a template raise
            complaint = " ".join(str(error).split()) or type(error).__name__
            raise DataProblem(
                f"the chat template refuses these messages: {complaint}",
                remedy="change the messages, or the model's chat template",
            ) from error

    def tried(self, messages: Sequence[Message], tools: Sequence[Any] | None, prompt: bool = False) -> str | None:
        """The rendered text, or None where the template refuses: for questions to which no is an answer."""
        try:
            return self(messages, tools, prompt)
        except DataProblem:
            return None


@dataclass(frozen=True)
class Seen:
    """Where the marks of a rendering were: by message, start and end positions in the unmarked text."""

    text: str
    starts: Mapping[int, tuple[int, ...]]
    ends: Mapping[int, tuple[int, ...]]

    def both(self) -> list[tuple[int, int]]:
        """(position, message) of every mark, in order of the text."""
        sides = (self.starts, self.ends)
        return sorted((at, index) for side in sides for index, found in side.items() for at in found)


class Marks:
    """Signposts of unused characters around what messages say; templates carry them along unseen.

    A signpost is a side, the message's number in sixteen digits' characters, and a stop. Equal messages get equal
    signposts, since templates compare messages (Mistral looks for the last user turn that way).
    """

    BASES = (0xFDD0, 0xE000, 0xF8E0, 0xF0000, 0xFFF00, 0x100000, 0x10FF00)

    def __init__(self, text: str):
        used = set(text)
        for base in self.BASES:
            digits = [chr(base + n) for n in range(19)]
            if used.isdisjoint(digits):
                break
        else:
            raise DataProblem("text uses every range of private characters", remedy="remove private-use characters")
        self._digits, (self._open, self._close, self._stop) = digits[:16], digits[16:]
        self._pattern = re.compile(f"([{self._open}{self._close}])([{''.join(self._digits)}]+){self._stop}")
        self._value = {digit: n for n, digit in enumerate(self._digits)}

    def place(
        self, messages: Sequence[Message], assistants_only: bool = False, ends_only: bool = False
    ) -> list[Message]:
        """The messages with their contents and tool-call arguments marked."""
        first: list[int] = []  # of each message, the first one equal to it
        for index, message in enumerate(messages):
            first.append(next(n for n in range(index + 1) if messages[n] == message))
        return [
            message
            if assistants_only and message.get("role") != "assistant"
            else self._message(message, code, ends_only)
            for message, code in zip(messages, first, strict=True)
        ]

    def _message(self, message: Message, code: int, ends_only: bool) -> Message:
        number = "".join(self._digits[int(digit, 16)] for digit in f"{code:x}")
        left = "" if ends_only else self._open + number + self._stop
        right = self._close + number + self._stop
        marked = dict(message)
        if marked.get("content"):
            marked["content"] = _around(marked["content"], left, right)
        if marked.get("tool_calls"):
            marked["tool_calls"] = [_call(call, left, right) for call in marked["tool_calls"]]
        return marked

    def read(self, rendered: str, messages: Sequence[Message]) -> Seen:
        """Takes the marks out again and says where they were."""
        plain, last, length = [], 0, 0
        found: dict[str, dict[int, list[int]]] = {self._open: defaultdict(list), self._close: defaultdict(list)}
        for match in self._pattern.finditer(rendered):
            plain.append(rendered[last : match.start()])
            length, last = length + match.start() - last, match.end()
            code = 0
            for digit in match[2]:
                code = code * 16 + self._value[digit]
            found[match[1]][code].append(length)
        plain.append(rendered[last:])
        return Seen("".join(plain), _shared(found[self._open], messages), _shared(found[self._close], messages))


def _around(value: Any, left: str, right: str) -> Any:
    """Marks every text in a value, inside its outer white space, which templates strip."""
    if isinstance(value, str):
        core = value.strip()
        return value.replace(core, left + core + right, 1) if core else value
    if isinstance(value, Mapping):
        return {key: item if key == "type" else _around(item, left, right) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_around(item, left, right) for item in value]
    return value


def _call(call: Message, left: str, right: str) -> Message:
    function = call.get("function")
    if not isinstance(function, Mapping) or "arguments" not in function:
        return call
    return {**call, "function": {**function, "arguments": _around(function["arguments"], left, right)}}


def _shared(found: Mapping[int, list[int]], messages: Sequence[Message]) -> dict[int, tuple[int, ...]]:
    """Hands the positions of equal messages' common mark out to each, in order."""
    shares: dict[int, tuple[int, ...]] = {}
    for code, places in found.items():
        equal = [n for n in range(code, len(messages)) if messages[n] == messages[code]]
        each, rest = divmod(len(places), len(equal))
        if not rest:
            shares |= {n: tuple(places[i * each : (i + 1) * each]) for i, n in enumerate(equal)}
    return shares
