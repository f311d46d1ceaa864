"""The loss of rare tokens that the second text of a pair has from the first, against plain counting."""

import pytest
import torch

from didact.batch import Batch
from didact.data.example import Document, Texts
from didact.engine.mesh import Mesh
from didact.errors import DataProblem
from didact.measure import Subject, resolve
from didact.measure.bridge import bridges
from didact.text.render import Renderer
from didact.text.tokenizer import train
from tests.toy import toy_model

PAIRS = [
    ("the red stone", "a red one and a red two"),
    ("the blue glass", "a blue one"),
    ("the green wood", "a green wood"),
]
EXAMPLES = [Texts(f"a:{i}", pair, ("text", "text"), 2.0) for i, pair in enumerate(PAIRS)]


@pytest.fixture
def subject() -> Subject:
    renderer = Renderer(train([text for pair in PAIRS for text in pair] * 9, 400))
    size = max(renderer.tokenizer.get_vocab().values()) + 1
    return Subject(toy_model(vocab_size=size).eval(), renderer, Mesh(torch.device("cpu")))


def test_bridges_are_rare_repeated_in_the_second_text_and_new_there():
    token = torch.tensor([[5, 6, 7, 8, 5, 9, 5, 6, 0], [5, 6, 6, 7, 7, 6, 8, 8, 8]])
    doc = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, -1], [0, 0, 1, 1, 1, 1, 1, 1, 1]])
    rare = torch.ones(10, dtype=torch.bool)
    found = bridges(Batch({"token": token, "doc": doc}), rare)
    assert found.nonzero().tolist() == [[0, 4], [0, 7], [1, 2]]
    rare[6] = False
    assert bridges(Batch({"token": token, "doc": doc}), rare).nonzero().tolist() == [[0, 4]]


def test_equals_the_networks_own_loss(subject):
    plain, nats = toy_model(vocab_size=subject.model.net.config.vocab_size).eval().net, []
    plain.set_attn_implementation("eager")
    firsts = [set(subject.renderer.document(first).tokens) for first, _ in PAIRS]
    for (first, second), known in zip(PAIRS, firsts, strict=True):
        one, two = (subject.renderer.document(text).tokens for text in (first, second))
        scores = plain(torch.tensor([[*one, *two]])).logits[0].log_softmax(-1)
        for at, token in enumerate(two):
            if token in known and token not in two[:at] and sum(token in held for held in firsts) <= 1.2:
                nats.append(-scores[len(one) + at - 1, token].item())
    assert len(nats) >= 3
    measured = resolve("bridge", {"rare": 0.4, "context": 64})(subject, EXAMPLES)
    assert measured == pytest.approx(sum(nats) / len(nats), abs=1e-5)


def test_what_has_no_bridges_is_refused(subject):
    with pytest.raises(DataProblem, match="measured on pairs of texts; name what a links stage leaves"):
        resolve("bridge", {})(subject, [Document("a:1", "red stone")])
    with pytest.raises(DataProblem, match="no rare token of a second text is in its first; raise rare"):
        resolve("bridge", {})(subject, EXAMPLES)
