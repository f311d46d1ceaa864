"""Any file to the documents in it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from didact.data.example import Document
from didact.data.files import BOM, read
from didact.data.formats import example
from didact.data.unpack import PACKED, unpacked
from didact.data.words import brief
from didact.errors import DataProblem, ResourceProblem
from didact.retrieve.extract import Extract, clean
from didact.retrieve.load import code, html, markdown, notebook
from didact.retrieve.load.office import office
from didact.retrieve.settings import SUFFIXES

LIMIT = 64 << 20  # bytes of a file that is one document

READERS: dict[str, Callable[[str, str], Extract]] = {
    "text": lambda text, where: markdown.plain(text),
    "markdown": lambda text, where: markdown.markdown(text),
    "code": lambda text, where: code.python(text) if where.endswith((".py", ".pyi")) else code.code(text),
    "html": html.html,
    "notebook": notebook.notebook,
}


def load(path: Path, name: str) -> Iterator[Extract]:
    """The documents of a file that the index calls ``name``; none of an empty one.

    A record's ``source`` is its ``id``, or the name with its line or row; that of any other file is its name. Raises
    DataProblem for what cannot be read as its author meant it, ResourceProblem, MissingExtra.
    """
    suffix = (path.with_suffix("") if path.suffix.lower() in PACKED else path).suffix.lower()
    kind = SUFFIXES.get(suffix)
    if kind is None:
        yield from records(path, name)
        return
    if kind in READERS:
        text = _text(path)
        found = READERS[kind](text, str(path)) if text.strip() else Extract("", (), kind)
    else:
        found = office(path, kind)
    if found.text.strip():
        yield replace(found, source=name)


def records(path: Path, name: str) -> Iterator[Extract]:
    """The records of a file, each a document of Markdown or plain text. Raises DataProblem for others."""
    seen: Counter[str] = Counter()
    for where, record in read(path):
        one = example(where, record)
        if not isinstance(one, Document):
            what = f"a {type(one).__name__.lower()} is no document"
            raise DataProblem(what, where=where, remedy="an index holds texts: give records with the field text")
        given = record.get("id")
        source = str(given) if isinstance(given, str | int) and str(given).strip() else f"{name}:{_place(where)}"
        seen[source] += 1
        source += f"#{seen[source]}" if seen[source] > 1 else ""
        title = record.get("title")
        yield document(one.text, clean(source), clean(title) if isinstance(title, str) else "")


def document(text: str, source: str, title: str = "") -> Extract:
    """A text that came as a record; its title is its own first heading unless given."""
    found = markdown.markdown(clean(text))
    return replace(found, kind="record", source=source, title=title or found.title)


def _place(where: str) -> str:
    return where.rpartition(":")[2]


def _text(path: Path) -> str:
    """A file as text. Raises DataProblem for one that is binary, too long or not UTF-8."""
    if not path.is_file():
        raise ResourceProblem("is not a regular file", where=str(path), remedy="name a file")
    try:
        with path.open("rb") as raw:
            data = unpacked(path, raw).read(LIMIT + 1)
    except OSError as error:
        what = f"cannot be read: {brief(error.strerror or error)}"
        raise ResourceProblem(what, where=str(path), remedy="check its permissions and its disk") from error
    if len(data) > LIMIT:
        raise DataProblem(f"is longer than {LIMIT >> 20} MB", where=str(path), remedy="split it, or write records")
    if b"\0" in data:
        raise DataProblem("is binary, not text", where=str(path), remedy="leave it out, or save it as UTF-8 text")
    try:
        return clean(data.removeprefix(BOM).decode())
    except UnicodeDecodeError as error:
        what = f"byte {error.start} (0x{data[error.start]:02x}) is not valid UTF-8"
        raise DataProblem(what, where=str(path), remedy="save it as UTF-8") from None
