"""Feedback as the lines of a file, out and in: the field's formats, and one that loses nothing.

Who judged stands in the field's formats under a pseudonym, so that a model may learn whose tastes differ.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import orjson
from pydantic import ValidationError

from didact.errors import DataProblem
from didact.feedback import records
from didact.feedback.rates import pairs
from didact.feedback.records import RECORD, Edit, Exchange, Ranking, Rating, Thumb
from didact.feedback.standing import Said, standing
from didact.feedback.store import Kept, Store

Form = Literal["records", "preferences", "kto", "ratings", "rankings", "sft", "good"]
FORMS: tuple[Form, ...] = get_args(Form)
PSEUDONYM = re.compile("p-[0-9a-f]{12}")
BATCH = 500  # lines written in one transaction
Line = dict[str, Any]


def lines(store: Store, form: Form) -> Iterator[Line]:
    """The store in a format; all but ``records`` hold what stands now, and no answer that is empty."""
    for _, line in named(store, form):
        yield line


def named(store: Store, form: Form) -> Iterator[tuple[str, Line]]:
    """The lines of a format, each with the id of the record it is from."""
    if form == "records":
        for kept in store.each():
            record = kept.record.model_dump(mode="json")
            yield kept.id, {"id": kept.id, "time": kept.time, "key": kept.key, "record": record}
        return
    for said in standing(store):
        if all(turn.content.strip() for turn in said.exchange.prompt if turn.role == "assistant"):
            for line in OUT[form](said):
                yield said.id, line if "messages" in line else line | {"annotator": pseudonym(said.judgement.annotator)}


def pseudonym(annotator: str) -> str:
    """A name that is the same wherever the same person judged, and is not the person's; its own is its own."""
    if PSEUDONYM.fullmatch(annotator):
        return annotator
    return f"p-{hashlib.blake2b(annotator.encode(), digest_size=6, person=b'annotator').hexdigest()}"


def _prompt(said: Said) -> list[Line]:
    return [turn.model_dump() for turn in said.exchange.prompt]


def _answer(text: str) -> list[Line]:
    return [{"role": "assistant", "content": text}]


def _text(said: Said, number: int | None) -> str:
    """What a candidate says, empty where there is none."""
    text = "" if number is None else said.exchange.candidates[number].text
    return text if text.strip() else ""


def preferences(said: Said) -> Iterator[Line]:
    """``prompt``, ``chosen``, ``rejected``: each two answers ranked apart, and each edit over what it replaces."""
    found: list[tuple[str, str, Line]] = []
    if isinstance(said.judgement, Ranking):
        ranked = [(better, worse) for better, worse, tied in pairs(said.judgement.ranking) if not tied]
        found = [(_text(said, better), _text(said, worse), _shown(said, better, worse)) for better, worse in ranked]
    elif isinstance(said.judgement, Edit):
        found = [(said.judgement.text, _text(said, said.judgement.candidate), {})]
    for chosen, rejected, shown in found:
        if chosen and rejected and chosen != rejected:
            yield {"prompt": _prompt(said), "chosen": _answer(chosen), "rejected": _answer(rejected), **shown}


def _shown(said: Said, *numbers: int) -> Line:
    """``shown``: the places in a line of what it has of the candidates, in the order they were seen, where known."""
    order = said.exchange.shown
    return {"shown": sorted(range(len(numbers)), key=lambda i: order.index(numbers[i]))} if order else {}


def kto(said: Said) -> Iterator[Line]:
    """``prompt``, ``completion``, ``label``: thumbs."""
    if isinstance(said.judgement, Thumb) and (text := _text(said, said.judgement.candidate)):
        yield {"prompt": _prompt(said), "completion": _answer(text), "label": said.judgement.up}


def ratings(said: Said) -> Iterator[Line]:
    """``prompt``, ``completion``, ``rating``: one to five stars."""
    if isinstance(said.judgement, Rating) and (text := _text(said, said.judgement.candidate)):
        yield {"prompt": _prompt(said), "completion": _answer(text), "rating": said.judgement.rating}


def rankings(said: Said) -> Iterator[Line]:
    """``prompt``, ``completions``, ``ranking``: groups of the completions' numbers, the best first."""
    if isinstance(said.judgement, Ranking):
        texts = [_text(said, number) for number in range(len(said.exchange.candidates))]
        if len(texts) > 1 and all(texts):
            groups = [list(group) for group in said.judgement.ranking]
            about = {"completions": [_answer(text) for text in texts], "ranking": groups}
            yield {"prompt": _prompt(said), **about, **_shown(said, *range(len(texts)))}


