"""YAML as plain values that remember where each was written.

A recipe may come from anywhere, so its text is bounded before it is believed: bytes, nesting, and
what aliases expand to. Values are made from ruamel's node graph by YAML 1.2's rules.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from didact.errors import UsageProblem

BYTES = 64 * 1024
DEPTH = 32
CHARACTERS = 250_000  # after aliases are expanded, one more for each value

NOT_TEXT = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Spot = tuple[str | int, ...]


@dataclass
class Tree:
    """``data`` of plain dicts, lists and scalars, and for each path into it the place it came from."""

    data: Any
    places: dict[Spot, str]

    def place(self, spot: Spot) -> str:
        """Where the value at ``spot`` was written, or else what it stands in."""
        return next(self.places[spot[:n]] for n in range(len(spot), -1, -1) if spot[:n] in self.places)

    def find(self, loc: Spot) -> Spot:
        """The parts of ``loc`` that are in the data: a validator's path also names what a short form left unsaid."""
        found, here = [], self.data
        for part in loc:
            if (isinstance(here, dict) and part in here) or (
                isinstance(here, list) and isinstance(part, int) and 0 <= part < len(here)
            ):
                found.append(part)
                here = here[part]
        return tuple(found)

    def drop(self, spot: Spot) -> None:
        """Forgets the value at ``spot``, which ends in a key."""
        del self.at(spot[:-1])[spot[-1]]
        self.places = {other: place for other, place in self.places.items() if other[: len(spot)] != spot}

    def at(self, spot: Spot) -> Any:
        """The value at ``spot``."""
        here = self.data
        for part in spot:
            here = here[part]
        return here

    def put(self, spot: Spot, value: Any, place: str) -> None:
        """Sets the value at ``spot``, making mappings on the way; ``tune: lora`` gives way to ``tune: {lora: {}}``."""
        here, done = self.data, ()
        for part, following in zip(spot, (*spot[1:], None), strict=True):
            if not isinstance(here, dict | list):
                what = f"cannot set {_dotted(spot)!r}: {_dotted(done)!r} is {str(here)[:60]!r} here"
                raise UsageProblem(what, where=place, remedy=f"set {_dotted(done)!r} as a whole")
            key: Any = _index(here, part, done, place) if isinstance(here, list) else part
            done = (*done, key)
            below = here.get(key) if isinstance(here, dict) else here[key]
            if following is None:
                self.places = {other: old for other, old in self.places.items() if other[: len(done)] != done}
                here[key] = value
                self.places[done] = place
            elif below is None or below == following:
                here[key] = {} if below is None else {below: {}}
                self.places.setdefault(done, place)
            here = here[key]


def _index(here: list, part: str | int, above: Spot, place: str) -> int:
    if re.fullmatch(r"\d{1,9}", str(part)) and int(part) < len(here):
        return int(part)
    what = f"{part!r} is no place in the list {_dotted(above)!r}"
    raise UsageProblem(what, where=place, remedy=f"it has {len(here)} entries, counted from 0")


def _dotted(spot: Spot) -> str:
    """As an override would say it."""
    return ".".join(map(str, spot[2:] if spot[:1] == ("stages",) and len(spot) > 2 else spot))


def read(path: Path) -> str:
    """The text of a recipe file; says what is wrong with a file that cannot be one."""
    where = str(path)
    if not path.exists():
        raise UsageProblem("no such recipe", where=where, remedy="give the path of a YAML file")
    if not path.is_file():
        raise UsageProblem("a recipe is a file, and this is not", where=where, remedy="give the path of a YAML file")
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES + 1)
    except PermissionError:
        raise UsageProblem("may not be read", where=where, remedy="mend its permissions") from None
    if len(raw) > BYTES:
        raise UsageProblem(f"larger than {BYTES // 1024} KiB, too large for a recipe", where=where)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageProblem("not UTF-8 text", where=f"{where}:{line}", remedy="a recipe is a YAML text file") from None
    return text


