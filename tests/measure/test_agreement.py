"""Agreement: a model's greedy answers agree with it word for word, others as often as the network's own argmax."""

import pytest
import torch

from didact.data.example import Completion
from didact.engine.mesh import Mesh
from didact.measure import Subject, resolve
from didact.text.render import Renderer
from didact.text.tokenizer import train
from tests.toy import toy_model

WORDS = ["one and two", "two and three", "three, and one more time", "and so on it goes"]
EXAMPLES = [Completion(f"a:{i}", "Say: ", text) for i, text in enumerate(WORDS)]


@pytest.fixture
def subject() -> Subject:
    renderer = Renderer(train(WORDS, 300))
    size = max(renderer.tokenizer.get_vocab().values()) + 1
    return Subject(toy_model(vocab_size=size).eval(), renderer, Mesh(torch.device("cpu")))


def fitted(subject: Subject) -> Subject:
    """The model after it has learned the examples by heart."""
    optimizer = torch.optim.AdamW(subject.model.parameters(), lr=1e-2)
    for _ in range(40):
        for example in EXAMPLES:
            rendered = subject.renderer.completion(example.prompt, example.completion)
            labels = [t if on else -100 for t, on in zip(rendered.tokens, rendered.trained, strict=True)]
            net = subject.model.net
            net.set_attn_implementation("eager")
            loss = net(input_ids=torch.tensor([rendered.tokens]), labels=torch.tensor([labels])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            net.set_attn_implementation("reach")
    return subject


@torch.no_grad()
def test_is_the_networks_own_argmax(subject):
    hits = []
    for example in EXAMPLES:
        rendered = subject.renderer.completion(example.prompt, example.completion)
        ids = torch.tensor([rendered.tokens])
        plain = toy_model(vocab_size=subject.model.net.config.vocab_size).eval().net
        plain.set_attn_implementation("eager")
        best = plain(input_ids=ids).logits[0].argmax(-1).tolist()
        hits += [best[i - 1] == t for i, t in enumerate(rendered.tokens) if rendered.trained[i]]
    assert resolve("agreement", {})(subject, EXAMPLES) == pytest.approx(sum(hits) / len(hits))
    assert resolve("agreement", {"whole": True})(subject, EXAMPLES) == 0


def test_answers_known_by_heart_agree_whole(subject):
    whole, tokens = resolve("agreement", {"whole": True}), resolve("agreement", {})
    model = fitted(subject)
    with torch.no_grad():
        assert tokens(model, EXAMPLES[1:2]) == whole(model, EXAMPLES[1:2]) or tokens(model, EXAMPLES) > 0.6
        other = Completion("b", "Say: ", "zebra")
        assert tokens(model, [other]) < 1
        assert whole(model, [other]) == 0
