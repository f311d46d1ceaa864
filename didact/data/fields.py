"""The pieces that formats are made of: each checks one field, and names it where it is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from didact.data.example import ROLES, Answers, Conversation, Example, Message, Said
from didact.data.words import brief, kind, listed, nearest
from didact.errors import DataProblem

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", **{role: role for role in ROLES}}
MESSAGE_EXTRAS = ("tool_calls", "tool_call_id", "weight", "name", "reasoning_content")
LARGEST = 1e30  # of a score, which is kept as float32
OTHER_WEIGHTS = {"loss_weight", "train", "training", "train_detail", "masked"}  # what others call weight


def conversation(where: str, turns: list[Message], tools: Any, before: Sequence[Message] = ()) -> Conversation:
    """A chat that has something to learn."""
    if not any(turn["role"] == "assistant" and turn.get("weight", 1) for turn in turns):
        raise problem(where, "the conversation has no assistant turn to learn", "end it with the assistant's answer")
    return Conversation(where, tuple(turns), _tools(where, tools), tuple(before))


def judged(
    where: str, prompt: Any, answers: Mapping[str, Any], values: tuple[float, ...], by: Any = None, shown: Any = None
) -> Example:
    """Answers to a prompt and what they are worth, each text or messages, to the annotator ``by``.

    ``shown`` are the numbers of the answers in the order in which ``by`` saw them.
    """
    if not answers:
        raise problem(where, "there are no completions", "leave the record out")
    asked = _said(where, "prompt", prompt)
    read = tuple(_answer(where, name, answer, asked) for name, answer in answers.items())
    if large := next((value for value in values if abs(value) > LARGEST), None):
        raise problem(where, f"a score of {large:g} is more than a number is kept for", f"stay below {LARGEST:g}")
    who = str(by) if isinstance(by, int) and not isinstance(by, bool) else by
    places = _places(where, shown, len(read))
    return Answers(where, asked, read, values, "" if who is None else filled(where, "annotator", who), places)


def _places(where: str, shown: Any, count: int) -> tuple[int, ...]:
    """The place of each answer."""
    if shown is None:
        return ()
    order = [number for number in items(where, "shown", shown) if type(number) is int]
    if sorted(order) != list(range(count)) or len(order) != len(shown):
        raise problem(where, f"shown does not name each of the {count} answers once", "give their numbers, from 0 on")
    return tuple(order.index(number) for number in range(count))


def _said(where: str, name: str, value: Any) -> Said:
    if not isinstance(value, list):
        return filled(where, name, value)
    if not value:
        raise problem(where, f"{name} is empty", "fill it or leave the record out")
    return tuple(message(where, f"{name}[{i}]", turn) for i, turn in enumerate(value))


def _answer(where: str, name: str, value: Any, prompt: Said) -> Said:
    """What follows the prompt, also where the whole conversation is given; messages begin with the assistant's."""
    said = _said(where, name, value)
    if isinstance(said, str):
        return said
    asked = [("user", prompt)] if isinstance(prompt, str) else [(turn["role"], turn["content"]) for turn in prompt]
    if [(turn["role"], turn["content"]) for turn in said[: len(asked)]] == asked:
        said = said[len(asked) :]
    if not any(turn["role"] == "assistant" and turn.get("weight", 1) for turn in said):
        raise problem(where, f"{name} has no assistant turn to learn", "end it with the assistant's answer")
    if said[0]["role"] != "assistant":
        what = f"{name} begins with a turn of {said[0]['role']} that is not the prompt's"
        raise problem(where, what, "give what follows the prompt, or prompt and answer as the same turns")
    return said


def message(where: str, name: str, turn: Any) -> Message:
    """One turn of a chat."""
    turn = {key: value for key, value in fields(where, name, turn).items() if value is not None}
    refuse_misspelled(where, f"{name}.", turn, MESSAGE_EXTRAS)
    if "role" not in turn or not {"content", "tool_calls"} & turn.keys():
        missing = "content" if "role" in turn else "role"
        raise problem(where, f"{name} has no {missing} (it has {listed(turn) or 'nothing'})", "wanted role and content")
    role, calls = _role(where, f"{name}.role", turn["role"], ROLES), turn.get("tool_calls")
    content = _content(where, f"{name}.content", turn.get("content", ""))
    if other := sorted(OTHER_WEIGHTS & turn.keys()):
        raise problem(where, f"unknown field {name}.{other[0]}", "write weight: 0 (read) or 1 (learn)")
    checked = {**turn, "role": role, "content": content}
    if calls is not None:
        checked["tool_calls"] = _calls(where, f"{name}.tool_calls", calls)
    if role == "assistant" and not content.strip() and not calls:
        raise problem(where, f"{name} is an empty assistant turn", "fill it or leave it out")
    if role != "assistant" and calls:
        raise problem(where, f"{name} is of role {role} and has tool_calls", "only the assistant calls tools")
    if turn.get("weight", 1) not in (0, 1):
        raise problem(where, f"{name}.weight is {brief(turn['weight'], 20)}", "wanted 0 (read) or 1 (learn)")
    return checked


