"""PDF and DOCX, read in a process of their own, whose memory and time are bounded: ``office`` starts it.

Says on stdout, as JSON, the document, or ``problem`` and ``remedy``, or the package that is ``missing``.
"""

import json
import resource
import zipfile
from collections.abc import Iterator
from typing import Any

from didact.retrieve.extract import Block, Extract, Outline, clean, paragraphs

MEMORY = 768 << 20  # bytes of address space
SECONDS = 120  # of computing
UNPACKED = 400 << 20  # bytes that a DOCX may say it holds


class Unreadable(Exception):
    """What is wrong with the file, and the remedy."""


def main(kind: str, path: str) -> None:
    """Reads one file and prints what it found."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    try:
        found = {"pdf": pdf, "docx": docx}[kind](path)
        said: dict[str, Any] = {**vars(found), "blocks": [list(vars(block).values()) for block in found.blocks]}
    except Unreadable as error:
        said = dict(zip(("problem", "remedy"), error.args, strict=True))
    except ModuleNotFoundError as error:
        said = {"missing": error.name}
    except MemoryError:
        said = {"problem": f"takes more than {MEMORY >> 20} MB of memory to read", "remedy": "split it"}
    except Exception as error:  # the parsers raise whatever a broken file makes them stumble on
        what = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        said = {"problem": f"cannot be read ({what})", "remedy": "open and save it again"}
    print(json.dumps(said))


def pdf(path: str) -> Extract:
    """The text of each page under ``page N`` and the bookmark it stands under."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    reader = PdfReader(path)
    try:
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("is encrypted", "save it without a password")
        marks = dict(_bookmarks(reader, reader.outline))
        texts = [clean(page.extract_text()).strip() for page in reader.pages]
        title = (reader.metadata.title if reader.metadata else "") or ""
    except (DependencyError, FileNotDecryptedError):
        raise Unreadable("is encrypted", "save it without a password") from None
    if texts and not any(texts):
        raise Unreadable(f"has {len(texts)} pages and no text, so it is scanned", "run it through OCR")
    blocks, offset, above = list[Block](), 0, ""
    for number, text in enumerate(texts):
        above = marks.get(number, above)
        blocks += paragraphs(text, (*([above] if above else []), f"page {number + 1}"), start=offset)
        offset += len(text) + 2
    empty = sum(not text for text in texts)
    note = f"{empty} of {len(texts)} pages have no text; they may be scanned" if empty else ""
    return Extract("\n\n".join(texts), tuple(blocks), "pdf", clean(str(title)).strip(), note=note)


def _bookmarks(reader: Any, entries: list[Any]) -> Iterator[tuple[int, str]]:
    """The pages that outermost bookmarks lead to, with their titles."""
    for entry in entries:
        if not isinstance(entry, list):
            page = reader.get_destination_page_number(entry)
            if page is not None:
                yield page, " ".join(clean(str(entry.title)).split())


def docx(path: str) -> Extract:
    """Paragraphs, headings and the rows of tables, in their order."""
    from docx import Document
    from docx.opc.exceptions import PackageNotFoundError
    from docx.table import Table

    if not zipfile.is_zipfile(path):
        raise Unreadable("is no DOCX file, or encrypted", "open it and save it as .docx without a password")
    with zipfile.ZipFile(path) as packed:
        if (size := sum(entry.file_size for entry in packed.infolist())) > UNPACKED:
            raise Unreadable(f"unpacks to {size >> 20:,} MB", "leave it out, or remove its pictures")
    try:
        document = Document(path)
    except (PackageNotFoundError, KeyError, zipfile.BadZipFile):
        raise Unreadable("is no DOCX file", "open it and save it as .docx") from None
    outline, blocks, parts, offset, named = Outline(), list[Block](), list[str](), 0, ""
    for item in document.iter_inner_content():
        if isinstance(item, Table):
            level, text = 0, "\n".join(" | ".join(cell.text.strip() for cell in row.cells) for row in item.rows)
        else:
            level, text = _level(item.style.name if item.style else ""), item.text
        text = clean(text).strip()
        if not text:
            continue
        end = offset + len(text)
        if level:
            line = " ".join(text.split())
            named = named or line
            blocks.append(Block("heading", outline.heading(level, line), offset, end))
        else:
            blocks.append(Block("paragraph", outline.path, offset, end))
        parts.append(text)
        offset = end + 2
    title = clean(document.core_properties.title or "").strip()
    return Extract("\n\n".join(parts), tuple(blocks), "docx", title or named)


def _level(style: str | None) -> int:
    """How deep a heading is, 0 for what is none."""
    name, _, number = (style or "").rpartition(" ")
    return 1 if style == "Title" else int(number) if name.lower() == "heading" and number.isdecimal() else 0
