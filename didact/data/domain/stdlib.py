"""The domain ``python-stdlib``: the documentation inside the Python that is running, as documents and questions."""

import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from didact.data.domain.pairs import asked_of, described
from didact.data.domain.prose import Thing, is_prose, joined, predicate, sentences, shortened, thing
from didact.data.domain.questions import about_topic, contents, place, questions
from didact.data.domain.writing import Line, held_out, publish
from didact.errors import DataProblem, UsageProblem

PATIENCE = 300  # seconds for a listing that takes one
NEEDED = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # what an interpreter may need to start
PINNED = "os.path.join"  # always trained, whatever the seed: the quickstart asks the raised model about it
SHARED = 60  # characters from which a paragraph that two objects share ties them to one side of the split


@dataclass(frozen=True)
class Page:
    """One object or topic with its document and questions, all on one side of the split."""

    id: str
    body: str
    document: Line
    questions: tuple[Line, ...]
    pair: Line | None = None


def python_stdlib(folder: Path, holdout: float, seed: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the domain into ``folder`` and returns its provenance.

    ``documents.jsonl``, ``questions.jsonl``, ``pairs.jsonl`` (what an object does, and the rest of its page) and
    ``asked.jsonl`` (a question, and the page that answers it) hold the trained objects, ``*.heldout.jsonl`` the share
    ``holdout`` of objects (``os.path.join`` never among them) of which the training files hold neither document nor
    question nor docstring. ``only`` keeps the pages of those modules, split as they are in the whole. The bytes are a
    pure function of (Python installation, holdout, seed, only). Raises UsageProblem for a module without a page.
    """
    things = distinct(inventory())
    topics = language_reference()
    bodies = {each.id: each.body for each in things} | topics
    apart = split(bodies, holdout, seed)
    pages = chosen([*object_pages(things, apart, seed), *topic_pages(topics, seed)], only)
    files: dict[str, list[Line]] = {}
    for suffix, wanted in (("", False), (".heldout", True)):
        side = [page for page in pages if (page.id in apart) is wanted]
        files[f"documents{suffix}.jsonl"] = [page.document for page in side]
        files[f"questions{suffix}.jsonl"] = [line for page in side for line in page.questions]
        files[f"pairs{suffix}.jsonl"] = [page.pair for page in side if page.pair]
        files[f"asked{suffix}.jsonl"] = [asked_of(line, page.document) for page in side for line in page.questions]
    facts = {
        "domain": "python-stdlib",
        "source": f"docstrings and pydoc topics of Python {sys.version.split()[0]} on {sys.platform}",
        "python": sys.version.split()[0],
        "licence": "PSF-2.0",
        "seed": seed,
        "holdout": holdout,
        "only": list(only),
        "pinned to training": PINNED,
        "kinds": dict(sorted(Counter(each.kind for each in things).items())) | {"topic": len(topics)},
    }
    return publish(folder, files, facts)


def chosen(pages: list[Page], only: Sequence[str]) -> list[Page]:
    """The pages of the named modules and of what is in them; all pages when none is named."""
    for name in only:
        if not any(page.id == name or page.id.startswith(f"{name}.") for page in pages):
            raise UsageProblem(
                f"the standard library has no documented {name!r}", remedy="name a module such as os.path"
            )
    return [page for page in pages if not only or any(page.id == n or page.id.startswith(f"{n}.") for n in only)]


def inventory() -> list[dict[str, str]]:
    """The documented objects, listed by a child process without site packages or the user's environment."""
    listing = Path(__file__).with_name("inventory.py")
    clean = {key: os.environ[key] for key in NEEDED if key in os.environ}
    command = [sys.executable, "-P", "-s", "-S", "-X", "utf8", str(listing)]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=PATIENCE, check=True, env=clean | {"PYTHONHASHSEED": "0"}
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise DataProblem(
            f"this Python could not list its own standard library ({type(error).__name__})",
            where=sys.executable,
            remedy=f"run `{' '.join(command)}` to see why",
        ) from error
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def distinct(entries: list[dict[str, str]]) -> list[Thing]:
    """The objects that say something, each docstring once, under the shortest name that carries it."""
    found = filter(None, map(thing, entries))
    kept: dict[str, Thing] = {}
    for each in sorted(found, key=lambda each: (each.id != PINNED, each.id.count("."), len(each.id), each.id)):
        kept.setdefault(plain(each.body), each)
    return sorted(kept.values(), key=lambda each: each.id)


def plain(text: str) -> str:
    """Text without its markup, headings and line breaks, for comparing."""
    return " ".join(re.sub(r"[`*#=~^+\"-]+", " ", text).split()).lower()


def language_reference() -> dict[str, str]:
    """The topics of the language reference as Markdown, by id; a topic that another one contains is left out."""
    from pydoc_data.topics import topics  # type: ignore[import-not-found]

    pages = {f"topic:{name}": headed(text) for name, text in sorted(topics.items())}
    bare = {name: plain(text) for name, text in pages.items()}
    order = sorted(bare, key=lambda name: (-len(bare[name]), name))
    kept: list[str] = []
    for name in order:
        if not any(bare[name] in bare[other] for other in kept):
            kept.append(name)
    return {name: pages[name] for name in sorted(kept)}


def headed(text: str) -> str:
    """Underlined headings as Markdown headings."""
    for depth, rule in enumerate("*=-~^", start=1):
        text = re.sub(rf"^(.+)\n{re.escape(rule)}{{3,}}$", rf"{'#' * depth} \1", text, flags=re.MULTILINE)
    return text.strip()


def split(bodies: Mapping[str, str], holdout: float, seed: int) -> set[str]:
    """The ids held out: by hash of (seed, id), those that share a paragraph together, the pinned one never."""
    groups = tied(bodies)
    kept_back = {
        name for name, leader in groups.items() if leader != groups[PINNED] and held_out(leader, seed, holdout)
    }
    said = {name: spoken(body) for name, body in bodies.items()}
    while True:  # what a training document or answer quotes is trained, so its object is too
        trained = "\n".join(form for name in bodies if name not in kept_back for form in said[name])
        quoted = {name for name in kept_back if any(form in trained for form in said[name])}
        if not quoted:
            return kept_back
        kept_back -= quoted


def spoken(body: str) -> tuple[str, ...]:
    """The bare words of a docstring, as written (``Return it``) and as an answer says it (``returns it``)."""
    forms = (body, predicate(joined(body)))
    return tuple(" ".join(re.findall(r"\w+", form)).lower() for form in forms if form)


def tied(bodies: Mapping[str, str]) -> dict[str, str]:
    """For every id the first id of its group; sharing the first sentence or a longer paragraph ties two together."""
    leader = {name: name for name in bodies}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    first: dict[str, str] = {}
    for name, body in sorted(bodies.items()):
        paragraphs = [plain(each) for each in re.split(r"\n\s*\n", body)]
        marks = {each for each in paragraphs if len(each) >= SHARED} | {opening(body)}
        for mark in sorted(marks):
            one, other = sorted((find(name), find(first.setdefault(mark, name))))
            leader[other] = one
    return {name: find(name) for name in bodies}


def opening(body: str) -> str:
    """The first sentence, for comparing."""
    return plain(next(sentences(joined(re.split(r"\n\s*\n", body)[0])), ""))


def object_pages(things: list[Thing], apart: set[str], seed: int) -> Iterator[Page]:
    """One page an object; a module and a class list the members of their own side only."""
    openings = Counter(opening(each.body) for each in things)
    members: dict[str, list[Thing]] = defaultdict(list)
    for each in things:
        members[each.owner or "builtins"].append(each)
    for each in things:
        inside = [one for one in members[each.id] if (one.id in apart) is (each.id in apart) and one.kind != "module"]
        alone = openings[opening(each.body)] == 1
        asked, pair = list(questions(each, seed, alone)), described(each, place(each)) if alone else None
        offered = contents(each, inside, seed) if each.kind == "module" else None
        lines = [*asked, offered] if offered else asked
        yield Page(each.id, each.body, {"text": document(each, inside), "id": each.id}, tuple(lines), pair)


def document(each: Thing, members: list[Thing]) -> str:
    """The Markdown page of one object."""
    parts = [f"# {each.id}"]
    parts += [f"```python\n{each.call}\n```"] if each.call else []
    here = place(each)
    parts += [f"{here[0].upper()}{here[1:]}.", each.body]
    if members:
        lines = [f"- `{one.call or one.id}`: {one.answer[0]}" for one in members]
        parts.append("\n".join(["## Members", "", *lines]))
    return "\n\n".join(parts) + "\n"


def topic_pages(topics: Mapping[str, str], seed: int) -> Iterator[Page]:
    """One page a topic, with a question where its text opens with sentences."""
    for name, body in topics.items():
        heading, _, text = body.partition("\n")
        title = quoted_as_code(heading.removeprefix("# ").lower()).replace("python", "Python")
        title = re.sub(r"^(?=[a-z ]+ (?:expression|model|syntax|precedence)$)", "the ", title)
        said = shortened("\n\n".join(islice(opening_prose(text), 2)))
        answer = [each for each in said if not each.startswith("The syntax ")]
        asked = (about_topic(title, answer, name, seed),) if len(" ".join(answer).split()) >= 12 else ()
        yield Page(name, body, {"text": f"{body}\n", "id": name}, asked)


def opening_prose(text: str) -> Iterator[str]:
    """The paragraphs of a topic that are sentences; the first may announce what follows with a colon."""
    started = False
    for paragraph in re.split(r"\n\s*\n", text):
        told = quoted_as_code(paragraph.strip("\n"))
        told = told if started else re.sub(":$", ".", told)
        announces = re.search(r"following\s+(?:lexical|table)", told) is not None
        if told.strip() and not announces and is_prose(told.replace("`", "A", 1) if told.startswith("`") else told):
            started = True
            yield told


def quoted_as_code(text: str) -> str:
    """The reference's plain text quotes code as ``"code"`` and terms as ``*term*``."""
    return re.sub(r"(?<!\w)\*([^*]{1,60})\*(?!\w)", r"\1", re.sub(r'"([^"\n]{1,60})"', r"`\1`", text))
