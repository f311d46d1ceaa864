"""The held-out loss as a measure: the number the model's own forward gives."""

import pytest
import torch

from didact.data.example import Document
from didact.engine.mesh import Mesh
from didact.errors import UsageProblem
from didact.measure import Subject, resolve
from didact.text.render import Renderer
from didact.text.tokenizer import train
from tests.toy import toy_model

WORDS = ["one and two", "two and three", "three, and one more time", "and so on it goes"]
EXAMPLES = [Document(f"a.txt:{i}", text) for i, text in enumerate(WORDS)]


@pytest.fixture
def subject() -> Subject:
    renderer = Renderer(train(WORDS, 300))
    size = max(renderer.tokenizer.get_vocab().values()) + 1
    return Subject(toy_model(vocab_size=size).eval(), renderer, Mesh(torch.device("cpu")))


def test_equals_the_networks_own_loss(subject):
    total, count, plain = 0.0, 0, toy_model(vocab_size=subject.model.net.config.vocab_size).eval().net
    plain.set_attn_implementation("eager")
    for text in WORDS:
        ids = torch.tensor([subject.renderer.document(text).tokens])
        found = plain(input_ids=ids, labels=ids).loss.item()
        total, count = total + found * (ids.shape[1] - 1), count + ids.shape[1] - 1
    assert resolve("loss", {"context": 64})(subject, EXAMPLES) == pytest.approx(total / count, abs=1e-5)
    assert resolve("loss", {"context": 64, "batch_size": 1})(subject, EXAMPLES) == pytest.approx(
        total / count, abs=1e-5
    )


def test_an_unknown_term_is_one_line(subject):
    with pytest.raises(UsageProblem, match="no term 'tokn'"):
        resolve("loss", {"term": "tokn", "context": 64})(subject, EXAMPLES)