def parse(text: str, where: str, lines: bool = True) -> Tree:
    """The values in YAML ``text``; ``where`` is the file's name, or all there is to say of the place without ``lines``.

    Raises UsageProblem with the line of: control characters, a syntax error, a duplicate key, a tag, a merge key,
    a key that is no word, too deep nesting, too much in all.
    """
    here = _Where(where, lines)
    if stray := NOT_TEXT.search(text):
        line = here.line(text.count("\n", 0, stray.start()) + 1)
        raise UsageProblem("not text: it has control characters", where=line, remedy="a recipe is a YAML text file")
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = DEPTH
    yaml.composer.warn_double_anchors = False
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        unclosed = "stream" in str(error.problem)  # found at the end; to be mended where it was opened
        mark = (unclosed and error.context_mark) or error.problem_mark
        last = text.rstrip().count("\n")
        raise _syntax(str(error.problem), here.line(min(mark.line, last) + 1 if mark else 1)) from None
    except (YAMLError, ValueError) as error:  # ValueError: an escape beyond Unicode, as in "\U00110000"
        raise _syntax(str(error).splitlines()[0], here.line(1)) from None
    builder = _Builder(here)
    data = None if node is None else builder.value(node, ())
    return Tree(data, {(): here.line(1)} | builder.places)


REMEDIES = {
    "'\\t'": "indent with spaces, not tabs",
    "mapping values are not allowed": "put text that contains ': ' in quotes",
    "another document": "a file holds one recipe; remove the second '---'",
    "maximum depth": f"at most {DEPTH} levels are read",
    "undefined alias": "put text that starts with '*' in quotes",
    "stream end": "close the bracket or quote",
    "end of stream": "close the bracket or quote",
}


def _syntax(problem: str, where: str) -> UsageProblem:
    remedy = next((remedy for part, remedy in REMEDIES.items() if part in problem), "see this line and the one before")
    return UsageProblem(f"not YAML: {problem.split(', if necessary')[0]}", where=where, remedy=remedy)


@dataclass(frozen=True)
class _Where:
    name: str
    lines: bool

    def line(self, n: int) -> str:
        return f"{self.name}:{n}" if self.lines else self.name


class _Builder:
    """Walks a node graph once along every path, within a budget: an alias bomb is small only as a graph."""

    def __init__(self, where: _Where):
        self.where, self.left, self.places = where, CHARACTERS, {}

    def value(self, node: Node, spot: Spot) -> Any:
        place = self.where.line(node.start_mark.line + 1)
        self.places.setdefault(spot, place)
        self.left -= 1 + (len(node.value) if isinstance(node, ScalarNode) else 0)
        if self.left < 0:
            raise UsageProblem("too much for a recipe once its aliases are expanded", where=place)
        if len(spot) > DEPTH:
            raise UsageProblem(f"nested deeper than {DEPTH} levels", where=place, remedy="an alias may hold itself")
        if isinstance(node, ScalarNode):
            return _scalar(node, place)
        _check_tag(node, ("map", "seq"), place)
        if isinstance(node, MappingNode):
            return self._mapping(node, spot)
        return [self.value(child, (*spot, i)) for i, child in enumerate(node.value)]

    def _mapping(self, node: MappingNode, spot: Spot) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, child in node.value:
            place = self.where.line(key.start_mark.line + 1)
            if not isinstance(key, ScalarNode):
                raise UsageProblem("a key must be a word", where=place, remedy="put text in braces in quotes")
            if str(key.tag).endswith(":merge"):
                raise UsageProblem("'<<' is no part of YAML 1.2", where=place, remedy="write the keys out")
            word = str(_text(key.value, place))
            if word in data:
                first = self.places[*spot, word].rpartition(":")[2]
                remedy = f"it is already on line {first}" if self.where.lines else "give it once"
                raise UsageProblem(f"key {word[:80]!r} is there twice", where=place, remedy=remedy)
            self.places[*spot, word] = place
            data[word] = self.value(child, (*spot, word))
        return data


def _check_tag(node: Node, known: tuple[str, ...], place: str) -> str:
    tag = str(node.tag).rpartition(":")[2]
    if not str(node.tag).startswith("tag:yaml.org,2002:") or tag not in known:
        raise UsageProblem(
            f"the tag {str(node.tag)[:80]!r} has no meaning in a recipe", where=place, remedy="remove it"
        )
    return tag


def _text(text: str, place: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise UsageProblem("half of a surrogate pair is no text", where=place, remedy="write the character itself")
    return text


def _scalar(node: ScalarNode, place: str) -> Any:
    tag = _check_tag(node, ("str", "null", "bool", "int", "float", "timestamp", "value", "merge"), place)
    text = _text(node.value, place)
    plain = text.replace("_", "").lower()
    if tag == "null":
        return None
    if tag == "bool" and plain in ("true", "false"):
        return plain == "true"
    try:
        if tag == "int":
            return int(plain, 0) if plain.lstrip("+-")[:2] in ("0x", "0o", "0b") else int(plain)
        if tag == "float":
            return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        raise UsageProblem(f"{text[:40]!r} is no number that can be read", where=place) from None
    return text
