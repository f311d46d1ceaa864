"""Built-in domains: real documents, and questions with answers, that need nobody's hub."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from didact.data.domain.arithmetic import arithmetic
from didact.data.domain.boolq import boolq
from didact.data.domain.demo_pairs import demo_pairs
from didact.data.domain.gutenberg import gutenberg
from didact.data.domain.labelled import labelled
from didact.data.domain.npm import npm_docs
from didact.data.domain.stdlib import python_stdlib
from didact.data.fetch import cache_dir, fetch
from didact.errors import UsageProblem

Say = Callable[[str], None]
# (folder, holdout, seed, say, only) -> provenance: writes documents.jsonl and its like into folder.
Domain = Callable[[Path, float, int, Say, Sequence[str]], dict[str, Any]]


def build_python_stdlib(folder: Path, holdout: float, seed: int, say: Say, only: Sequence[str]) -> dict[str, Any]:
    """The documentation inside the running Python; needs no download."""
    say("python-stdlib: the documentation inside this Python, PSF-2.0")
    return python_stdlib(folder, holdout, seed, only)


def build_gutenberg(folder: Path, holdout: float, seed: int, say: Say, only: Sequence[str]) -> dict[str, Any]:
    """Eighteen books, fetched into the user's cache once."""
    _whole("gutenberg", only)
    return gutenberg(folder, holdout, seed, fetch("gutenberg", cache_dir(), say))


def build_npm_docs(folder: Path, holdout: float, seed: int, say: Say, only: Sequence[str]) -> dict[str, Any]:
    """A manual of pages that link to each other, fetched into the user's cache once."""
    _whole("npm-docs", only)
    return npm_docs(folder, holdout, seed, fetch("npm-docs", cache_dir(), say))


def build_boolq(folder: Path, holdout: float, seed: int, say: Say, only: Sequence[str]) -> dict[str, Any]:
    """Questions answered by a passage, fetched into the user's cache once."""
    _whole("boolq", only)
    return boolq(folder, holdout, seed, fetch("boolq", cache_dir(), say))


def build_demo_pairs(folder: Path, holdout: float, seed: int, say: Say, only: Sequence[str]) -> dict[str, Any]:
    """Prompts with a better and a worse answer, fetched into the user's cache once."""
    _whole("demo-pairs", only)
    return demo_pairs(folder, holdout, seed, fetch("demo-pairs", cache_dir(), say))


def _whole(name: str, only: Sequence[str]) -> None:
    if only:
        raise UsageProblem(f"the domain {name!r} has no parts to choose from", remedy="leave 'only' out")


def build_labelled(folder: Path, holdout: float, seed: int, say: Say, only: Sequence[str]) -> dict[str, Any]:
    """Five classifications, four out of the running Python and one fetched into the user's cache once."""
    _whole("labelled", only)
    return labelled(folder, next(fetch("vader", cache_dir(), say).rglob("vader_lexicon.txt")))


def build_arithmetic(folder: Path, holdout: float, seed: int, say: Say, only: Sequence[str]) -> dict[str, Any]:
    """Sums of two numbers; needs no download."""
    _whole("arithmetic", only)
    return arithmetic(folder, holdout, seed)


DOMAINS: Mapping[str, Domain] = {
    "python-stdlib": build_python_stdlib,
    "gutenberg": build_gutenberg,
    "boolq": build_boolq,
    "demo-pairs": build_demo_pairs,
    "npm-docs": build_npm_docs,
    "labelled": build_labelled,
    "arithmetic": build_arithmetic,
}


def build(name: str, folder: Path, holdout: float, seed: int, say: Say, only: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the domain ``name`` into ``folder``, the share ``holdout`` of it held out, and returns its provenance.

    The files: ``documents.jsonl``, ``documents.heldout.jsonl``, where the domain has questions ``questions.jsonl`` and
    ``questions.heldout.jsonl``, and ``provenance.json``. The same arguments give the same bytes.
    ``only`` keeps the parts of those names (modules of the standard library); what is held out stays the same.
    """
    if name not in DOMAINS:
        raise UsageProblem(f"there is no domain '{name}'", remedy=f"choose one of {', '.join(DOMAINS)}")
    if not 0 <= holdout < 1:
        raise UsageProblem(f"holdout is {holdout}", remedy="give a share from 0 up to, not including, 1")
    return DOMAINS[name](folder, holdout, seed, say, only)
