"""What a model prefers: the network's own log-probabilities, token by token, say which."""

import math
from dataclasses import replace

import pytest
import torch

from didact.data.example import Answers, Document
from didact.engine.mesh import Mesh
from didact.errors import DataProblem
from didact.measure import Subject, resolve
from didact.text.render import Renderer
from didact.text.tokenizer import train
from tests.measure.test_choice import WORDS, by_hand
from tests.toy import toy_model

ANSWERS = (" two", " two and three, and on", " one more time")
GIVEN = [
    Answers(f"a.jsonl:{i}", prompt, ANSWERS, values)
    for i, (prompt, values) in enumerate(
        [("one and", (1.0, 0.0, 0.0)), ("and so on it goes, and", (0.0, 2.0, 1.0)), ("two", (0.0, 0.0, 1.0))]
    )
]


@pytest.fixture
def subject() -> Subject:
    renderer = Renderer(train(WORDS, 300))
    size = max(renderer.tokenizer.get_vocab().values()) + 1
    return Subject(toy_model(vocab_size=size).eval(), renderer, Mesh(torch.device("cpu")))


def share(worth) -> float:
    """Of all pairs that people judged apart, by what ``worth`` says of a prompt's answer."""
    right = [
        worth(one.prompt, a) > worth(one.prompt, b)
        for one in GIVEN
        for a, x in zip(one.answers, one.values, strict=True)
        for b, y in zip(one.answers, one.values, strict=True)
        if x > y
    ]
    return sum(right) / len(right)


def size(subject, prompt, answer) -> int:
    return sum(subject.renderer.completion(prompt, answer).trained)


def test_the_likelier_answer_is_preferred(subject):
    assert resolve("preference", {})(subject, GIVEN) == share(lambda *one: by_hand(subject, *one))
    mean = share(lambda *one: by_hand(subject, *one) / size(subject, *one))
    assert resolve("preference", {"average": True})(subject, GIVEN) == mean


def test_what_was_gained_on_another_model(subject):
    other = toy_model(seed=5, vocab_size=subject.model.net.config.vocab_size).eval()
    theirs = replace(subject, model=other)
    asked, heard = [], []

    def named(name):
        asked.append(name)
        return other, subject.renderer

    found = resolve("preference", {"against": "base"})(replace(subject, named=named, say=heard.append), GIVEN)
    assert found == share(lambda *one: by_hand(subject, *one) - by_hand(theirs, *one))
    assert asked == ["base"]
    assert heard[0].endswith("of 7 pairs in the people's order")
    same = replace(subject, named=lambda name: (subject.model, subject.renderer))
    assert resolve("preference", {"against": "base"})(same, GIVEN) == 0.5


def test_how_likely_the_best_are(subject):
    best = [("one and", 0), ("and so on it goes, and", 1), ("two", 2)]
    wanted = [by_hand(subject, p, ANSWERS[i]) / size(subject, p, ANSWERS[i]) for p, i in best]
    assert resolve("chosen", {})(subject, GIVEN) == pytest.approx(sum(wanted) / 3, abs=1e-4)


def test_what_nobody_judged_is_not_the_best(subject):
    one, *_ = GIVEN
    more = replace(one, answers=(*one.answers, " else"), values=(*one.values, math.nan))
    assert resolve("chosen", {})(subject, [more]) == pytest.approx(resolve("chosen", {})(subject, [one]), abs=1e-5)
    with pytest.raises(DataProblem, match="none has an answer that people liked"):
        resolve("chosen", {})(subject, [Answers("a", "one", (" two",), (0.0,))])


def test_ratings_of_one_prompt_are_compared(subject):
    apart = [
        Answers(one.where, one.prompt, (answer,), (value,))
        for one in GIVEN
        for answer, value in zip(one.answers, one.values, strict=True)
    ]
    assert resolve("preference", {})(subject, apart) == resolve("preference", {})(subject, GIVEN)


@pytest.mark.parametrize("example", [Document("a.txt:3", "one"), Answers("a.txt:3", "one", (" two",), (1.0,))])
def test_nothing_to_compare_is_one_line(subject, example):
    with pytest.raises(DataProblem, match=r"a.txt:3"):
        resolve("preference", {})(subject, [example])
