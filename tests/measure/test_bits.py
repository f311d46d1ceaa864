"""Bits per byte as a measure: of a model as it is read."""

import math

import pytest
import torch

from didact.data.example import Document
from didact.engine.mesh import Mesh
from didact.measure import Subject, resolve
from didact.objective.diffusion import Diffusion
from didact.text.render import Renderer
from didact.text.tokenizer import train, vocabulary, with_mask
from tests.toy import toy_model

WORDS = ["one and two", "two and three", "three, and one more time", "and so on it goes"]
EXAMPLES = [Document(f"a.txt:{i}", text) for i, text in enumerate(WORDS)]
BITS = resolve("bits_per_byte", {"context": 64})


@pytest.fixture
def subject() -> Subject:
    renderer = Renderer(with_mask(train(WORDS, 300)))
    size = max(renderer.tokenizer.get_vocab().values()) + 1
    return Subject(toy_model(vocab_size=size).eval(), renderer, Mesh(torch.device("cpu")))


def test_is_the_loss_in_bits_over_bytes(subject):
    tokens = sum(len(subject.renderer.document(text).tokens) - 1 for text in WORDS)
    nats = resolve("loss", {"context": 64})(subject, EXAMPLES) * tokens
    assert BITS(subject, EXAMPLES) == pytest.approx(nats / math.log(2) / sum(len(text.encode()) for text in WORDS))


def test_reads_a_diffusion_model_as_it_writes(subject):
    known = vocabulary(subject.renderer.tokenizer)
    tokens = sum(len(subject.renderer.document(text).tokens) - 1 for text in WORDS)
    for block in (1, 4, None):
        subject.model.served = Diffusion(block=block, vocabulary=known).served()
        loss = resolve("loss", {"context": 64, "objective": {"diffusion": {"exact": True, "block": block}}})
        bits = loss(subject, EXAMPLES) * tokens / math.log(2) / sum(len(text.encode()) for text in WORDS)
        assert BITS(subject, EXAMPLES) == pytest.approx(bits)
