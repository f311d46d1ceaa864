"""``didact feedback``: the store on the command line; data goes to stdout, talk to stderr."""

import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from didact.data.files import read
from didact.data.words import brief
from didact.engine.durable import on_disk
from didact.errors import DataProblem, UsageProblem
from didact.feedback import jsonl, review
from didact.feedback.jsonl import Form
from didact.feedback.place import there
from didact.feedback.records import Edit, Exchange, Forgotten, Ranking, Rating, Record, Review, Thumb
from didact.feedback.report import report as gather
from didact.feedback.store import Kept, Store


def show(where: str | None, kind: str | None, last: int) -> None:
    """Prints the newest records, a line each."""
    with Store.open(there(where)) as store:
        for kept in deque((one for one in store.each() if kind in (None, _kind(one.record))), maxlen=last):
            print(f"{kept.time[:19]}Z  {kept.id}  {_kind(kept.record):<10}  {_who(kept)}  {brief(_gist(kept.record))}")


def _kind(record: Record) -> str:
    return getattr(record, "kind", record.type)


def _who(kept: Kept) -> str:
    return getattr(kept.record, "annotator", None) or "-"


def _gist(record: Record) -> str:
    """A record in a few words."""
    match record:
        case Exchange():
            return f"{len(record.candidates)} answers to {record.prompt[-1].content}"
        case Thumb():
            return f"{'up' if record.up else 'down'} for {record.candidate} of {record.exchange} {record.reason}"
        case Rating():
            return f"{record.rating} for {record.candidate} of {record.exchange} {record.reason}"
        case Ranking():
            groups = " > ".join(" = ".join(map(str, group)) for group in record.ranking)
            return f"{groups} of {record.exchange}"
        case Edit():
            return f"of {record.exchange}: {record.text}"
        case Review():
            return record.exchange or (record.prompt[-1].content if record.prompt else "")
        case Forgotten():
            return f"{record.count} records removed"
        case _:
            return f"of {record.exchange}" + (f" replaces {record.replaces}" if record.replaces else "")


def export(where: str | None, form: Form, output: Path | None) -> None:
    """Writes the store's lines to stdout or a new file."""
    with Store.open(there(where)) as store:
        lines = (orjson.dumps(line) + b"\n" for line in jsonl.lines(store, form))
        if output is None:
            sys.stdout.buffer.writelines(lines)
            return
        with on_disk(output, "write the feedback"), output.open("xb") as file:
            count = sum(1 for line in lines if file.write(line))
    print(f"{output}: {count:,} lines", file=sys.stderr)


def load(files: Sequence[Path], where: str | None, annotator: str) -> None:
    """Keeps the lines of files."""
    with Store.open(where) as store:
        for file in files:
            count = jsonl.load(store, read(file), annotator)
            print(f"{file}: {count:,} lines are in {store.name}", file=sys.stderr)


def forget(annotator: str, where: str | None) -> None:
    """Removes what a person said."""
    with Store.open(there(where)) as store:
        count = store.forget(annotator)
    print(f"{annotator}: {count:,} records removed", file=sys.stderr)


def enqueue(files: Sequence[Path], exchanges: Sequence[str], wanted: int, where: str | None) -> None:
    """Puts prompts and exchanges into the queue and prints their ids."""
    if not files and not exchanges:
        raise UsageProblem("there is nothing to put into the queue", remedy="give files of prompts, or --exchange")
    items = [_item(place, record, wanted) for file in files for place, record in read(file)]
    items += [Review(exchange=id, wanted=wanted) for id in exchanges]
    with Store.open(where) as store:
        for kept in review.enqueue(store, items):
            print(kept.id)


def _item(where: str, record: Mapping[str, Any], wanted: int) -> Review:
    """A prompt as text, as messages, or as a conversation up to its last answer."""
    match record:
        case {"prompt": str(text)}:
            turns: Any = [{"role": "user", "content": text}]
        case {"prompt": turns}:
            pass
        case {"messages": [*turns, {"role": "assistant"}]} | {"messages": turns}:
            pass
        case _:
            raise DataProblem("this record has no prompt", where=where, remedy="give prompt or messages")
    try:
        return Review.model_validate({"prompt": turns, "wanted": wanted})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataProblem(f"{place}: {first['msg'].lower()}", where=where, remedy="give role and content") from error


# --- the report --------------------------------------------------------------------------------------------


def report(where: str | None, json: bool) -> None:
    """Prints the report, as tables or as JSON."""
    with Store.open(there(where)) as store:
        found = gather(store)
    if json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    console = Console()
    for title, table in _tables(found):
        console.print(title, style="bold", highlight=False)
        console.print(table)
        console.print()


def _tables(found: dict[str, Any]) -> Iterator[tuple[str, Table]]:
    volume = found["volume"]
    yield f"Records of {volume['annotators']} annotators", _table(("", "count"), volume["records"].items())
    rows = [
        (kind, level, _number(alpha), said["judged_by_several"], said["annotators"])
        for kind, said in found["agreement"].items()
        for level, alpha in said["alpha"].items()
    ]
    yield "Agreement", _table(("of", "level", "alpha", "judged by several", "annotators"), rows)
    sways = {"the one shown first wins": "first_shown", "the longer one wins": "longer"}
    rows = [(what, *_share(found["bias"][name])) for what, name in sways.items()]
    yield "What sways people (0.5 is nothing)", _table(("", "rate", "95% interval", "rounds"), rows)
    rows = [(model or "(no name)", *_share(share)) for model, share in found["win_rates"].items()]
    yield "Wins against other models", _table(("model", "rate", "95% interval", "rounds"), rows)
    people = found["annotators"].items()
    rows = [(name, *_ways(one["first_shown"]), *_ways(one["longer"]), one["judgements"]) for name, one in people]
    titles = ("annotator", "first shown", "95% interval", "longer", "95% interval", "judgements")
    yield "What sways each of them", _table(titles, rows)
    rows = [(name, *row) for name, one in people for row in _quality(one)]
    titles = ("annotator", "of", "right", "leniency", "95% interval", "judged with others")
    yield "How good and how lenient each of them is", _table(titles, rows)


def _quality(one: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """For each kind of judgement: how often right, by how much above the others."""
    for kind, skill in one["skill"].items():
        lenient = one["leniency"].get(kind)
        sure = "" if lenient is None or lenient["low"] is None else f"{lenient['low']:+.2f} to {lenient['high']:+.2f}"
        yield kind, _number(skill["accuracy"]), f"{lenient['mean']:+.2f}" if lenient else "", sure, skill["votes"]


def _ways(share: Mapping[str, Any]) -> tuple[object, ...]:
    return _share(share)[:2]


def _table(columns: Sequence[str], rows: Any) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number > 0 else "left")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _share(share: Mapping[str, Any]) -> tuple[object, ...]:
    if not share["rounds"]:
        return "-", "", 0
    return _number(share["rate"]), f"{share['low']:.2f} to {share['high']:.2f}", share["rounds"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
