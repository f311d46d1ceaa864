"""Prompts to be answered, with the records they come from: rewards read the other fields."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from didact.data.example import Completion, Conversation, Message
from didact.data.fields import filled, items, message
from didact.data.formats import example
from didact.data.words import kind
from didact.errors import DataProblem
from didact.text.render import Renderer


@dataclass(frozen=True)
class Prompt:
    """``tokens`` are what an answer starts from; ``messages`` the same as turns."""

    tokens: tuple[int, ...]
    messages: tuple[Message, ...]
    record: Mapping[str, Any]
    where: str = ""


def prompt(where: str, record: Mapping[str, Any], renderer: Renderer, opening: Sequence[Message] = ()) -> Prompt:
    """The prompt of a record, behind the messages of an ``opening``.

    ``prompt`` is text to be gone on from, or messages; ``messages`` are read up to the last answer; other formats as in
    training. Raises DataProblem for a record that asks nothing.
    """
    said = _said(where, record)
    if opening:
        said = (*opening, *(({"role": "user", "content": said},) if isinstance(said, str) else said))
    if isinstance(said, str):
        return Prompt(tuple(renderer.beginning(said)), ({"role": "user", "content": said},), record, where)
    if not said:
        raise DataProblem("nothing is asked before the answer", where=where, remedy="leave the record out")
    return Prompt(tuple(renderer.prompt(said, record.get("tools"))), said, record, where)


def _said(where: str, record: Mapping[str, Any]) -> str | tuple[Message, ...]:
    name = next((name for name in ("prompt", "messages") if name in record), None)
    if name == "prompt" and isinstance(record["prompt"], str):
        return filled(where, "prompt", record["prompt"])
    if name == "prompt" and not isinstance(record["prompt"], list):
        raise DataProblem(f"prompt is {kind(record['prompt'])}, wanted text or messages", where=where)
    if name:
        turns = items(where, name, record[name])
        return question([message(where, f"{name}[{i}]", turn) for i, turn in enumerate(turns)])
    found = example(where, record)
    if isinstance(found, Completion):
        return found.prompt
    if isinstance(found, Conversation):
        return question(found.messages)
    remedy = "give a prompt (text or messages), or messages, and beside it what the rewards need"
    raise DataProblem("this record has no prompt to answer", where=where, remedy=remedy)


def question(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Messages without the answer they end with, if they do."""
    turns = tuple(messages)
    return turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns


def readable(prompts: Iterable[Prompt], positions: int) -> list[Prompt]:
    """The prompts. Raises DataProblem, naming the record, for one that leaves a model no room for an answer."""
    every = list(prompts)
    for one in every:
        if len(one.tokens) >= positions:
            what = f"the prompt has {len(one.tokens):,} tokens, and the model reads {positions:,} with its answer"
            raise DataProblem(what, where=one.where, remedy="shorten it, or leave the record out")
    return every


def fitting(prompts: Iterable[Prompt], room: int) -> tuple[list[Prompt], int]:
    """The prompts of at most ``room`` tokens, and how many are longer.

    Raises DataProblem where none is left.
    """
    every = list(prompts)
    kept = [one for one in every if len(one.tokens) <= room]
    if not kept:
        what = f"none of {len(every):,} prompts leaves room for an answer: {room} tokens at most"
        raise DataProblem(what, remedy="raise context, or lower rollout.max_new_tokens")
    return kept, len(every) - len(kept)
