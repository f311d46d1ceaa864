"""A recipe file and overrides in, a ``Recipe`` out, or one line that names the file, the line and the remedy."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from didact.errors import UsageProblem
from didact.recipe import alias
from didact.recipe.complain import complaint, did_you_mean, near, show
from didact.recipe.learning import Learning
from didact.recipe.schema import KINDS, Recipe
from didact.recipe.stage import stage_names
from didact.recipe.tree import Spot, Tree, parse, read


@dataclass(frozen=True)
class Loaded:
    """A recipe, the translations of familiar names to say aloud, and the file it came from."""

    recipe: Recipe
    said: list[str]
    path: Path


def load(path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Reads a recipe; each of ``overrides`` is ``stage.key=value`` or ``key=value``, its value YAML.

    Raises UsageProblem for everything that is wrong with either, naming ``file:line`` or the override.
    """
    path = Path(path)
    tree = parse(read(path), str(path))
    if tree.data is None:
        raise UsageProblem("an empty recipe", where=str(path), remedy="it needs 'name', 'base' and 'stages'")
    if not isinstance(tree.data, dict):
        what = f"a recipe is a mapping, got {show(tree.data)}"
        raise UsageProblem(what, where=tree.place(()), remedy="start with 'name: ...'")
    said: list[str] = []
    for box, table in _boxes(tree):
        _translate(tree, box, table, said)
    _override(tree, overrides, said)
    try:
        return Loaded(Recipe.model_validate(tree.data), said, path)
    except ValidationError as error:
        raise complaint(error, tree) from None


def _stages(tree: Tree) -> Iterator[tuple[str, str, Spot]]:
    """Name, kind and spot of each stage that can be recognised; the rest is left to validation."""
    found = []
    items = tree.data.get("stages")
    for i, item in enumerate(items if isinstance(items, list) else []):
        if isinstance(item, dict) and len(item) == 1 and next(iter(item)) in KINDS:
            kind, body = next(iter(item.items()))
            name = body.get("name") if isinstance(body, dict) else None
            found.append((kind, name if isinstance(name, str) else "", ("stages", i, kind)))
    names = stage_names([(kind, name) for kind, name, _ in found])
    for name, (kind, _, spot) in zip(names, found, strict=True):
        yield name, kind, spot


def _table(kind: str) -> dict[str, alias.Meaning]:
    return alias.STAGE if issubclass(KINDS[kind], Learning) else {}


def _boxes(tree: Tree) -> list[tuple[Spot, dict[str, alias.Meaning]]]:
    """Each mapping in which familiar names are understood, with their table."""
    return [((), alias.RECIPE), *((spot, _table(kind)) for _, kind, spot in _stages(tree))]


def _translate(tree: Tree, box: Spot, table: dict[str, alias.Meaning], said: list[str]) -> None:
    """Replaces the familiar names in the mapping at ``box`` by ours."""
    given = tree.at(box)
    if not isinstance(given, dict):
        return
    old = [key for key in given if key in table]
    place = tree.place((*box, *old[:1]))
    try:
        found = alias.translations(table, given, {})
    except ValueError as error:
        raise UsageProblem(str(error), where=place) from None
    places = {key: tree.place((*box, key)) for key in old}
    _say(found, given, places, said)
    for key in old:
        tree.drop((*box, key))
    for translation in found:
        for name, value in translation.new.items():
            tree.put((*box, *name.split(".")), value, places[translation.old[0]])


def _say(found: list[alias.Translation], given: alias.Given, places: dict[str, str], said: list[str]) -> None:
    for t in found:
        old = ", ".join(f"{key}: {show(given[key])}" for key in t.old)
        new = ", ".join(f"{key}: {show(value)}" for key, value in t.new.items())
        said.append(f"{places[t.old[0]]}: {old} is read as {new}")


def _override(tree: Tree, overrides: Sequence[str], said: list[str]) -> None:
    """Applies overrides in order; names whose meaning depends on others wait until all others are set."""
    waiting: dict[Spot, dict[str, tuple[Any, str]]] = {}
    for text in overrides:
        place = f"--override {text[:100]!r}"
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageProblem("an override is key=value", where=place, remedy="as in finetune.learning_rate=1e-4")
        box, table, keys = _target(tree, key.strip(), place)
        parsed = parse(value, place, lines=False).data
        meaning = table.get(keys[0]) if keys else None
        if callable(meaning):
            waiting.setdefault(box, {})[keys[0]] = (parsed, place)
            continue
        if meaning:
            said.append(f"{place}: {keys[0]} is read as {meaning}")
            keys = (*meaning.split("."), *keys[1:])
        tree.put((*box, *keys), parsed, place)
    for box, given in waiting.items():
        _override_together(tree, box, given, said)


def _override_together(tree: Tree, box: Spot, given: dict[str, tuple[Any, str]], said: list[str]) -> None:
    values = {key: value for key, (value, _) in given.items()}
    places = {key: place for key, (_, place) in given.items()}
    beside = tree.at(box)
    try:
        found = alias.translations(alias.STAGE, values, beside if isinstance(beside, dict) else {})
    except ValueError as error:
        raise UsageProblem(str(error), where=next(iter(places.values()))) from None
    _say(found, values, places, said)
    for translation in found:
        for name, value in translation.new.items():
            tree.put((*box, *name.split(".")), value, places[translation.old[0]])


def _target(tree: Tree, key: str, place: str) -> tuple[Spot, dict[str, alias.Meaning], tuple[str, ...]]:
    """The mapping an override's key is in, the familiar names understood there, and the keys from there on."""
    stages = list(_stages(tree))
    indexed = re.match(r"stages\.(\d{1,9})(?:\.|$)", key)
    for name, kind, spot in stages:
        ways = (name, f"stages.{spot[1]}.{kind}", f"stages.{spot[1]}")
        way = next((way for way in ways if key == way or key.startswith(f"{way}.")), None)
        if way:
            return spot, _table(kind), tuple(key[len(way) + 1 :].split(".")) if key != way else ()
    first, *rest = key.split(".")
    if indexed or (first not in Recipe.model_fields and first not in alias.RECIPE):
        known = [*(name for name, _, _ in stages), *(name for name in Recipe.model_fields if name != "stages")]
        remedy = did_you_mean(near(first, known), f"there are {', '.join(known)}")
        raise UsageProblem(f"no stage or key {key[:60]!r}", where=place, remedy=remedy)
    return (), alias.RECIPE, (first, *rest)
