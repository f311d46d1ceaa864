"""Answers to the questions of a data set, given behind a prompt: what a model learns to say without it."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from didact.data.domain.writing import held_out, publish
from didact.data.example import Conversation, Example
from didact.data.source import examples
from didact.errors import DataProblem, UsageProblem
from didact.recipe.making import Answer
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground, opened
from didact.text.template import Message


def answer(stage: Answer, ground: Ground, folder: StageFolder) -> Artifact:
    """Leaves ``answers`` and ``answers.heldout``; the facts say how many tokens a call saves without the prompt."""
    if ground.model is None:
        raise UsageProblem("there is no model to answer yet", where=stage.name, remedy="train one before this stage")
    facts: dict[str, Any] = {}
    if ground.mesh.main:
        facts = _answered(stage, ground.model, ground, folder.path)
    ground.mesh.barrier()
    return Artifact(outputs={name: folder.path / f"{name}.jsonl" for name in stage.outputs}, facts=facts)


def _answered(stage: Answer, where: Path, ground: Ground, folder: Path) -> dict[str, Any]:
    model, renderer = opened(where, ground.mesh.device)
    sampler = Sampler(model, partial(renderer.decode, skip_special=True), renderer.stops, stage.batch_size)
    before = prompt(stage)
    asked = [question(example) for found in examples(stage.data, ground.outputs, stage.seed) for example in found]
    full = [renderer.prompt([*before, *messages]) for messages in asked]
    bare = [renderer.prompt(messages) for messages in asked]
    ground.say(f"{stage.name}: {len(asked):,} questions are answered behind a prompt of {len(before)} messages")
    way = Sampling(temperature=stage.temperature, top_p=1, max_new_tokens=stage.max_new_tokens, seed=stage.seed)
    said = sampler.generate(full, way)
    whole = [out.reason == "stop" and bool(out.text.strip()) for out in said]
    if not any(whole):
        what = f"no answer ended within {stage.max_new_tokens} tokens"
        raise UsageProblem(what, where=stage.name, remedy="raise max_new_tokens, or show shorter answers in the prompt")
    lines = [
        {"messages": [*messages, {"role": "assistant", "content": out.text.strip()}], "before": before}
        for messages, out, kept in zip(asked, said, whole, strict=True)
        if kept
    ]
    facts = {
        "questions": len(asked),
        "answers": sum(whole),
        "prompted_tokens": fmean(map(len, full)),
        "bare_tokens": fmean(map(len, bare)),
        "answer_tokens": fmean(len(out.tokens) for out, kept in zip(said, whole, strict=True) if kept),
    }
    ground.say(
        f"{stage.name}: {sum(whole):,} of {len(asked):,} ended within {stage.max_new_tokens} tokens, after "
        f"{facts['answer_tokens']:.1f} on average; a call without the prompt reads {facts['bare_tokens']:.0f} tokens "
        f"instead of {facts['prompted_tokens']:.0f}: {facts['prompted_tokens'] - facts['bare_tokens']:.0f} saved"
    )
    return publish(folder, dict(_files(stage, lines)), facts)


def prompt(stage: Answer) -> list[Message]:
    """The prompt as messages."""
    system = [{"role": "system", "content": stage.system}] if stage.system else []
    shots = [
        {"role": role, "content": text}
        for shot in stage.shots
        for role, text in zip(("user", "assistant"), shot, strict=True)
    ]
    return [*system, *shots]


def question(example: Example) -> list[Message]:
    """A conversation up to its last answer."""
    if not isinstance(example, Conversation):
        raise DataProblem("this is no conversation with a question", where=example.where, remedy="give chats to answer")
    last = max(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
    if last == 0:
        raise DataProblem("nothing is asked before the answer", where=example.where, remedy="leave the record out")
    return list(example.messages[:last])


def _files(stage: Answer, lines: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The lines of each output; what is held out hangs on the question alone."""
    apart = [held_out(json.dumps(line["messages"][:-1], sort_keys=True), stage.seed, stage.holdout) for line in lines]
    for name in stage.outputs:
        wanted = name.endswith(".heldout")
        yield f"{name}.jsonl", [line for line, held in zip(lines, apart, strict=True) if held is wanted]
