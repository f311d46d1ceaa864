"""Records to examples: what each known shape of training data means, checked to the last field.

A format is one function: its parameters are the fields it knows (those without a default are needed
and recognise it), its name and the first line of its docstring are what a user reads about it. To add
one, write it and list it in FORMATS.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson

from didact.data.words import brief, kind, listed, nearest
from didact.errors import DataProblem

ROLES = ("system", "developer", "user", "assistant", "tool")
RELATIONS = ("contiguous", "random", "linked")  # of two texts; their numbers are what a model tells apart
Message = dict[str, Any]
Said = str | tuple[Message, ...]


@dataclass(frozen=True)
class Document:
    """Plain text, and the class it is of where it is classified."""

    where: str
    text: str
    label: str = ""


@dataclass(frozen=True)
class Conversation:
    """Turns of a chat.

    ``messages`` are ``{"role": one of ROLES, "content": text}`` with at least one assistant turn; an
    assistant's may have ``tool_calls``, each ``{"type": "function", "function": {"name", "arguments":
    object}}`` and ``weight`` 0, a turn to read and not to learn. Other fields are kept as they came.
    ``tools`` are the JSON schemas of the functions that may be called. ``before`` are messages that only a teacher
    reads, in front of the others: the prompt that a student is to do without.
    """

    where: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    before: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Completion:
    """Text to read and the text that follows it, neither in a chat; ``options`` are what might have followed."""

    where: str
    prompt: str
    completion: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Texts:
    """Several texts that are learned together, each read by itself: a question and its passage, linked documents.

    ``roles`` says of each what it is: a ``query`` or a ``document`` to be embedded, or ``text`` to be learned as any
    document. ``value`` is the one number they share, such as a score; NaN where there is none.
    """

    where: str
    texts: tuple[str, ...]
    roles: tuple[str, ...]
    value: float = math.nan


@dataclass(frozen=True)
class Answers:
    """Answers to one prompt and what people thought of each: a higher value is a better answer.

    ``prompt`` and each of ``answers`` are text, or messages as of a Conversation.
    """

    where: str
    prompt: Said
    answers: tuple[Said, ...]
    values: tuple[float, ...]


Example = Document | Conversation | Completion | Texts | Answers
Format = Callable[..., Example]  # (where, its fields by name) -> Example

# --- the formats -------------------------------------------------------------------------------------------


def text(where: str, text: Any, label: Any = None) -> Example:
    """Documents; the ``label`` of a classified one is kept and not learned."""
    return Document(where, _filled(where, "text", text), "" if label is None else str(label).strip())


def messages(where: str, messages: Any, tools: Any = None, before: Any = None) -> Example:
    """Chats of ``role`` and ``content``; ``before`` are messages that only a teacher reads in front of them."""
    turns = [_message(where, f"messages[{i}]", turn) for i, turn in enumerate(_list(where, "messages", messages))]
    read = [_message(where, f"before[{i}]", turn) for i, turn in enumerate(_list(where, "before", before or []))]
    return _conversation(where, turns, tools, read)


def sharegpt(where: str, conversations: Any, system: Any = None, tools: Any = None) -> Example:
    """Chats of ``from`` and ``value``."""
    turns = _list(where, "conversations", conversations)
    chat = [_sharegpt_turn(where, f"conversations[{i}]", turn) for i, turn in enumerate(turns)]
    return _conversation(where, _system(where, system) + chat, tools)


def alpaca(
    where: str,
    instruction: Any,
    output: Any,
    input: Any = None,
    system: Any = None,
    history: Any = None,
    text: Any = None,
) -> Example:
    """An instruction, what it applies to, its answer; ``text``, a rendered copy that some sets carry, is not read."""
    turns = _system(where, system)
    for i, pair in enumerate(_list(where, "history", history or [])):
        if len(_list(where, f"history[{i}]", pair)) != 2:
            raise _problem(where, f"history[{i}] has {len(pair)} items", "wanted a question and its answer")
        turns += _turns(*(_filled(where, f"history[{i}][{j}]", said) for j, said in enumerate(pair)))
    question = _filled(where, "instruction", instruction)
    if _string(where, "input", "" if input is None else input):
        question += f"\n{input}"
    return _conversation(where, turns + _turns(question, _filled(where, "output", output)), None)


def completion(where: str, prompt: Any, completion: Any, tools: Any = None, options: Any = None) -> Example:
    """A prompt and what follows it: both text, or both lists of messages, where only the completion's are learned.

    ``options`` are the texts of which the completion is the right one, for measuring.
    """
    if not (isinstance(prompt, list) and isinstance(completion, list)):
        if tools:
            raise _problem(where, "tools beside a prompt of text", "write prompt and completion as lists of messages")
        prompt, completion = _filled(where, "prompt", prompt), _filled(where, "completion", completion)
        return Completion(where, prompt, completion, _options(where, completion, options))
    if options:
        raise _problem(where, "options beside a prompt of messages", "write prompt and completion as text")
    read = [_message(where, f"prompt[{i}]", turn) for i, turn in enumerate(prompt)]
    read = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in read]
    learned = [_message(where, f"completion[{i}]", turn) for i, turn in enumerate(completion)]
    return _conversation(where, read + learned, tools)


def pair(where: str, anchor: Any, positive: Any, negative: Any = None, negatives: Any = None) -> Example:
    """A query, a text that answers it, and any number of texts that seem to and do not."""
    wrong = [] if negative is None else [negative]
    wrong += _list(where, "negatives", [] if negatives is None else negatives)
    texts = [_filled(where, "anchor", anchor), _filled(where, "positive", positive)]
    texts += [_filled(where, f"negatives[{i}]", text) for i, text in enumerate(wrong)]
    return Texts(where, tuple(texts), ("query", *["document"] * (len(texts) - 1)))


def scored(where: str, sentence1: Any, sentence2: Any, score: Any) -> Example:
    """Two texts and how alike they are."""
    texts = (_filled(where, "sentence1", sentence1), _filled(where, "sentence2", sentence2))
    return Texts(where, texts, ("document", "document"), _number(where, "score", score))


def related(where: str, first: Any, second: Any, relation: Any) -> Example:
    """Two texts to be read one after the other, and how the second is related to the first."""
    texts = (_filled(where, "first", first), _filled(where, "second", second))
    if relation not in RELATIONS:
        raise _problem(where, f"relation {brief(relation, 40)!r} is unknown", f"known are {', '.join(RELATIONS)}")
    return Texts(where, texts, ("text", "text"), float(RELATIONS.index(relation)))


def preference(where: str, prompt: Any, chosen: Any, rejected: Any) -> Example:
    """A prompt, an answer to it, and a worse one."""
    return _answers(where, prompt, {"chosen": chosen, "rejected": rejected}, (1.0, 0.0))


def ranked(where: str, prompt: Any, completions: Any, ranking: Any) -> Example:
    """Answers to a prompt, and their numbers in groups, the best group first."""
    answers = _list(where, "completions", completions)
    groups = [_list(where, f"ranking[{i}]", group) for i, group in enumerate(_list(where, "ranking", ranking))]
    place = {number: i for i, group in enumerate(groups) for number in group if isinstance(number, int)}
    if sum(map(len, groups)) != len(answers) or place.keys() != set(range(len(answers))):
        raise _problem(where, f"the ranking does not name each of the {len(answers)} completions once")
    named = {f"completions[{i}]": answer for i, answer in enumerate(answers)}
    return _answers(where, prompt, named, tuple(-float(place[i]) for i in range(len(answers))))


def labelled(where: str, prompt: Any, completion: Any, label: Any) -> Example:
    """An answer to a prompt, and whether it was good."""
    if not isinstance(label, bool):
        raise _problem(where, f"label is {kind(label)}, wanted true or false")
    return _answers(where, prompt, {"completion": completion}, (float(label),))


def rated(where: str, prompt: Any, completion: Any, rating: Any) -> Example:
    """An answer to a prompt, and how good it was."""
    return _answers(where, prompt, {"completion": completion}, (_number(where, "rating", rating),))


FORMATS: tuple[Format, ...] = (
    *(text, messages, sharegpt, alpaca, completion),
    *(pair, scored, related),
    *(preference, ranked, labelled, rated),
)

# Fields that turn an example into something else: never passed over unless a format takes them.
UNREAD = ("chosen", "rejected", "label", "kto_tag", "image", "images", "audio", "audios", "video", "videos")

# --- which format a record is of ---------------------------------------------------------------------------


def parse(records: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Example]:
    """The examples of one file, all of one format; raises DataProblem at the first record that is not."""
    so_far: Format | None = None
    shape: type[Example] | None = None
    for where, record in records:
        if so_far and _fitting(record) != [so_far]:
            other = " and ".join(map(_name, _fitting(record))) or f"of no known format (fields {listed(record)})"
            raise _problem(where, f"the record is {other}, but the file was {_name(so_far)} so far", "split the file")
        so_far = so_far or detect(record, where)
        found = _build(so_far, where, record)
        shape = shape or type(found)
        if type(found) is not shape:
            what = f"the {_name(so_far)} is a {type(found).__name__}, but the file was {shape.__name__}s so far"
            raise _problem(where, what, "split the file")
        yield found


def example(where: str, record: Mapping[str, Any]) -> Example:
    """The record as an Example; raises DataProblem naming the field that is wrong."""
    return _build(detect(record, where), where, record)


def detect(record: Mapping[str, Any], where: str = "") -> Format:
    """The one format whose needed fields the record has; raises DataProblem when none or several fit."""
    fitting = _fitting(record)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        what = f"the record is {' and '.join(map(_name, fitting))} at once"
        raise _problem(where, what, "keep the fields of one of them")
    _refuse_unread(where, record, ())
    understood = "; ".join(" + ".join(_fields(format)[0]) for format in FORMATS)
    what = f"fields {listed(record) or '(none)'} are of no known format"
    raise _problem(where, what, f"{_advice(record)}understood are {understood}")


def _fitting(record: Mapping[str, Any]) -> list[Format]:
    """Formats whose needed fields are all there, less those that need but some of another's, or are its extras."""
    fits = [format for format in FORMATS if record.keys() >= set(_fields(format)[0])]
    fits = [one for one in fits if not any(set(_fields(one)[0]) < set(_fields(other)[0]) for other in fits)]
    if len(fits) == 1:
        return fits
    extras = {field for format in fits for field in _fields(format)[1]}
    return [format for format in fits if not extras.issuperset(_fields(format)[0])]


