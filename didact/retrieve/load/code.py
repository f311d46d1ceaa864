"""Source code: Python by its definitions, other languages by the blank lines between their parts."""

import ast
from collections.abc import Iterator
from itertools import pairwise

from didact.retrieve.extract import Block, Extract, lines, paragraphs

PARSED = 2_000_000  # characters of Python that are parsed; the tree of a longer file would be too large
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def code(text: str) -> Extract:
    """Blocks of lines that blank lines part."""
    return Extract(text, tuple(paragraphs(text, kind="code")), "code")


def python(text: str) -> Extract:
    """A block a function, method or class head, under the names of what it stands in; what lies between by itself.

    Text that is not the Python of this interpreter is cut as any other language.
    """
    if len(text) > PARSED:
        return code(text)
    rows = list(lines(text))
    try:
        starts = dict(_starts(ast.parse(text), (), [line for _, _, line in rows]))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code(text)
    found, paths = list[Block](), list[tuple[tuple[str, ...], int]]()  # definitions still open, and their last row
    edges = sorted({*starts, *(last for _, last in starts.values()), 0, len(rows)})
    for first, last in pairwise(edges):
        paths = [each for each in paths if each[1] > first]
        if first in starts:
            paths.append(starts[first])
        path = paths[-1][0] if paths else ()
        begin, end = rows[first][0], rows[last - 1][1]
        if text[begin:end].strip():
            found += [Block("code", path, begin, end)] if path else paragraphs(text[begin:end], (), "code", begin)
    return Extract(text, tuple(found), "code")


def _starts(
    node: ast.AST, above: tuple[str, ...], rows: list[str]
) -> Iterator[tuple[int, tuple[tuple[str, ...], int]]]:
    """Of every function and class outside functions: its first row, with decorators and the comments above it, its
    path, and the row behind it.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINITIONS):
            first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)]) - 1
            while first > 0 and rows[first - 1].lstrip().startswith("#"):
                first -= 1
            path = (*above, child.name)
            yield first, (path, child.end_lineno or child.lineno)
            if isinstance(child, ast.ClassDef):
                yield from _starts(child, path, rows)
        elif not isinstance(child, ast.expr):
            yield from _starts(child, above, rows)
