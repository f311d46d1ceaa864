"""Jupyter notebooks: the text and the code of the cells, without what running them printed."""

from typing import Any

import orjson

from didact.data.words import kind
from didact.errors import DataProblem
from didact.retrieve.extract import Block, Extract, Outline, clean, first_heading
from didact.retrieve.load.markdown import blocks


def notebook(raw: str, where: str) -> Extract:
    """Cells parted by a blank line; code stands under the headings of the Markdown above it."""
    try:
        book = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise DataProblem(f"not a notebook: {error.msg}", where=where, remedy="save it again") from None
    cells = book.get("cells") if isinstance(book, dict) else None
    if not isinstance(cells, list):
        raise DataProblem(
            f"not a notebook: {kind(book)} without a list of cells", where=where, remedy="convert it to version 4"
        )
    outline, found, parts, offset = Outline(), list[Block](), list[str](), 0
    for cell in cells:
        text = _source(cell)
        if not text.strip():
            continue
        if cell.get("cell_type") == "code":
            found.append(Block("code", outline.path, offset, offset + len(text)))
        else:
            found += blocks(text, outline, offset)
        parts.append(text)
        offset += len(text) + 2
    return Extract("\n\n".join(parts), tuple(found), "notebook", first_heading(found))


def _source(cell: Any) -> str:
    """A cell's text; nothing of what is no cell."""
    source = cell.get("source") if isinstance(cell, dict) else None
    source = "".join(line for line in source if isinstance(line, str)) if isinstance(source, list) else source
    return clean(source) if isinstance(source, str) else ""
