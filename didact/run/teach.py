"""Gives a stage's data the columns of its teacher: computed once, kept by all that they depend on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from didact.data.corpus import Corpus, corpus_key, encode
from didact.data.example import Conversation, Example
from didact.data.settings import Data
from didact.data.source import examples
from didact.data.taught import LIKELIEST, REFERENCE, open_taught
from didact.engine.precision import Numerics, compiled, pick_dtype
from didact.errors import DataProblem, UsageProblem
from didact.model.folder import write_folder
from didact.model.load import load
from didact.model.model import Model
from didact.objective.base import Teacher
from didact.rollout.teacher import write_columns, write_reference
from didact.run.find import find_model
from didact.run.folder import content
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer

if TYPE_CHECKING:
    from didact.run.ground import Ground

SELF = "self"


def taught(
    teacher: Teacher,
    data: Data,
    corpora: Sequence[Corpus],
    ground: "Ground",
    renderer: Renderer,
    seed: int,
    context: int,
    numerics: Numerics,
) -> list[Corpus]:
    """The corpora with the columns of the teacher, or of the reference, computed with the ``numerics`` of the stage.

    A reference reads what the student does; a teacher the student's tokens, each conversation behind the ``before`` of
    its record, and so much longer pieces. Raises UsageProblem for one of another tokenizer, DataProblem where the
    trained tokens differ.
    """
    where = ground.model if teacher.name == SELF else find_model(teacher.name, ground.cache, ground.say)
    if where is None:
        what = "self is the model the stage starts from, as a teacher or a reference, and there is none yet"
        raise UsageProblem(what, remedy="name a checkpoint")
    size = _shared(where, renderer)
    identity, found, model = content(where), [], None
    dtype = pick_dtype(numerics.precision, ground.mesh.device)
    alike = numerics.compiled and not teacher.top  # a reference is compared with the student, number by number
    for source, corpus in zip(examples(data, ground.outputs, seed), corpora, strict=True):
        if not teacher.top:
            reading, wide, key = corpus, context, _digest(corpus)
        else:
            key = corpus_key(f"{source.fingerprint} behind what the teacher reads", renderer.key)
            reading = encode(map(_prompted, source), renderer, ground.cache / "tokens", key)
            wide = _aligned(corpus, reading, context, source.source.path)
        parts = [identity, teacher.top, teacher.temperature, wide, key, str(dtype), *(["compiled"] if alike else [])]
        folder = ground.cache / "teacher" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        if not folder.exists():
            model = model or compiled(Model(load(where, dtype)).to(ground.mesh.device).eval(), alike)
            longest = min(wide, int(np.diff(reading.bound).max()))
            _fits(model, longest, source.source.path)
            role = "teacher" if teacher.top else "reference"
            ground.say(f"{source.source.path}: {len(reading.token):,} tokens are read by the {role}, {teacher.name}")
            with write_folder(folder) as beside:
                if teacher.top:
                    write_columns(model, reading, wide, teacher, size, beside)
                else:
                    write_reference(model, reading, wide, beside)
        columns = open_taught(folder, np.asarray(corpus.trained), LIKELIEST if teacher.top else REFERENCE)
        found.append(replace(corpus, taught=columns))
    return found


def _digest(corpus: Corpus) -> str:
    """What a reference reads: the tokens, and which of them are whose."""
    if corpus.judged is None:
        what = "a reference is asked of answers that people judged, and these examples are none"
        raise DataProblem(what, remedy="give prompt, chosen and rejected; prompt, completion and label; or rankings")
    digest = hashlib.sha256()
    for array in (corpus.token, corpus.trained, corpus.bound, corpus.judged.branch):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _prompted(example: Example) -> Example:
    """The example as the teacher reads it."""
    if not isinstance(example, Conversation) or not example.before:
        return example
    read = tuple({**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in example.before)
    return replace(example, messages=(*read, *example.messages), before=())


def _shared(where: Path, renderer: Renderer) -> int:
    """How many ids the one tokenizer has."""
    theirs, ours = tokenizers.load(where).get_vocab(), renderer.tokenizer.get_vocab()
    if theirs != ours:
        what = f"the teacher has another tokenizer ({len(theirs):,} tokens, the student {len(ours):,})"
        remedy = "distil from a model of the same family, or train on text that the teacher wrote"
        raise UsageProblem(what, where=str(where), remedy=remedy)
    return max(ours.values()) + 1


def _aligned(corpus: Corpus, reading: Corpus, context: int, where: str) -> int:
    """The context of the teacher; raises DataProblem unless both are to predict the same tokens."""
    if corpus.text is not None:
        raise DataProblem("examples of several texts have no teacher", where=where, remedy="give documents or chats")
    if not np.array_equal(reading.token[reading.trained], corpus.token[corpus.trained]):
        what = "the answers have other tokens behind the teacher's prompt than without it"
        raise DataProblem(what, where=where, remedy="the chat template moves or rewrites turns: give the model another")
    return context + int((np.diff(reading.bound) - np.diff(corpus.bound)).max())


def _fits(model: Model, longest: int, where: str) -> None:
    positions = getattr(model.net.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    if longest > positions:
        what = f"the teacher has {positions:,} positions; its prompt and an example take {longest:,}"
        raise UsageProblem(what, where=where, remedy="shorten the prompt, or lower context")
