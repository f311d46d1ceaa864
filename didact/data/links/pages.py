"""Documents as places: each with a name, its text, and the names it points at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from didact.data.example import Document
from didact.data.files import Record, read
from didact.data.formats import example
from didact.data.settings import Graph
from didact.data.source import SourceExamples
from didact.data.words import brief, kind
from didact.errors import DataProblem, UsageProblem

HTML, MARKDOWN = (".html", ".htm"), (".md",)
CITED = ("links", "cites")  # fields of a record that hold the names it points at
NAMED = ("id", "url", "title")  # fields that name a record, the first that is there

CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
IMAGE = re.compile(r"!\[[^\]\n]*\]\([^)\n]*\)")
INLINE = re.compile(r"\[[^\]\n]*\]\(\s*<?([^)\s>]+)")  # [text](target "title")
REFERENCE = re.compile(r"^ {0,3}\[(?!\^)[^\]\n]+\]:\s*<?([^\s>]+)", re.MULTILINE)  # [name]: target
TAG = re.compile(r"<a\s[^>]*\bhref=[\"']([^\"']*)")
WIKI = re.compile(r"\[\[([^\[\]|#<>\n]+)(?:#[^\[\]|\n]*)?(?:\|[^\[\]\n]*)?\]\]")  # [[Title#Section|text]]
NOT_A_PAGE = re.compile(r"(?:file|image|category|media):", re.IGNORECASE)


@dataclass(frozen=True)
class Page:
    """A document with its ``name`` (a path below the common folder, or a record's id), its ``title`` in a wiki's links,
    and ``links``: names as they are pointed at, whether or not a page has them; ``outside`` counts those elsewhere.
    ``places`` says where in the text each link stands; it is empty where that is not known.
    """

    where: str
    name: str
    title: str
    text: str
    links: tuple[str, ...]
    outside: int = 0
    places: tuple[int, ...] = ()


def pages(source: SourceExamples, graph: Graph) -> Iterator[Page]:
    """The documents of a source, each with the links that ``graph`` looks for; ``auto`` goes by each document's kind.

    HTML has hyperlinks, Markdown its own links and a wiki's, a record with ``links`` or ``cites`` these, and any other
    text a wiki's. Raises UsageProblem for a part of a source, DataProblem for what is no document.
    """
    if not source.files or source.source.sample is not None or source.source.weight != 1:
        what = "links are read from files" if not source.files else "links are read from whole sources"
        raise UsageProblem(what, where=source.source.path, remedy="name files, without a sample or a weight")
    base = Path(commonpath([file.absolute().parent for file in source.files]))
    for file in source.files:
        name = file.absolute().relative_to(base)
        for record in read(file):
            yield _page(record, name, graph)


def _page(record: Record, file: Path, graph: Graph) -> Page:
    where, fields = record
    document = example(where, fields)
    if not isinstance(document, Document):
        raise DataProblem("no document, but an example to answer", where=where, remedy="links need documents of text")
    told = next((field for field in NAMED if field in fields), None)
    name = str(fields[told]) if told else file.as_posix() if where.endswith(":1") else where
    title = str(fields.get("title") or (name if told else file.stem))
    if file.suffix.lower() in HTML and graph in ("html", "auto"):
        led = [(resolved(name, [target]), at) for target, at in fields["links"]]
        links = tuple(to for (near, _), _ in led for to in near)
        places = tuple(at for (near, _), at in led for _ in near)
        return Page(where, name, title, document.text, links, sum(count for (_, count), _ in led), places)
    found = _found(graph, where, fields, file.suffix.lower(), document.text)
    if isinstance(found, tuple):  # names, not targets seen from here
        places = tuple(fields.get("places", ())) if graph in ("citations", "auto") else ()
        if places and (len(places) != len(found) or not all(isinstance(place, int) for place in places)):
            what = f"places is {brief(list(places), 40)}, beside {len(found)} links"
            raise DataProblem(what, where=where, remedy="give one whole number a link, or leave it out")
        return Page(where, name, title, document.text, found, 0, places)
    near, outside = resolved(name, found)
    wiki = titles(document.text) if graph == "auto" and file.suffix.lower() in MARKDOWN else ()
    return Page(where, name, title, document.text, (*near, *wiki), outside)


def _found(graph: Graph, where: str, fields: Mapping[str, Any], suffix: str, text: str) -> tuple[str, ...] | list[str]:
    """A tuple of names, or a list of targets relative to the document."""
    if graph == "neighbours":
        return ()
    if graph == "html":
        return TAG.findall(text)
    if graph == "citations" or (graph == "auto" and any(field in fields for field in CITED)):
        return tuple(name for field in CITED for name in cited(where, field, fields.get(field, [])))
    if graph == "markdown" or (graph == "auto" and suffix in MARKDOWN):
        return markdown(text)
    return titles(text)


def cited(where: str, field: str, value: Any) -> list[str]:
    """The names in a record's field. Raises DataProblem for anything but a list of text and whole numbers."""
    if not isinstance(value, list) or not all(isinstance(name, str | int) for name in value):
        what = f"{field} is {kind(value) if not isinstance(value, list) else brief(value, 40)}"
        raise DataProblem(what, where=where, remedy="wanted a list of ids")
    return [str(name) for name in value]


def markdown(text: str) -> list[str]:
    """The targets of a text's links, images and code left out."""
    plain = IMAGE.sub("", CODE.sub("", text))
    return [*INLINE.findall(plain), *REFERENCE.findall(plain), *TAG.findall(plain)]


def titles(text: str) -> tuple[str, ...]:
    """The titles a wiki's links name."""
    found = (title.strip() for title in WIKI.findall(CODE.sub("", text)))
    return tuple(title for title in found if title and not NOT_A_PAGE.match(title))


def resolved(name: str, targets: Sequence[str]) -> tuple[list[str], int]:
    """Places seen from the page ``name``, as names without anchors; and how many are on other sites or no pages."""
    near, outside, site = [], 0, urlsplit(name)[:2]
    for target in targets:
        try:
            place = urlsplit(urldefrag(urljoin(name, target.strip())).url)
        except ValueError:  # not a URL
            place = None
        if place is None or place[:2] != site:
            outside += 1
        elif place.path and not target.startswith("#"):
            whole = place._replace(path=unquote(place.path), query="").geturl()
            near.append(whole if site[1] else whole.lstrip("/"))
    return near, outside
