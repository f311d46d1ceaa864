"""Real models: one that makes the vectors, one that reads passages again."""

import shutil

import numpy as np
import pytest
import torch

from didact.errors import DataProblem, UsageProblem
from didact.model.load import load as load_net
from didact.model.save import save_model
from didact.retrieve.embedding import load
from didact.retrieve.index import Index
from didact.retrieve.rerank import PROMPT, Reranker
from didact.run.named import open_model
from tests.battery.base import make_base
from tests.model.folders import tiny, tiny_tokenizer
from tests.retrieve.toy import index


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    net = tiny("llama")
    net.config.didact = {"embedding": {"pool": "mean", "bidirectional": True, "prompts": {"query": "ask: "}}}
    save_model(net, tiny_tokenizer(), folder)
    return folder


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "docs").mkdir()
    for number in range(5):
        (tmp_path / f"docs/{number}.md").write_text(f"# Number {number}\n\nthe cat {number} sat on {number} mats")
    return tmp_path / "docs"


def test_an_index_finds_the_model_that_made_it(model, docs, tmp_path):
    embedding = load(str(model), "cpu")
    index(docs, tmp_path / "ix", embedding)
    found = Index.open(tmp_path / "ix", device="cpu").search("cat", k=5, mode="dense")
    texts = [f"Number {n}\n{(docs / f'{n}.md').read_text()}" for n in range(5)]
    cosine = embedding.vectors(texts, "document") @ embedding.vectors(["cat"], "query")[0]
    expected = sorted(range(5), key=lambda n: -cosine[n])
    np.testing.assert_allclose([one.score for one in found], cosine[expected], atol=2e-3)


def test_another_model_in_its_place_is_refused(model, docs, tmp_path):
    index(docs, tmp_path / "ix", load(str(model), "cpu"))
    (model / "generation_config.json").write_text("{}")
    with pytest.raises(DataProblem, match="is not the model that made its vectors; build the index again"):
        Index.open(tmp_path / "ix", device="cpu").search("cat")
    shutil.rmtree(model)
    opened = Index.open(tmp_path / "ix", device="cpu")
    with pytest.raises(DataProblem, match=r"that made its vectors, .*, is gone"):
        opened.search("cat")
    assert opened.search("cat", mode="words")


def test_a_model_that_does_not_embed_is_refused(tmp_path):
    with pytest.raises(UsageProblem, match="does not say how it makes a vector"):
        load(str(make_base(tmp_path / "base")), "cpu")


def test_reranking_is_the_mean_log_probability_of_the_question(tmp_path):
    named = open_model(str(make_base(tmp_path / "base")), "cpu", lambda line: None, torch.float32)
    passages = ["The red a is number 1.", "Blue.", "The blue c is number 5. " * 2]
    query = "Which is red?"
    scores = Reranker(named.model, named.renderer)(query, passages)
    plain = load_net(tmp_path / "base", torch.float32, attention="sdpa")
    for passage, score in zip(passages, scores, strict=True):
        read = named.renderer.completion(PROMPT.format(passage=passage), query)
        tokens = torch.tensor([read.tokens])
        logprob = plain(input_ids=tokens).logits.log_softmax(-1)[0, :-1]
        said = logprob.gather(1, tokens[0, 1:, None])[:, 0][torch.tensor(read.trained[1:])]
        assert score == pytest.approx(said.mean().item(), abs=1e-4)


def test_a_passage_longer_than_the_model_is_cut(tmp_path):
    named = open_model(str(make_base(tmp_path / "base")), "cpu", lambda line: None)
    scores = Reranker(named.model, named.renderer)("Which?", ["The red a is number 1. " * 200, "Short."])
    assert all(-20 < score < 0 for score in scores)


@pytest.mark.download
def test_the_usual_model_knows_what_words_mean(docs, tmp_path):
    (docs / "pet.md").write_text("A kitten is a young feline that likes milk.")
    (docs / "car.md").write_text("The engine of an automobile burns petrol.")
    index(docs, tmp_path / "ix", load("all-minilm-l6-v2", "cpu"))
    opened = Index.open(tmp_path / "ix", device="cpu")
    assert opened.search("vehicle motor fuel", k=1)[0].source == "car.md"
    assert opened.search("vehicle motor fuel", mode="words") == []
