"""Records to examples: what each known shape of training data means, checked to the last field.

A format is one function: its parameters are the fields it knows (those without a default are needed
and recognise it), its name and the first line of its docstring are what a user reads about it. To add
one, write it and list it in FORMATS.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from didact.data.example import RELATIONS, Completion, Document, Example, Texts
from didact.data.fields import (
    conversation,
    filled,
    items,
    judged,
    message,
    number,
    options_of,
    problem,
    refuse_misspelled,
    sharegpt_turn,
    string,
    system_turn,
    turns_of,
)
from didact.data.words import brief, kind, listed, nearest

Format = Callable[..., Example]  # (where, its fields by name) -> Example

# --- the formats -------------------------------------------------------------------------------------------


def text(where: str, text: Any, label: Any = None) -> Example:
    """Documents; the ``label`` of a classified one is kept and not learned."""
    return Document(where, filled(where, "text", text), "" if label is None else str(label).strip())


def messages(where: str, messages: Any, tools: Any = None, before: Any = None) -> Example:
    """Chats of ``role`` and ``content``; ``before`` are messages that only a teacher reads in front of them."""
    turns = [message(where, f"messages[{i}]", turn) for i, turn in enumerate(items(where, "messages", messages))]
    read = [message(where, f"before[{i}]", turn) for i, turn in enumerate(items(where, "before", before or []))]
    return conversation(where, turns, tools, read)


def sharegpt(where: str, conversations: Any, system: Any = None, tools: Any = None) -> Example:
    """Chats of ``from`` and ``value``."""
    turns = items(where, "conversations", conversations)
    chat = [sharegpt_turn(where, f"conversations[{i}]", turn) for i, turn in enumerate(turns)]
    return conversation(where, system_turn(where, system) + chat, tools)


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
    turns = system_turn(where, system)
    for i, pair in enumerate(items(where, "history", history or [])):
        if len(items(where, f"history[{i}]", pair)) != 2:
            raise problem(where, f"history[{i}] has {len(pair)} items", "wanted a question and its answer")
        turns += turns_of(*(filled(where, f"history[{i}][{j}]", said) for j, said in enumerate(pair)))
    question = filled(where, "instruction", instruction)
    if string(where, "input", "" if input is None else input):
        question += f"\n{input}"
    return conversation(where, turns + turns_of(question, filled(where, "output", output)), None)


def completion(where: str, prompt: Any, completion: Any, tools: Any = None, options: Any = None) -> Example:
    """A prompt and what follows it: both text, or both lists of messages, where only the completion's are learned.

    ``options`` are the texts of which the completion is the right one, for measuring.
    """
    if not (isinstance(prompt, list) and isinstance(completion, list)):
        if tools:
            raise problem(where, "tools beside a prompt of text", "write prompt and completion as lists of messages")
        prompt, completion = filled(where, "prompt", prompt), filled(where, "completion", completion)
        return Completion(where, prompt, completion, options_of(where, completion, options))
    if options:
        raise problem(where, "options beside a prompt of messages", "write prompt and completion as text")
    read = [message(where, f"prompt[{i}]", turn) for i, turn in enumerate(prompt)]
    read = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in read]
    learned = [message(where, f"completion[{i}]", turn) for i, turn in enumerate(completion)]
    return conversation(where, read + learned, tools)


def pair(where: str, anchor: Any, positive: Any, negative: Any = None, negatives: Any = None) -> Example:
    """A query, a text that answers it, and any number of texts that seem to and do not."""
    wrong = [] if negative is None else [negative]
    wrong += items(where, "negatives", [] if negatives is None else negatives)
    texts = [filled(where, "anchor", anchor), filled(where, "positive", positive)]
    texts += [filled(where, f"negatives[{i}]", text) for i, text in enumerate(wrong)]
    return Texts(where, tuple(texts), ("query", *["document"] * (len(texts) - 1)))


def scored(where: str, sentence1: Any, sentence2: Any, score: Any) -> Example:
    """Two texts and how alike they are."""
    texts = (filled(where, "sentence1", sentence1), filled(where, "sentence2", sentence2))
    return Texts(where, texts, ("document", "document"), number(where, "score", score))


def related(where: str, first: Any, second: Any, relation: Any) -> Example:
    """Two texts to be read one after the other, and how the second is related to the first."""
    texts = (filled(where, "first", first), filled(where, "second", second))
    if relation not in RELATIONS:
        raise problem(where, f"relation {brief(relation, 40)!r} is unknown", f"known are {', '.join(RELATIONS)}")
    return Texts(where, texts, ("text", "text"), float(RELATIONS.index(relation)))


def preference(
    where: str, prompt: Any, chosen: Any, rejected: Any, annotator: Any = None, shown: Any = None
) -> Example:
    """A prompt, an answer to it, and a worse one; ``annotator`` is who said so. Answers may be whole chats.

    ``shown`` is ``[0, 1]`` where the better one was seen first, else ``[1, 0]``.
    """
    return judged(where, prompt, {"chosen": chosen, "rejected": rejected}, (1.0, 0.0), annotator, shown)


def whole_chats(where: str, chosen: Any, rejected: Any, annotator: Any = None) -> Example:
    """Two chats, the better and the worse; the messages they begin with alike are the prompt."""
    if not isinstance(chosen, list):
        raise problem(
            where, f"chosen is {kind(chosen)}, wanted a chat; an answer alone as 'chosen' needs 'prompt' beside it"
        )
    better, worse = chosen, items(where, "rejected", rejected)
    parts = (i for i, (a, b) in enumerate(zip(better, worse, strict=False)) if a != b)
    alike = next(parts, 0)
    if not alike:
        what = "chosen and rejected do not begin with the same messages and then part"
        raise problem(where, what, "give a prompt and two answers, or two chats that share their prompt")
    return judged(where, better[:alike], {"chosen": better[alike:], "rejected": worse[alike:]}, (1.0, 0.0), annotator)


def sharegpt_preference(where: str, conversations: Any, chosen: Any, rejected: Any, system: Any = None) -> Example:
    """A chat of ``from`` and ``value``, the turn it goes on with, and a worse one."""
    turns = items(where, "conversations", conversations)
    prompt = [sharegpt_turn(where, f"conversations[{i}]", turn) for i, turn in enumerate(turns)]
    both = {
        "chosen": [sharegpt_turn(where, "chosen", chosen)],
        "rejected": [sharegpt_turn(where, "rejected", rejected)],
    }
    return judged(where, system_turn(where, system) + prompt, both, (1.0, 0.0))


def ranked(
    where: str, prompt: Any, completions: Any, ranking: Any, annotator: Any = None, shown: Any = None
) -> Example:
    """Answers to a prompt, and their numbers in groups, the best group first; in the order ``shown``, too."""
    answers = items(where, "completions", completions)
    groups = [items(where, f"ranking[{i}]", group) for i, group in enumerate(items(where, "ranking", ranking))]
    place = {number: i for i, group in enumerate(groups) for number in group if type(number) is int}
    if sum(map(len, groups)) != len(answers) or place.keys() != set(range(len(answers))):
        raise problem(where, f"the ranking does not name each of the {len(answers)} completions once")
    values = tuple(-float(place[i]) for i in range(len(answers)))
    return judged(where, prompt, _named(answers), values, annotator, shown)


def listed_scores(where: str, prompt: Any, completions: Any, scores: Any, annotator: Any = None) -> Example:
    """Answers to a prompt, and a score of each; null for one that was not judged."""
    answers, given = items(where, "completions", completions), items(where, "scores", scores)
    if len(given) != len(answers):
        raise problem(where, f"there are {len(given)} scores of {len(answers)} completions")
    values = tuple(math.nan if x is None else number(where, f"scores[{i}]", x) for i, x in enumerate(given))
    return judged(where, prompt, _named(answers), values, annotator)


def _named(answers: list[Any]) -> dict[str, Any]:
    return {f"completions[{i}]": answer for i, answer in enumerate(answers)}


def labelled(where: str, prompt: Any, completion: Any, label: Any, annotator: Any = None) -> Example:
    """An answer to a prompt, and whether it was good."""
    if not isinstance(label, bool):
        raise problem(where, f"label is {kind(label)}, wanted true or false")
    return judged(where, prompt, {"completion": completion}, (float(label),), annotator)


def labelled_chat(where: str, messages: Any, label: Any, annotator: Any = None) -> Example:
    """A chat, and whether its last turn was good."""
    turns = items(where, "messages", messages)
    if not isinstance(label, bool):
        raise problem(where, f"label is {kind(label)}, wanted true or false")
    if len(turns) < 2:
        raise problem(where, f"messages has {len(turns)} turns, wanted a prompt and its answer")
    return judged(where, turns[:-1], {"completion": turns[-1:]}, (float(label),), annotator)


def rated(where: str, prompt: Any, completion: Any, rating: Any, annotator: Any = None) -> Example:
    """An answer to a prompt, and how good it was."""
    return judged(where, prompt, {"completion": completion}, (number(where, "rating", rating),), annotator)


FORMATS: tuple[Format, ...] = (
    *(text, messages, sharegpt, alpaca, completion),
    *(pair, scored, related),
    *(preference, whole_chats, sharegpt_preference, ranked, listed_scores, labelled, labelled_chat, rated),
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
            remedy = "" if _fitting(record) else _advice(record).removesuffix("; ").removesuffix(" ")
            what = f"the record is {other}, but the file was {_name(so_far)} so far"
            raise problem(where, what, remedy or "split the file")
        so_far = so_far or detect(record, where)
        found = _build(so_far, where, record)
        shape = shape or type(found)
        if type(found) is not shape:
            what = f"the {_name(so_far)} is a {type(found).__name__}, but the file was {shape.__name__}s so far"
            raise problem(where, what, "split the file")
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
        raise problem(where, what, "keep the fields of one of them")
    if not (advice := _advice(record)):
        _refuse_unread(where, record, ())
    understood = "; ".join(" + ".join(_fields(format)[0]) for format in FORMATS)
    what = f"fields {listed(record) or '(none)'} are of no known format"
    raise problem(where, what, f"{advice}understood are {understood}")


def _fitting(record: Mapping[str, Any]) -> list[Format]:
    """Formats whose needed fields are all there, less those that need but some of another's, or are its extras.

    Where one of them reads all that changes what a record means, those that do not are none.
    """
    fits = [format for format in FORMATS if record.keys() >= set(_fields(format)[0])]
    fits = [one for one in fits if not _unread(record, sum(_fields(one), ()))] or fits
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
    refuse_misspelled(where, "", record, extra)
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
    if found := _unread(record, known):
        remedy = "ratings, preferences and media are not read here; leave out such records, or these fields of them"
        raise problem(where, f"the record also has {listed(found)}, which change what it means", remedy)


def _unread(record: Mapping[str, Any], known: Iterable[str]) -> list[str]:
    return [name for name in UNREAD if name not in known and record.get(name) not in (None, [], "")]