def sharegpt_turn(where: str, name: str, turn: Any) -> Message:
    """One turn of ``from`` and ``value``."""
    turn = dict(fields(where, name, turn))
    if not {"from", "value"} <= turn.keys():
        raise problem(where, f"{name} has {listed(turn) or 'no fields'}", "wanted from and value")
    if turn["from"] == "function_call":
        calls = parsed(where, f"{name}.value", turn["value"])
        calls = calls if isinstance(calls, list) else [calls]
        return message(where, name, {"role": "assistant", "content": "", "tool_calls": calls})
    role = SHAREGPT_ROLES[_role(where, f"{name}.from", turn.pop("from"), (*SHAREGPT_ROLES, "function_call"))]
    content = string(where, f"{name}.value", turn.pop("value"))
    return message(where, name, {**turn, "role": role, "content": content})


def _role(where: str, name: str, role: Any, known: Iterable[str]) -> str:
    if string(where, name, role) in known:
        return role
    meant = nearest(role, known)
    remedy = f"did you mean {meant!r}?" if meant else f"known are {', '.join(known)}"
    raise problem(where, f"{name} {brief(role, 40)!r} is unknown", remedy)


def _content(where: str, name: str, content: Any) -> str:
    """Text, or a list of text parts joined."""
    if not isinstance(content, list):
        return string(where, name, content)
    parts = []
    for i, part in enumerate(content):
        if isinstance(part, dict) and part.get("type", "text") != "text":
            raise problem(
                where, f"{name}[{i}] is of type {brief(part['type'], 40)!r}", "only text parts are understood"
            )
        said = part if isinstance(part, str) else fields(where, f"{name}[{i}]", part).get("text")
        if said is None:
            raise problem(where, f"{name}[{i}] has no text (it has {listed(part) or 'nothing'})")
        parts.append(string(where, f"{name}[{i}].text", said))
    return "".join(parts)


def _calls(where: str, name: str, calls: Any) -> list[dict[str, Any]]:
    """Calls as transformers' chat templates want them: arguments an object, also where they came as JSON text."""
    checked = []
    for i, call in enumerate(items(where, name, calls)):
        call = fields(where, f"{name}[{i}]", call)
        call = call if "function" in call else {"function": call}
        inner = fields(where, f"{name}[{i}].function", call["function"])
        called = filled(where, f"{name}[{i}].function.name", inner.get("name"))
        arguments = parsed(where, f"{name}[{i}].function.arguments", inner.get("arguments", {}))
        arguments = fields(where, f"{name}[{i}].function.arguments", arguments)
        checked.append({"type": "function", **call, "function": {"name": called, "arguments": arguments}})
    return checked


def options_of(where: str, completion: str, options: Any) -> tuple[str, ...]:
    """Different texts of which the completion is one, or none at all."""
    options = items(where, "options", options or [])
    texts = tuple(filled(where, f"options[{i}]", option) for i, option in enumerate(options))
    if texts and (completion not in texts or len(set(texts)) < len(texts)):
        raise problem(where, "the options must be different texts, the completion among them")
    return texts


def _tools(where: str, tools: Any) -> tuple[dict[str, Any], ...] | None:
    tools = items(where, "tools", parsed(where, "tools", tools or []))
    return tuple(fields(where, f"tools[{i}]", tool) for i, tool in enumerate(tools)) or None


def system_turn(where: str, system: Any) -> list[Message]:
    """A system message as turns: none where it is empty."""
    said = string(where, "system", "" if system is None else system)
    return [{"role": "system", "content": said}] if said else []


def turns_of(question: str, answer: str) -> list[Message]:
    """A question and its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def parsed(where: str, name: str, value: Any) -> Any:
    """The value, parsed where it is JSON text: table formats have no other way to hold it."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise problem(where, f"{name} is not valid JSON: {brief(error.msg)}") from None


def string(where: str, name: str, value: Any) -> str:
    """Text, which may be empty."""
    if not isinstance(value, str):
        raise problem(where, f"{name} is {kind(value)}, wanted text")
    return value


def filled(where: str, name: str, value: Any) -> str:
    """Text that says something."""
    if not string(where, name, value).strip():
        raise problem(where, f"{name} is empty", "fill it or leave the record out")
    return value


def number(where: str, name: str, value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise problem(where, f"{name} is {kind(value)}, wanted a number")
    return float(value)


def items(where: str, name: str, value: Any) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise problem(where, f"{name} is {kind(value)}, wanted a list")
    return value


def fields(where: str, name: str, value: Any) -> dict[str, Any]:
    """An object of JSON."""
    if not isinstance(value, dict):
        raise problem(where, f"{name} is {kind(value)}, wanted an object")
    return value


def problem(where: str, what: str, remedy: str = "") -> DataProblem:
    """What is wrong with a record, to be raised."""
    return DataProblem(what, where=where, remedy=remedy)


def refuse_misspelled(where: str, name: str, record: Mapping[str, Any], known: Iterable[str]) -> None:
    """An optional field under a slightly wrong name would be lost without a word."""
    absent = set(known) - record.keys()
    for found in record.keys() - set(known) if absent else ():
        if meant := nearest(found, absent, cutoff=0.88):
            raise problem(where, f"unknown field {name}{brief(found, 40)}", f"did you mean {meant!r}?")
