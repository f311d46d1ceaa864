"""Files to records: JSON, CSV, Parquet, HTML and text, read strictly and a piece at a time.

A file that cannot be read exactly as its author meant it is refused with the place of the mistake;
nothing is replaced, skipped or guessed. Memory stays bounded by the two limits below whatever the
file claims to hold.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from didact.data.unpack import PACKED, unpacked
from didact.data.words import brief, kind, listed
from didact.errors import DataProblem, ResourceProblem

LINE_LIMIT = 32 * 2**20  # bytes of one line
DOCUMENT_LIMIT = 256 * 2**20  # bytes of a file that is one document: .json, .txt, .md, .html
BOM = b"\xef\xbb\xbf"

Record = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class _File:
    """An open file, unpacked, with its limits."""

    path: Path
    stream: BinaryIO
    line_limit: int
    document_limit: int

    def at(self, line: int) -> str:
        return f"{self.path}:{line}"


def read(path: Path, *, line_limit: int = LINE_LIMIT, document_limit: int = DOCUMENT_LIMIT) -> Iterator[Record]:
    """Yields ``(where, record)`` for each record of a file; ``where`` is ``file:line``.

    Parquet has no lines and says ``file:row N``, a .json file ``file:item N``, both from 1. A text
    document is one record ``{"text": ...}``, one of HTML with its ``links``. The limits are in bytes, after unpacking.

    Raises DataProblem for anything malformed, an empty file and an unknown suffix; ResourceProblem
    where the file cannot be opened or read; MissingExtra for .zst without zstandard.
    """
    path = Path(path)
    records = reader(path)
    found = False
    try:
        if not path.is_file():  # a pipe or a device would block, or never end
            raise ResourceProblem(
                "is not a regular file" if path.exists() else "does not exist",
                where=str(path),
                remedy="name a file",
            )
        with path.open("rb") as raw:
            for record in records(_File(path, unpacked(path, raw), line_limit, document_limit)):
                found = True
                yield record
    except OSError as error:
        raise ResourceProblem(
            f"cannot be read: {brief(error.strerror or error)}",
            where=str(path),
            remedy="check the file's permissions and its disk",
        ) from error
    if not found:
        raise DataProblem("no examples", where=str(path), remedy="fill the file or leave it out")


def known(path: Path) -> bool:
    """Whether the file's suffix names a kind that ``read`` understands."""
    return _kind(path) in READERS


def _kind(path: Path) -> str:
    """The suffix that says what is inside, below .gz or .zst."""
    name = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return name.suffix.lower()


def reader(path: Path) -> Callable[[_File], Iterator[Record]]:
    """The reader of the file's kind; raises DataProblem for a suffix that names none."""
    kind = _kind(path)
    if kind not in READERS:
        what = f"unknown kind of file {brief(kind, 40)!r}" if kind else "a file without a suffix is of unknown kind"
        raise DataProblem(
            what, where=str(path), remedy=f"known are {', '.join(READERS)}, each also with {' or '.join(PACKED)}"
        )
    return READERS[kind]


# --- text and lines ----------------------------------------------------------------------------------------


def _lines(file: _File) -> Iterator[tuple[int, int, bytes]]:
    """Yields ``(line number, its offset in bytes, line)``, never holding more than one line."""
    offset = 0
    for number in itertools.count(1):
        line = file.stream.readline(file.line_limit + 1)
        if len(line) > file.line_limit:
            raise DataProblem(
                f"the line is longer than {file.line_limit:,} bytes",
                where=file.at(number),
                remedy="split it into shorter documents",
            )
        if not line:
            return
        start = len(BOM) if number == 1 and line.startswith(BOM) else 0
        yield number, offset + start, line[start:]
        offset += len(line)


def _whole(file: _File) -> bytes:
    data = file.stream.read(file.document_limit + 1)
    if len(data) > file.document_limit:
        raise DataProblem(
            f"the file is one document of more than {file.document_limit:,} bytes",
            where=str(file.path),
            remedy="split it, or write records as .jsonl, which is read line by line",
        )
    return data