def sft(said: Said) -> Iterator[Line]:
    """``messages``: conversations that end with what a person wrote."""
    if isinstance(said.judgement, Edit):
        yield {"messages": _prompt(said) + _answer(said.judgement.text)}


def good(said: Said) -> Iterator[Line]:
    """``messages``: what a model may imitate: edits, and answers with a thumb up."""
    yield from sft(said)
    if isinstance(said.judgement, Thumb) and said.judgement.up and (text := _text(said, said.judgement.candidate)):
        yield {"messages": _prompt(said) + _answer(text)}


OUT: dict[str, Callable[[Said], Iterator[Line]]] = {
    "preferences": preferences,
    "kto": kto,
    "ratings": ratings,
    "rankings": rankings,
    "sft": sft,
    "good": good,
}

# --- in ----------------------------------------------------------------------------------------------------


def load(store: Store, given: Iterable[tuple[str, Line]], annotator: str) -> int:
    """Keeps lines of any of the formats, ``(where, line)``; returns how many there were.

    What is not of ``records`` and names no annotator is kept as ``annotator``'s judgement. The same lines again add
    nothing, so a load that was stopped is done again. Raises DataProblem, naming the line.
    """
    seen: Counter[bytes] = Counter()
    batch: list[tuple[str, list[Kept]]] = []
    count = 0
    for where, line in given:
        batch.append((where, _kept(where, line, annotator, seen)))
        count += 1
        if len(batch) == BATCH:
            _put(store, batch)
            batch = []
    _put(store, batch)
    return count


def _put(store: Store, batch: list[tuple[str, list[Kept]]]) -> None:
    try:
        store.put(kept for _, line in batch for kept in line)
    except DataProblem as problem:
        if len(batch) == 1:
            raise DataProblem(problem.what, where=batch[0][0], remedy=problem.remedy) from problem
        for one in batch:  # which line it was is found by keeping each alone
            _put(store, [one])


def _kept(where: str, line: Line, annotator: str, seen: Counter[bytes]) -> list[Kept]:
    try:
        if "record" in line:
            kept = records.Line.model_validate(line)
            return [Kept(kept.id, kept.time, kept.record, kept.key)]
        exchange, judged = _read(line)
        digest = hashlib.sha256(orjson.dumps([annotator, line], option=orjson.OPT_SORT_KEYS)).digest()
        seen[digest] += 1  # a file may hold a line twice, from two people
        name = hashlib.sha256(digest + str(seen[digest]).encode()).hexdigest()[:32]
        asked = Kept.now(exchange)
        fields = {"exchange": f"x{name}", "annotator": line.get("annotator", annotator), **judged}
        judgement = RECORD.validate_python({"type": "judgement", **fields})
        return [Kept(f"x{name}", asked.time, exchange), Kept(f"j{name}", asked.time, judgement)]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataProblem(f"{place}: {first['msg'].lower()}", where=where, remedy=_FORMS) from error
    except _Odd as odd:
        raise DataProblem(str(odd), where=where, remedy=_FORMS) from odd


_FORMS = "wanted a line as `didact feedback export` writes them"


class _Odd(Exception):
    """A line that is of no format."""


def _read(line: Line) -> tuple[Exchange, Line]:
    """An exchange and the fields of the judgement on it."""
    match line:
        case {"prompt": prompt, "chosen": chosen, "rejected": rejected}:
            return _exchange(line, prompt, chosen, rejected), {"kind": "ranking", "ranking": [[0], [1]]}
        case {"prompt": prompt, "completions": list(completions), "ranking": ranking}:
            return _exchange(line, prompt, *completions), {"kind": "ranking", "ranking": ranking}
        case {"prompt": prompt, "completion": completion, "label": label}:
            return _exchange(line, prompt, completion), {"kind": "thumb", "up": label}
        case {"prompt": prompt, "completion": completion, "rating": rating}:
            return _exchange(line, prompt, completion), {"kind": "rating", "rating": rating}
        case {"messages": [*prompt, {"role": "assistant", "content": text}]}:
            return _exchange(line, prompt), {"kind": "edit", "text": text, "candidate": None}
    raise _Odd(f"fields {', '.join(sorted(line)) or '(none)'} are of no known format")


def _exchange(line: Line, prompt: Any, *answers: Any) -> Exchange:
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    about = {"candidates": [_said(answer) for answer in answers], "shown": line.get("shown") or []}
    return Exchange.model_validate({"prompt": turns, **about})


def _said(answer: Any) -> Line:
    """An answer as text, or as a list of one message."""
    match answer:
        case str():
            return {"text": answer}
        case [{"role": "assistant", "content": text}]:
            return {"text": text}
    raise _Odd("an answer is text, or a list of one assistant message")
