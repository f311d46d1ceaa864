"""Examples, tokenized once into memory-mapped arrays and found again by the key of all they depend on."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import assert_never

import numpy as np

from didact.data.answers import Judged, open_judged, write_judged
from didact.data.example import Answers, Completion, Conversation, Document, Example, Texts
from didact.data.taught import Taught
from didact.errors import DataProblem, ResourceProblem
from didact.text.render import Rendered, Renderer

BATCH = 512  # examples tokenized at once
FORMAT = 2  # raised whenever the files below change their meaning, so that old caches are not misread


@dataclass(frozen=True)
class Corpus:
    """One source as arrays: example i is ``token[bound[i]:bound[i + 1]]``.

    ``token`` int32 [N], ``trained`` bool [N] (is this token to be predicted; in a text to be embedded, pooled),
    ``bound`` int64 [examples + 1], ``text_bytes`` int64 [examples]: UTF-8 bytes of the trained text, what bits per
    byte divides by. Examples of several texts have ``text`` int64 [N], the number of a token's text in its example,
    and ``value`` float32 [examples]. ``taught`` is what a teacher would have written; ``judged``: examples are
    prompts with answers.
    """

    token: np.ndarray
    trained: np.ndarray
    bound: np.ndarray
    text_bytes: np.ndarray
    weight: float = 1.0
    text: np.ndarray | None = None
    value: np.ndarray | None = None
    taught: Taught | None = None
    judged: Judged | None = None

    def __len__(self) -> int:
        return len(self.bound) - 1


def corpus_key(fingerprint: str, renderer_key: str) -> str:
    """What a tokenized corpus depends on: content and settings of its source, tokenizer and template."""
    return hashlib.sha256(json.dumps([FORMAT, fingerprint, renderer_key]).encode()).hexdigest()[:32]


def render(batch: Sequence[Example], renderer: Renderer) -> list[Rendered]:
    """Token ids and trained masks of examples of one kind; those of several texts, one text after the other.

    Raises DataProblem, with file and line, for the first example the template cannot render.
    """
    try:
        return _render(batch, renderer)
    except DataProblem as problem:
        if len(batch) > 1:  # which one it was is found by rendering each alone
            return [rendered for example in batch for rendered in render([example], renderer)]
        raise DataProblem(problem.what, where=batch[0].where, remedy=problem.remedy) from problem


def _render(batch: Sequence[Example], renderer: Renderer) -> list[Rendered]:
    match batch[0]:
        case Document():
            return renderer.documents([example.text for example in batch if isinstance(example, Document)])
        case Conversation():
            chats = [example for example in batch if isinstance(example, Conversation)]
            return renderer.conversations([(chat.messages, chat.tools) for chat in chats])
        case Completion():
            pairs = [example for example in batch if isinstance(example, Completion)]
            return [renderer.completion(pair.prompt, pair.completion) for pair in pairs]
        case Texts():
            return [_joined(example, renderer) for example in batch if isinstance(example, Texts)]
        case Answers():
            judged = [example for example in batch if isinstance(example, Answers)]
            return [renderer.answers(example.prompt, example.answers) for example in judged]
        case _:
            assert_never(batch[0])


def _joined(example: Texts, renderer: Renderer) -> Rendered:
    """The texts of one example in a row, and the number of each token's text."""
    pairs = zip(example.texts, example.roles, strict=True)
    parts = [renderer.document(text) if role == "text" else renderer.embedded(text, role) for text, role in pairs]
    tokens = [token for part in parts for token in part.tokens]
    trained = [mark for part in parts for mark in part.trained]
    return Rendered(tokens, trained, [number for number, part in enumerate(parts) for _ in part.tokens])


def trained_text(example: Example) -> str:
    """The text whose tokens are trained."""
    match example:
        case Document():
            return example.text
        case Conversation():
            return "".join(m["content"] or "" for m in example.messages if m["role"] == "assistant")
        case Completion():
            return example.completion
        case Texts():
            return "".join(example.texts)
        case Answers():
            turns = [turn for answer in example.answers for turn in ([answer] if isinstance(answer, str) else answer)]
            return "".join(turn if isinstance(turn, str) else turn["content"] or "" for turn in turns)
        case _:
            assert_never(example)