@cache
def _fields(format: Format) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields a format needs and those it may have: its parameters without and with a default."""
    parameters = list(inspect.signature(format).parameters.values())[1:]
    needed = tuple(p.name for p in parameters if p.default is p.empty)
    return needed, tuple(p.name for p in parameters if p.default is not p.empty)


def _build(format: Format, where: str, record: Mapping[str, Any]) -> Example:
    needed, extra = _fields(format)
    _refuse_unread(where, record, needed + extra)
    _refuse_misspelled(where, "", record, extra)
    return format(where, **{name: record[name] for name in needed + extra if name in record})


def _name(format: Format) -> str:
    return f"{format.__name__} ({' + '.join(_fields(format)[0])})"


def _advice(record: Mapping[str, Any]) -> str:
    """The likeliest slip: a needed field under a similar name, or one field of several missing."""
    needed = [_fields(format)[0] for format in FORMATS]
    for found in record:
        meant = nearest(found, {field for fields in needed for field in fields} - record.keys())
        if meant and found not in {field for fields in needed for field in fields}:
            return f"did you mean {meant!r} for {brief(found, 40)!r}? "
    partly = [(field, other) for fields in needed for field in fields for other in fields if field in record]
    return next((f"{field!r} needs {other!r} beside it; " for field, other in partly if other not in record), "")


def _refuse_unread(where: str, record: Mapping[str, Any], known: Iterable[str]) -> None:
    """A rejected answer or a turn about a picture is not an example to imitate, whatever else fits."""
    if found := [name for name in UNREAD if name not in known and record.get(name) not in (None, [], "")]:
        remedy = "ratings, preferences and media are not read here; leave out such records, or these fields of them"
        raise _problem(where, f"the record also has {listed(found)}, which change what it means", remedy)


def _refuse_misspelled(where: str, name: str, record: Mapping[str, Any], known: Iterable[str]) -> None:
    """An optional field under a slightly wrong name would be lost without a word."""
    absent = set(known) - record.keys()
    for found in record.keys() - set(known) if absent else ():
        if meant := nearest(found, absent, cutoff=0.88):
            raise _problem(where, f"unknown field {name}{brief(found, 40)}", f"did you mean {meant!r}?")


# --- the pieces formats are made of ------------------------------------------------------------------------

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", **{role: role for role in ROLES}}
MESSAGE_EXTRAS = ("tool_calls", "tool_call_id", "weight", "name", "reasoning_content")
OTHER_WEIGHTS = {"loss_weight", "train", "training", "train_detail", "masked"}  # what others call weight


def _conversation(where: str, turns: list[Message], tools: Any, before: Sequence[Message] = ()) -> Conversation:
    if not any(turn["role"] == "assistant" and turn.get("weight", 1) for turn in turns):
        raise _problem(where, "the conversation has no assistant turn to learn", "end it with the assistant's answer")
    return Conversation(where, tuple(turns), _tools(where, tools), tuple(before))


def _answers(where: str, prompt: Any, answers: Mapping[str, Any], values: tuple[float, ...]) -> Example:
    read = tuple(_said(where, name, answer) for name, answer in answers.items())
    return Answers(where, _said(where, "prompt", prompt), read, values)


def _said(where: str, name: str, value: Any) -> Said:
    if not isinstance(value, list):
        return _filled(where, name, value)
    return tuple(_message(where, f"{name}[{i}]", turn) for i, turn in enumerate(value))


def _message(where: str, name: str, turn: Any) -> Message:
    turn = {key: value for key, value in _object(where, name, turn).items() if value is not None}
    _refuse_misspelled(where, f"{name}.", turn, MESSAGE_EXTRAS)
    if "role" not in turn or not {"content", "tool_calls"} & turn.keys():
        missing = "content" if "role" in turn else "role"
        raise _problem(
            where, f"{name} has no {missing} (it has {listed(turn) or 'nothing'})", "wanted role and content"
        )
    role, calls = _role(where, f"{name}.role", turn["role"], ROLES), turn.get("tool_calls")
    content = _content(where, f"{name}.content", turn.get("content", ""))
    if other := sorted(OTHER_WEIGHTS & turn.keys()):
        raise _problem(where, f"unknown field {name}.{other[0]}", "write weight: 0 (read) or 1 (learn)")
    checked = {**turn, "role": role, "content": content}
    if calls is not None:
        checked["tool_calls"] = _calls(where, f"{name}.tool_calls", calls)
    if role == "assistant" and not content.strip() and not calls:
        raise _problem(where, f"{name} is an empty assistant turn", "fill it or leave it out")
    if role != "assistant" and calls:
        raise _problem(where, f"{name} is of role {role} and has tool_calls", "only the assistant calls tools")
    if turn.get("weight", 1) not in (0, 1):
        raise _problem(where, f"{name}.weight is {brief(turn['weight'], 20)}", "wanted 0 (read) or 1 (learn)")
    return checked


def _sharegpt_turn(where: str, name: str, turn: Any) -> Message:
    turn = dict(_object(where, name, turn))
    if not {"from", "value"} <= turn.keys():
        raise _problem(where, f"{name} has {listed(turn) or 'no fields'}", "wanted from and value")
    if turn["from"] == "function_call":
        calls = _json(where, f"{name}.value", turn["value"])
        calls = calls if isinstance(calls, list) else [calls]
        return _message(where, name, {"role": "assistant", "content": "", "tool_calls": calls})
    role = SHAREGPT_ROLES[_role(where, f"{name}.from", turn.pop("from"), (*SHAREGPT_ROLES, "function_call"))]
    content = _string(where, f"{name}.value", turn.pop("value"))
    return _message(where, name, {**turn, "role": role, "content": content})


def _role(where: str, name: str, role: Any, known: Iterable[str]) -> str:
    if _string(where, name, role) in known:
        return role
    meant = nearest(role, known)
    remedy = f"did you mean {meant!r}?" if meant else f"known are {', '.join(known)}"
    raise _problem(where, f"{name} {brief(role, 40)!r} is unknown", remedy)


def _content(where: str, name: str, content: Any) -> str:
    """Text, or a list of text parts joined."""
    if not isinstance(content, list):
        return _string(where, name, content)
    parts = []
    for i, part in enumerate(content):
        if isinstance(part, dict) and part.get("type", "text") != "text":
            raise _problem(
                where, f"{name}[{i}] is of type {brief(part['type'], 40)!r}", "only text parts are understood"
            )
        said = part if isinstance(part, str) else _object(where, f"{name}[{i}]", part).get("text")
        if said is None:
            raise _problem(where, f"{name}[{i}] has no text (it has {listed(part) or 'nothing'})")
        parts.append(_string(where, f"{name}[{i}].text", said))
    return "".join(parts)


def _calls(where: str, name: str, calls: Any) -> list[dict[str, Any]]:
    """Calls as transformers' chat templates want them: arguments an object, also where they came as JSON text."""
    checked = []
    for i, call in enumerate(_list(where, name, calls)):
        call = _object(where, f"{name}[{i}]", call)
        call = call if "function" in call else {"function": call}
        inner = _object(where, f"{name}[{i}].function", call["function"])
        called = _filled(where, f"{name}[{i}].function.name", inner.get("name"))
        arguments = _json(where, f"{name}[{i}].function.arguments", inner.get("arguments", {}))
        arguments = _object(where, f"{name}[{i}].function.arguments", arguments)
        checked.append({"type": "function", **call, "function": {"name": called, "arguments": arguments}})
    return checked


