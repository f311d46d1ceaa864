"""Answers given behind a prompt, and a student that learns them without it from its own prompted self."""

import json

import numpy as np
import pytest
import torch

from didact.data.settings import Data
from didact.data.source import examples
from didact.errors import UsageProblem
from didact.model import attention
from didact.model.load import load
from didact.model.model import Model
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer
from tests.battery.base import chats, make_base
from tests.rollout.test_teacher import likeliest
from tests.run.test_life import base, world  # noqa: F401 - fixtures

ANSWER = "{answer: {data: many.jsonl, system: Hm., temperature: 1.0, max_new_tokens: 48, holdout: 0.3}}"
DISTIL = "{finetune: {data: answer/answers, objective: {distil: {teacher: %s, top: 8, share: 1.0}}, context: 72, \
batch_size: 2, max_steps: 2, precision: fp32}}"
AGREE = "{evaluate: {measures: {same: {agreement: {data: answer/answers.heldout}}}}}"


@pytest.fixture
def asked(world):  # noqa: F811
    (world.folder / "many.jsonl").write_text(chats(40))
    world.recipe(ANSWER, DISTIL % "self", AGREE, more="device: cpu\n")
    return world


def test_a_prompt_is_learned_away(asked):
    asked.run()
    facts = asked.facts("answer")
    assert facts["prompted_tokens"] > facts["bare_tokens"]
    assert any("saved" in line for line in asked.said)
    (folder,) = asked.stages("answer")
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    held = [json.loads(line) for line in (folder / "answers.heldout.jsonl").read_text().splitlines()]
    assert len(lines) + len(held) == facts["answers"]
    assert all(line["before"] == [{"role": "system", "content": "Hm."}] for line in lines)
    questions = [{line["messages"][0]["content"] for line in part} for part in (lines, held)]
    assert not questions[0] & questions[1]
    assert 0 <= asked.facts("evaluate")["measures"]["same"]["value"] <= 1
    assert asked.run() == ["answer", "finetune", "evaluate"]


def test_the_teacher_read_the_prompt(asked, monkeypatch):
    """The columns of each answer's tokens are what the base finds likeliest behind prompt and question."""
    monkeypatch.setattr("didact.run.teach.pick_dtype", lambda *_: torch.float32)
    asked.run()
    attention.register()
    model = Model(load(asked.folder / "base", torch.float32)).eval()
    renderer = Renderer(tokenizers.load(asked.folder / "base"))
    (folder,) = asked.stages("answer")
    (columns,) = (asked.folder / "cache/teacher").iterdir()
    token, logprob = (np.load(columns / name) for name in ("token.npy", "logprob.npy"))
    row, apart = 0, []
    for example in next(iter(examples(Data.model_validate(str(folder / "answers.jsonl")), {}, 0))):
        whole = renderer.conversation([*example.before, *example.messages])
        found = likeliest(model, np.array(whole.tokens), 1.0)
        bare = renderer.conversation(example.messages)
        if len(bare.tokens) > 72:  # longer than the context: dropped, so what the teacher says of it is never read
            row += sum(whole.trained)
            continue
        alone = likeliest(model, np.array(bare.tokens), 1.0)[np.array([*bare.trained[1:], False])]
        behind = found[np.array([*whole.trained[1:], False])]
        apart.append(float((alone - behind).abs().max()))
        for i, trained in enumerate(whole.trained):
            if trained:
                best = found[i - 1].topk(8)
                np.testing.assert_allclose(logprob[row], best.values, atol=1e-4)
                assert token[row, 0] in best.indices[:3]
                row += 1
    assert row == len(token)
    assert max(apart) > 1e-2, "this prompt makes no difference to this model"


def test_another_teacher_is_read_once_and_its_content_counts(asked):
    make_base(asked.folder / "teacher")
    asked.recipe(ANSWER, DISTIL % "./teacher", more="device: cpu\n")
    asked.run()
    assert asked.run() == ["answer", "finetune"]
    weights = asked.folder / "teacher/model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-2] ^= 1
    weights.write_bytes(raw)
    assert asked.run() == ["answer"]
    assert len(list((asked.folder / "cache/teacher").iterdir())) == 2


def test_a_teacher_of_another_tokenizer_is_one_line(asked):
    make_base(asked.folder / "teacher")
    path = asked.folder / "teacher/tokenizer.json"
    path.write_text(path.read_text().replace('"z":', '"zz":', 1))
    asked.recipe(ANSWER, DISTIL % "./teacher", more="device: cpu\n")
    with pytest.raises(UsageProblem, match="another tokenizer"):
        asked.run()


def test_answers_that_never_end_are_one_line(asked):
    with pytest.raises(UsageProblem, match="no answer ended within 1 tokens"):
        asked.run("answer.max_new_tokens=1", "answer.temperature=0")


def test_without_a_prompt_there_is_nothing_to_learn(world):  # noqa: F811
    world.recipe("{answer: {data: chats.jsonl}}")
    with pytest.raises(UsageProblem, match="needs a prompt"):
        world.run()