def encode(examples: Iterable[Example], renderer: Renderer, cache: Path, key: str, weight: float = 1.0) -> Corpus:
    """Tokenizes into ``cache/key``, or opens what is there.

    The folder is written beside and renamed, so a killed run leaves nothing half-written under a valid name.
    Raises DataProblem, with file and line, for an example the template cannot render; ResourceProblem where the cache
    cannot be written.
    """
    folder = cache / key
    if not folder.exists():
        with _writable(cache):
            cache.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache))
            try:
                _write(examples, renderer, beside)
                _settle(beside, folder)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    return open_corpus(folder, weight)


def in_memory(examples: Sequence[Example], renderer: Renderer) -> Corpus:
    """The same arrays for a few examples, without a cache."""
    with tempfile.TemporaryDirectory() as folder:
        _write(examples, renderer, Path(folder))
        found = open_corpus(Path(folder))
        text = None if found.text is None else np.array(found.text)
        judged = found.judged and replace(found.judged, branch=np.array(found.judged.branch))
        return replace(found, token=np.array(found.token), trained=np.array(found.trained), text=text, judged=judged)


@contextmanager
def _writable(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceProblem(
            f"tokens cannot be kept here: {error.strerror or error}",
            where=str(cache),
            remedy="free some space or set DIDACT_CACHE to another folder",
        ) from error


def _settle(beside: Path, folder: Path) -> None:
    """Renames into place once the bytes are on the disk; where another process was first, its equal work stays."""
    for path in [*beside.iterdir(), beside]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    try:
        os.rename(beside, folder)
    except OSError:
        if not folder.is_dir():
            raise


def open_corpus(folder: Path, weight: float = 1.0) -> Corpus:
    """Maps a tokenized corpus into memory. Raises DataProblem for one that is not whole."""
    try:
        bound, text_bytes = np.load(folder / "bound.npy"), np.load(folder / "text_bytes.npy")
        token = np.memmap(folder / "token.bin", np.int32, "r")
        trained = np.memmap(folder / "trained.bin", np.bool_, "r")
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder) from error
    if not len(bound) == len(text_bytes) + 1 or not len(token) == len(trained) == bound[-1]:
        raise _damaged(folder)
    if (folder / "score.npy").exists():
        judged = open_judged(folder, len(token), len(text_bytes))
        return Corpus(token, trained, bound, text_bytes, weight, judged=judged)
    if not (folder / "value.npy").exists():
        return Corpus(token, trained, bound, text_bytes, weight)
    try:
        text, value = np.memmap(folder / "text.bin", np.int16, "r"), np.load(folder / "value.npy")
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder) from error
    if len(text) != len(token) or len(value) != len(text_bytes):
        raise _damaged(folder)
    return Corpus(token, trained, bound, text_bytes, weight, text, value)


def _damaged(folder: Path) -> DataProblem:
    return DataProblem("these cached tokens are damaged", where=str(folder), remedy="delete this folder and run again")


def _write(examples: Iterable[Example], renderer: Renderer, folder: Path) -> None:
    bound, text_bytes, values, answered = [0], [], [], []
    names = ("token.bin", "trained.bin", "text.bin")
    with ExitStack() as files:
        tokens, trained, texts = (files.enter_context(open(folder / name, "wb")) for name in names)
        for batch in _batches(examples):
            for example, rendered in zip(batch, render(batch, renderer), strict=True):
                tokens.write(np.asarray(rendered.tokens, np.int32).tobytes())
                trained.write(np.asarray(rendered.trained, np.bool_).tobytes())
                texts.write(np.asarray(rendered.texts, np.int16).tobytes())
                bound.append(bound[-1] + len(rendered.tokens))
                text_bytes.append(len(trained_text(example).encode()))
                if isinstance(example, Texts):
                    values.append(example.value)
                if isinstance(example, Answers):
                    answered.append(replace(example, prompt="", answers=()))
    if 0 < max(len(values), len(answered)) < len(text_bytes):
        what = "examples of one text and of several in one source" if values else "answers and texts in one source"
        raise DataProblem(what, remedy="split the file")
    if bound[-1] == 0:
        raise DataProblem("no tokens in this data", remedy="give at least one document with text")
    np.save(folder / "bound.npy", np.asarray(bound, np.int64))
    np.save(folder / "text_bytes.npy", np.asarray(text_bytes, np.int64))
    if values:
        np.save(folder / "value.npy", np.asarray(values, np.float32))
    elif answered:
        write_judged(answered, folder)
    else:
        (folder / "text.bin").unlink()


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Runs of examples of one kind, which the tokenizer takes at once."""
    for _, run in groupby(examples, type):
        while batch := list(islice(run, BATCH)):
            yield batch