def _options(where: str, completion: str, options: Any) -> tuple[str, ...]:
    options = _list(where, "options", options or [])
    texts = tuple(_filled(where, f"options[{i}]", option) for i, option in enumerate(options))
    if texts and (completion not in texts or len(set(texts)) < len(texts)):
        raise _problem(where, "the options must be different texts, the completion among them")
    return texts


def _tools(where: str, tools: Any) -> tuple[dict[str, Any], ...] | None:
    tools = _list(where, "tools", _json(where, "tools", tools or []))
    return tuple(_object(where, f"tools[{i}]", tool) for i, tool in enumerate(tools)) or None


def _system(where: str, system: Any) -> list[Message]:
    said = _string(where, "system", "" if system is None else system)
    return [{"role": "system", "content": said}] if said else []


def _turns(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _json(where: str, name: str, value: Any) -> Any:
    """The value, parsed where it is JSON text: table formats have no other way to hold it."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _problem(where, f"{name} is not valid JSON: {brief(error.msg)}") from None


def _string(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _problem(where, f"{name} is {kind(value)}, wanted text")
    return value


def _filled(where: str, name: str, value: Any) -> str:
    if not _string(where, name, value).strip():
        raise _problem(where, f"{name} is empty", "fill it or leave the record out")
    return value


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _problem(where, f"{name} is {kind(value)}, wanted a number")
    return float(value)


def _list(where: str, name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _problem(where, f"{name} is {kind(value)}, wanted a list")
    return value


def _object(where: str, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _problem(where, f"{name} is {kind(value)}, wanted an object")
    return value


def _problem(where: str, what: str, remedy: str = "") -> DataProblem:
    return DataProblem(what, where=where, remedy=remedy)
