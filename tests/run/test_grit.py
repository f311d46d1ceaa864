"""GRIT: a stage of two tasks leaves one model that embeds in both directions and writes causally."""

import json
import re

import pytest
import torch
from torch.nn import functional as F

from didact.audit import laws
from didact.batch import Batch
from didact.data.corpus import in_memory
from didact.data.example import Texts
from didact.data.pieces import cut
from didact.data.stream import TokenStream
from didact.engine.mesh import Mesh
from didact.engine.step import Task, take_step
from didact.model.embed import Embedder
from didact.objective.contrast import Contrast
from didact.objective.tokens import Causal
from didact.rng import Rng
from didact.rollout.document import DocumentCache
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.run.command import run_recipe
from didact.run.named import open_model
from didact.text.render import Renderer
from tests.battery.base import chats, make_base
from tests.toy import toy_model, toy_pairs, toy_stream

PROMPTS = {"query": "<|user|>\nFind the page\n<|embed|>\n", "document": "<|embed|>\n"}
CONTRAST = Contrast(temperature=0.02, pool="mean", bidirectional=True, prompts=PROMPTS)
PAIRS = [(f"What is {name}?", f"{name} is letter number {i}. " * 2) for i, name in enumerate("abcdefgh")]


@pytest.fixture(scope="module")
def raised(tmp_path_factory):
    """The model of a GRIT stage as it is served, and what the run said."""
    folder = tmp_path_factory.mktemp("grit")
    make_base(folder / "base")
    (folder / "chats.jsonl").write_text(chats())
    lines = [json.dumps({"anchor": anchor, "positive": positive}) for anchor, positive in PAIRS]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    embed = {"name": "embed", "data": str(folder / "pairs.jsonl"), "ratio": 4.1}
    embed |= {"objective": {"contrast": {"temperature": 0.02, "prompts": PROMPTS}}}
    answer = {"name": "answer", "data": str(folder / "chats.jsonl"), "objective": "sft"}
    length = {"context": 96, "batch_size": 4, "max_steps": 3, "learning_rate": 1e-2, "precision": "fp32"}
    stages = [{"finetune": {"tasks": [embed, answer], **length}}]
    recipe = {"name": "r", "base": str(folder / "base"), "stages": stages}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    said: list[str] = []
    run_recipe(folder / "recipe.yaml", [], folder / "runs", said.append)
    return open_model(str(folder / "runs" / "r"), "cpu", said.append, torch.float32), said


def test_the_first_ratio_is_said(raised):
    (line,) = [line for line in raised[1] if "makes it 4.1" in line]
    assert re.search(r"the first step's loss of embed is [\d.]+ times the others'; weight [\d.]+ makes it 4.1", line)


def test_the_model_says_how_both_are_read(raised):
    assert raised[0].model.served == Causal().served() | CONTRAST.served()


def test_it_writes_causally(raised):
    """A token changes nothing before it, to the last bit."""
    model = raised[0].model
    token = torch.randint(0, 200, (1, 24), generator=torch.Generator().manual_seed(0))
    index = torch.arange(24)[None]
    batch = Batch({"token": token, "doc": index * 0, "position": index, "trained": index >= 0, "row": index[:, 0]})
    other = batch.with_(token=torch.where(index == 12, token + 1, token))
    with torch.no_grad():
        one, two = (model.logits(model.hidden(Causal().prepare(model, each, Rng(0, 0)))) for each in (batch, other))
        assert torch.equal(one[:, :12], two[:, :12])
        assert not torch.allclose(one[:, 12:], two[:, 12:])
        both = [model.hidden(each.with_(reach=torch.full_like(index, 23))) for each in (batch, other)]
    assert not torch.allclose(both[0][:, :12], both[1][:, :12])  # as an embedding pass would see it


def test_what_it_writes_is_scored_as_it_was_trained(raised):
    model, renderer = raised[0].model, raised[0].renderer
    prompt = renderer.prompt([{"role": "user", "content": "What is a?"}])
    out = Sampler(model, renderer.decode, renderer.stops).generate([prompt], Sampling(max_new_tokens=12, top_p=1.0))[0]
    assert laws.sampled_as_trained(model, Causal(), prompt, out.tokens, out.logprobs) < 1e-5


def test_its_vectors_are_those_of_training(raised):
    """Also those made of the pass whose keys and values are kept for later questions."""
    model = raised[0].model
    examples = [Texts("", pair, ("query", "document")) for pair in PAIRS]
    renderer = Renderer(raised[0].renderer.tokenizer, prompts=PROMPTS)
    stream = TokenStream(cut([in_memory(examples, renderer)], 96, "window")[0], 96, len(PAIRS), 0, shuffle=False)
    batch = next(stream.start(0))[0]
    reading = model.served["embedding"]
    serving = Renderer(raised[0].renderer.tokenizer, prompts=reading["prompts"])
    with torch.no_grad():
        wanted = CONTRAST.vectors(model, CONTRAST.prepare(model, batch, Rng(0, 0)))[:, 1]
    served = Embedder.of(model, raised[0].renderer)  # as didact embed does
    assert torch.allclose(served([positive for _, positive in PAIRS], "document"), wanted, atol=1e-5)
    documents = [serving.embedded(positive, "document") for _, positive in PAIRS]
    read = DocumentCache.read(model, [each.tokens for each in documents], reading["bidirectional"])
    for known, each, vector in zip(read, documents, wanted, strict=True):
        pooled = known.hidden[torch.tensor(each.trained)].mean(0)
        assert torch.allclose(F.normalize(pooled, dim=0), vector, atol=1e-5)


def test_an_instruction_is_read_and_not_pooled(raised):
    model, tokenizer = raised[0].model, raised[0].renderer.tokenizer
    vectors = []
    for instruction in ("Find the page", "Find the word", "Find the page"):
        prompts = {"query": f"<|user|>\n{instruction}\n<|embed|>\n"}
        example = Texts("", ("What is a?", "a"), ("query", "document"))
        parts = cut([in_memory([example], Renderer(tokenizer, prompts=prompts))], 96, "window")[0]
        batch = next(TokenStream(parts, 96, 1, 0).start(0))[0]
        if len(vectors) == 2:
            batch = laws.widened(batch)  # padding of any content
        with torch.no_grad():
            vectors.append(CONTRAST.vectors(model, CONTRAST.prepare(model, batch, Rng(0, 0)))[0, 0])
        said = Renderer(tokenizer, prompts=prompts).embedded("What is a?", "query")
        pooled = [token for token, mark in zip(said.tokens, said.trained, strict=True) if mark]
        assert tokenizer.decode(pooled, skip_special_tokens=True) == "What is a?"
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-4)
    assert torch.allclose(vectors[0], vectors[2], atol=1e-6)


def test_the_gradient_of_both_tasks_does_not_depend_on_micro_batches():
    """Law 1 on the two tasks in one step, as law 1 between processes is on the worker's."""

    def gradient(rows):
        model = toy_model()
        embed = Task("embed", Contrast(temperature=0.02), toy_pairs(batch_size=4, negatives=2).start(0), 1.7)
        answer = Task("answer", Causal(), toy_stream(batch_size=4).start(0))
        take_step(model, [embed, answer], Mesh(torch.device("cpu")), Rng(0, 0), rows)
        return laws.gradient(model)

    assert laws.distance(gradient(4), gradient(1)) < 1e-6