def _decode(file: _File, data: bytes, line: int = 1, offset: int = 0) -> str:
    """UTF-8 text without NUL; ``line`` and ``offset`` say where in the file ``data`` starts."""
    nul = data.find(b"\0")
    if nul >= 0:
        raise DataProblem(
            f"NUL byte at byte {offset + nul}",
            where=file.at(line + data.count(b"\n", 0, nul)),
            remedy="save the file as UTF-8 text",
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataProblem(
            f"byte {offset + error.start} (0x{data[error.start]:02x}) is not valid UTF-8",
            where=file.at(line + data.count(b"\n", 0, error.start)),
            remedy="save the file as UTF-8",
        ) from None


def _html(file: _File) -> Iterator[Record]:
    from didact.data.html import readable

    text, links = readable(_decode(file, _whole(file)).removeprefix("\ufeff"))
    if text:
        yield file.at(1), {"text": text, "links": links}


def _text(file: _File) -> Iterator[Record]:
    text = _decode(file, _whole(file)).removeprefix("\ufeff").replace("\r\n", "\n")
    if text.strip():
        yield file.at(1), {"text": text}


# --- JSON --------------------------------------------------------------------------------------------------

_KEY = re.compile(rb'"\s*:')


def _jsonl(file: _File) -> Iterator[Record]:
    for number, offset, line in _lines(file):
        if line and not line.isspace():
            record = _json(file, line.rstrip(b"\n"), number, offset)  # what is missing is missing on this line
            if not isinstance(record, dict):
                raise DataProblem(
                    f"the line is {kind(record)}, wanted an object",
                    where=file.at(number),
                    remedy="write one JSON object a line",
                )
            yield file.at(number), record


def _json_document(file: _File) -> Iterator[Record]:
    whole = _whole(file)
    data = whole.removeprefix(BOM)
    if not data or data.isspace():
        return
    for number, record in enumerate(_items(file, _json(file, data, 1, len(whole) - len(data))), 1):
        where = f"{file.path}:item {number}"
        if not isinstance(record, dict):
            raise DataProblem(f"the item is {kind(record)}, wanted an object", where=where)
        yield where, record


def _items(file: _File, value: object) -> list[Any]:
    """The records of a JSON document: the array it is, or the one array among its fields."""
    if isinstance(value, list):
        return value
    fields = value if isinstance(value, dict) else {}
    lists = [name for name, field in fields.items() if isinstance(field, list)]
    if len(lists) != 1:
        among = f" with {len(lists)} list fields" if isinstance(value, dict) else ""
        raise DataProblem(
            f"the file is {kind(value)}{among}",
            where=str(file.path),
            remedy="wanted an array of objects, or an object with one list field",
        )
    return fields[lists[0]]


def _json(file: _File, data: bytes, line: int, offset: int) -> Any:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        _decode(file, data, line, offset)  # bad bytes are the likelier mistake, and have a better remedy
        raise DataProblem(
            f"invalid JSON at column {error.colno}: {brief(error.msg)}",
            where=file.at(line + error.lineno - 1),
            remedy="write one JSON object a line" if _kind(file.path) != ".json" else "",
        ) from None
    # orjson keeps the last of two equal keys. Text that may end a key is at least as frequent as keys
    # are, so equal counts prove that none was lost; only where they differ is the slow parser asked.
    if len(_KEY.findall(data)) != _count_keys(value):
        _refuse_duplicates(file, data, line)
    return value


def _count_keys(value: Any) -> int:
    keys, rest = 0, [value]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            keys += len(value)
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)
    return keys


def _refuse_duplicates(file: _File, data: bytes, line: int) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DataProblem(f"key {brief(key, 40)!r} occurs twice in one object", where=file.at(line))
            seen.add(key)

    try:
        json.loads(data, object_pairs_hook=unique)
    except RecursionError:
        raise DataProblem("the JSON is nested too deeply", where=file.at(line)) from None


# --- tables ------------------------------------------------------------------------------------------------


def _table(delimiter: str) -> Callable[[_File], Iterator[Record]]:
    """A reader of delimited text with a header line; every value is text."""

    def rows(file: _File) -> Iterator[Record]:
        csv.field_size_limit(file.line_limit)  # the module's own 128 KiB is less than a document
        lines = (_decode(file, line, number, offset) for number, offset, line in _lines(file))
        table = csv.reader(lines, delimiter=delimiter, strict=True)
        names: list[str] = []
        start = 1
        try:
            for row in table:
                if row and not names:
                    names = _header(file.at(start), row)
                elif row:
                    yield file.at(start), _row(file.at(start), names, row)
                start = table.line_num + 1  # a quoted field may have spanned lines
        except csv.Error as error:
            raise DataProblem(
                f"invalid {file.path.suffix}: {brief(error)}",
                where=file.at(start),
                remedy='quote fields that hold the delimiter, a quote or a line break, and double quotes inside ("")',
            ) from None

    return rows


def _header(where: str, names: list[str]) -> list[str]:
    wrong = [name for name in names if not name.strip() or names.count(name) > 1]
    if wrong:
        raise DataProblem(
            f"the header names {brief(wrong[0], 40)!r} twice" if wrong[0].strip() else "the header has an empty name",
            where=where,
            remedy="the first line names the columns, each once",
        )
    return names


def _row(where: str, names: list[str], row: list[str]) -> dict[str, Any]:
    if len(row) != len(names):
        raise DataProblem(
            f"the row has {len(row)} fields, the header {len(names)} ({listed(names)})",
            where=where,
            remedy="quote fields that hold the delimiter",
        )
    return dict(zip(names, row, strict=True))


def _parquet(file: _File) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    if not file.stream.seekable():
        raise DataProblem("a Parquet file cannot be read packed", where=str(file.path), remedy="unpack it first")
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(file.stream) as table:
            for batch in table.iter_batches(batch_size=256):
                for record in batch.to_pylist():
                    row += 1
                    yield f"{file.path}:row {row}", without_nulls(record)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataProblem(
            f"not a valid Parquet file: {brief(error)}",
            where=f"{file.path}:row {row + 1}" if row else str(file.path),
            remedy="fetch or write it again",
        ) from None


def without_nulls(value: Any) -> Any:
    """Without null fields: Parquet has no missing field, every object carries the union of all names."""
    if isinstance(value, dict):
        return {name: without_nulls(field) for name, field in value.items() if field is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


READERS: dict[str, Callable[[_File], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json_document,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
    ".txt": _text,
    ".md": _text,
    ".html": _html,
    ".htm": _html,
}
