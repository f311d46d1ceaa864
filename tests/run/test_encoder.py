"""The life of an encoder: made, trained on masked tokens, measured, gone on with, and refused where it cannot serve."""

import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer

from didact.audit.trial import trials
from didact.errors import UsageProblem
from didact.model.load import load as load_network
from didact.run.chat import Chat
from didact.run.named import open_model
from tests.run.test_life import TOKENIZER, base, world  # noqa: F401 - fixtures

BERT = "{architecture: bert, size: 60k, config: {hidden_size: 64, num_hidden_layers: 1}}"
MODERN = "{architecture: modernbert, size: 120k, config: {hidden_size: 64, num_hidden_layers: 1}}"
MASKED = "{pretrain: {data: docs.jsonl, objective: masked, context: 32, batch_size: 4, max_steps: 6, MORE}}"
MEASURE = "{evaluate: {measures: {words: {loss: {data: held.jsonl, objective: masked, context: 32}}}}}"


def masked(more: str = "learning_rate: 1e-2") -> str:
    return MASKED.replace("MORE", more)


@pytest.mark.parametrize("start", [BERT, MODERN])
def test_trained_measured_saved_and_trained_again(world, start, capsys):  # noqa: F811
    world.recipe(TOKENIZER, masked(), masked("tune: {lora: {rank: 2}}"), MEASURE, base=start)
    world.run()
    tokenizer = AutoTokenizer.from_pretrained(world.model)
    net = AutoModelForMaskedLM.from_pretrained(world.model)
    assert tokenizer.mask_token == "<|mask|>"
    assert net.get_input_embeddings().weight.shape[0] > tokenizer.mask_token_id
    assert type(load_network(world.model, net.dtype)) is type(net)
    shown = capsys.readouterr().out
    assert "didact inspect" in shown
    assert "didact chat" not in shown
    words = world.facts("evaluate")["measures"]["words"]
    assert 0 < words["value"] < 8
    assert world.run() == ["tokenizer", "pretrain", "pretrain-2", "evaluate"]


def test_what_an_encoder_cannot_do_is_one_line(world):  # noqa: F811
    scored = "{evaluate: {data: {d: held.jsonl}, context: 32}}"
    world.recipe(TOKENIZER, masked(), scored, base=BERT)
    with pytest.raises(UsageProblem, match="bits per byte") as caught:
        world.run()
    assert "measures" in str(caught.value.remedy)
    named = open_model(str(world.stages("pretrain")[0] / "model"), "cpu", world.said.append)
    with pytest.raises(UsageProblem, match="BertForMaskedLM reads text in both directions, so it cannot write"):
        Chat(named, None, None, world.said.append)


def test_a_decoder_learns_both_ways_and_still_writes(world):  # noqa: F811
    tasks = (
        "{pretrain: {context: 32, batch_size: 4, max_steps: 4, tasks: [{data: docs.jsonl, objective: causal}, "
        "{data: docs.jsonl, objective: {masked: {shift: true, rate: [0.3, 0.15]}}}]}}"
    )
    world.recipe(tasks, "{evaluate: {data: {d: held.jsonl}, context: 32, samples: [Hi], max_new_tokens: 2}}")
    world.run()
    assert world.facts("evaluate")["evaluations"]["d"]["after"] > 0
    assert AutoTokenizer.from_pretrained(world.model).mask_token == "<|mask|>"


@pytest.mark.parametrize("start", [BERT, MODERN])
def test_the_doctor_finds_an_encoder_sound(world, start):  # noqa: F811
    world.recipe(TOKENIZER, masked("optimizer: muon"), base=start)
    found = list(trials(world.folder / "recipe.yaml", [], world.folder / "runs", lambda line: None))
    assert {one.law[0] for one in found} == {"1", "2", "3", "4", "6"}
    assert all(one.ok for one in found), found


def test_a_decoder_that_only_fills_in_does_not_write(world):  # noqa: F811
    filled = "{pretrain: {context: 32, batch_size: 4, max_steps: 1, data: docs.jsonl, objective: masked}}"
    world.recipe(filled)
    world.run()
    named = open_model(str(world.model), "cpu", world.said.append)
    with pytest.raises(UsageProblem, match="was last trained to fill in or embed only, so it cannot write"):
        Chat(named, None, None, world.said.append)
    world.recipe(filled, filled.replace("masked", "causal"))
    world.run()
    open_model(str(world.model), "cpu", world.said.append).model.check_writes()


def test_what_a_stage_does_not_keep_up_is_said(world):  # noqa: F811
    learned = "{finetune: {data: chats.jsonl, context: 64, batch_size: 2, max_steps: 1, objective: %s}}"
    world.recipe(learned % "prefix", learned % "sft")
    world.run()
    assert "finetune-2: nothing here keeps up what the model could: bidirectional_prompt" in world.said
