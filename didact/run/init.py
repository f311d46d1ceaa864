"""``didact init``: a starter recipe for the documents in a folder, with what each line means beside it."""

import json
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from didact.data.example import Answers, Conversation, Document, Example
from didact.data.files import known, read
from didact.data.formats import parse
from didact.errors import DataProblem, ResourceProblem, UsageProblem

RECIPE = Path("recipe.yaml")
PLAIN = {".txt", ".md", ".html", ".htm"}
OWN = {"runs", "node_modules"}  # what lies beside documents and is none
FEW = 4  # files named one by one

HEAD = """\
# The life of a model: what it starts from, and its stages in order.
#   didact inspect {recipe}   shows what would be trained, before anything is
#   didact doctor {recipe}    checks this machine, and the method on your own data
#   didact run {recipe}       runs it; what is finished is skipped, what was stopped goes on
# A value can also be given for one run: didact run {recipe} {stage}.learning_rate=5e-5
name: {name}
base: smollm2-135m-instruct  # also: a folder, a .gguf file, a hub id
stages:
"""
PRETRAIN = """\
  - pretrain:  # reads documents; every token is trained
      data: {data}
      # heldout: held-out/        # documents never trained on: shows whether the model learned more than these
      epochs: 1  # also: tokens: 1M, max_steps: 200; the first reached ends the stage
      context: 1024  # tokens in a row; longer documents are cut into windows
      batch_size: 4  # rows in a step
      learning_rate: 1e-4
      # tune: {{lora: {{rank: 16}}}}  # trains small matrices beside the weights: less memory
"""
FINETUNE = """\
  - finetune:  # learns answers; only what the assistant says is trained
      data: {data}
      epochs: 2
      context: 1024  # longer conversations are left out
      batch_size: 4
      tune: {{lora: {{rank: 16}}}}  # without this line every weight is trained
"""
EVALUATE = """\
  - evaluate:  # asks the model before and after
      samples: {samples}
"""


def init(folder: Path, say: Callable[[str], None]) -> Path:
    """Writes ``recipe.yaml`` here for the data found in ``folder``; prints its path.

    Raises UsageProblem where a recipe is already, or where there is nothing to learn from.
    """
    if RECIPE.exists():
        raise UsageProblem("there is a recipe here already", where=str(RECIPE), remedy="move it, or edit it")
    if not folder.is_dir():
        raise UsageProblem("no such folder", where=str(folder), remedy="name the folder that holds your documents")
    documents, talks, question = sort_out(folder, say)
    if not documents and not talks:
        remedy = "put .txt, .md, .html, .jsonl, .csv or .parquet files there, or name another folder"
        raise UsageProblem("no documents and no conversations here", where=str(folder), remedy=remedy)
    text = compose(folder, documents, talks, question)
    try:
        with RECIPE.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ResourceProblem(f"cannot be written ({error.strerror})", where=str(RECIPE)) from error
    say(f"{len(documents):,} files of documents, {len(talks):,} of conversations")
    say(f"next: didact inspect {RECIPE}")
    print(RECIPE)
    return RECIPE


def sort_out(folder: Path, say: Callable[[str], None]) -> tuple[list[Path], list[Path], str]:
    """Files of documents, files of conversations, and something to ask the model."""
    documents: list[Path] = []
    talks: list[Path] = []
    question = ""
    for file in _files(folder):
        try:
            first = None if file.suffix.lower() in PLAIN else next(iter(parse(read(file))))
        except DataProblem as problem:
            say(f"left out: {problem}")
            continue
        if isinstance(first, Answers):
            say(f"left out: {file}: answers that people judged")
        elif first is None or isinstance(first, Document):
            documents.append(file)
        else:
            talks.append(file)
            question = question or _question(first)
    return documents, talks, question or "What do you know about this?"


def compose(folder: Path, documents: Sequence[Path], talks: Sequence[Path], question: str) -> str:
    """The recipe's text."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_")[:40] or "my-model"
    every = _files(folder)
    parts = [HEAD.format(recipe=RECIPE, name=name, stage="pretrain" if documents else "finetune")]
    if documents:
        parts.append(PRETRAIN.format(data=_data(folder, documents, every)))
    if talks:
        parts.append(FINETUNE.format(data=_data(folder, talks, every)))
    parts.append(EVALUATE.format(samples=json.dumps([question], ensure_ascii=False)))
    return "".join(parts)


def _files(folder: Path) -> list[Path]:
    """Every file of a known kind below, but hidden ones and what runs left."""
    found = (path for path in folder.rglob("*") if path.is_file() and known(path))
    return sorted(path for path in found if not any(_own(part) for part in path.relative_to(folder).parts))


def _own(part: str) -> bool:
    return part.startswith(".") or part in OWN


def _data(folder: Path, wanted: Sequence[Path], every: Sequence[Path]) -> str:
    """The wanted files as a recipe names them: the folder where it holds nothing else, else the fewest names."""
    here = folder.resolve() == Path.cwd()
    names = [str(folder)] if set(wanted) == set(every) and not here else _names(folder, wanted, every)
    shown = [json.dumps(name, ensure_ascii=False) for name in names]
    return shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"


def _names(folder: Path, wanted: Sequence[Path], every: Sequence[Path]) -> list[str]:
    names = []
    for top, group in groupby(wanted, key=lambda path: path.relative_to(folder).parts[0]):
        place, files = folder / top, list(group)
        below = [path for path in every if path.is_relative_to(place)]
        names += [f"{place}/"] if place.is_dir() and below == files else map(str, files)
    alone = [name for name in names if not name.endswith("/")]
    for suffix in sorted({Path(name).suffix for name in alone}):
        same = [name for name in alone if Path(name).suffix == suffix]
        pattern = folder / f"*{suffix}"
        if len(same) > FEW and same == [
            str(path) for path in every if path.match(pattern.name) and path.parent == folder
        ]:
            names = [name for name in names if name not in same] + [str(pattern)]
    return names


def _question(first: Example) -> str:
    """What a person says first in the data, where it is short enough to ask."""
    if not isinstance(first, Conversation):
        return ""
    asked = next((turn["content"] for turn in first.messages if turn["role"] == "user"), "")
    return asked if isinstance(asked, str) and 0 < len(asked) <= 120 and asked.isprintable() else ""
