"""The chosen option: the network's own log-probabilities say which."""

import pytest
import torch

from didact.data.example import Completion, Document
from didact.engine.mesh import Mesh
from didact.errors import DataProblem
from didact.measure import Subject, resolve
from didact.measure.choice import _scores
from didact.text.render import Renderer
from didact.text.tokenizer import train
from tests.toy import toy_model

WORDS = ["one and two", "two and three", "three, and one more time", "and so on it goes"]
ASKED = [
    Completion(f"a.jsonl:{i}", prompt, " two", (" one", " two", " two and three"))
    for i, prompt in enumerate(["one and", "and so on it goes, and", "two"])
]


@pytest.fixture
def subject() -> Subject:
    renderer = Renderer(train(WORDS, 300))
    size = max(renderer.tokenizer.get_vocab().values()) + 1
    return Subject(toy_model(vocab_size=size).eval(), renderer, Mesh(torch.device("cpu")))


def by_hand(subject, prompt, option) -> float:
    """The network's own forward, a token at a time."""
    read = subject.renderer.completion(prompt, option)
    subject.model.net.set_attn_implementation("eager")
    with torch.no_grad():
        logprob = subject.model.net(input_ids=torch.tensor([read.tokens])).logits[0].log_softmax(-1)
    subject.model.net.set_attn_implementation("reach")
    first = read.trained.index(True)
    return sum(logprob[at - 1, read.tokens[at]].item() for at in range(first, len(read.tokens)))


@pytest.mark.parametrize("rows", [1, 4, 32])
def test_scores_are_the_networks_own(subject, rows):
    wanted = [by_hand(subject, one.prompt, option) for one in ASKED for option in one.options]
    assert list(_scores(subject, ASKED, rows)) == pytest.approx(wanted, abs=1e-4)


def test_the_share_of_prompts_whose_best_option_is_the_completion(subject):
    best = [max(one.options, key=lambda option, one=one: by_hand(subject, one.prompt, option)) for one in ASKED]
    right = [Completion("a", one.prompt, option, one.options) for one, option in zip(ASKED, best, strict=True)]
    wrong = [
        Completion("a", one.prompt, next(o for o in one.options if o != b), one.options)
        for one, b in zip(ASKED, best, strict=True)
    ]
    choice = resolve("choice", {"batch_size": 2})
    assert choice(subject, right) == 1
    assert choice(subject, wrong) == 0
    assert choice(subject, [*right, wrong[0]]) == 0.75
    assert choice.better == "higher"


@pytest.mark.parametrize("example", [Document("a.txt:3", "one"), Completion("a.txt:3", "one", "two")])
def test_without_options_there_is_no_choice(subject, example):
    with pytest.raises(DataProblem, match=r"a.txt:3: no options to choose from"):
        resolve("choice", {})(subject, [example])
