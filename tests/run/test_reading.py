"""A document that a conversation is about: read once, and what is said behind it is as if it had been in the prompt."""

import pytest

from didact.errors import DataProblem, UsageProblem
from didact.rollout.document import DocumentCache
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.run.chat import Chat
from didact.run.named import open_model
from didact.run.reading import read_once
from tests.battery.base import POSITIONS, make_base

GREEDY = Sampling(temperature=0, max_new_tokens=6)
TEXT = "The red a is number 4. The blue b is number 2."


@pytest.fixture
def named(tmp_path, monkeypatch):
    monkeypatch.setenv("DIDACT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "page.txt").write_text(TEXT)
    return open_model(str(make_base(tmp_path / "m")), "cpu", print)


def test_an_answer_behind_a_document_is_as_if_it_had_been_in_the_prompt(named, tmp_path):
    said: list[str] = []
    chat = Chat(named, None, GREEDY, said.append, str(tmp_path / "page.txt"))
    answer = chat.answer("Which is red?", lambda text: None)
    tokens = named.renderer.embedded(TEXT, "document").tokens
    prompt = [*tokens, *named.renderer.prompt([{"role": "user", "content": "Which is red?"}])]
    (whole,) = Sampler(named.model, chat.decode, named.renderer.stops).generate([prompt], GREEDY)
    assert answer == whole.text.lstrip()
    assert f"{len(tokens)} tokens read, kept for next time" in said[-1]


def test_a_document_is_read_once(named, tmp_path, monkeypatch):
    read = (named, str(tmp_path / "page.txt"), POSITIONS, tmp_path / "cache")
    first = read_once(*read, print)
    monkeypatch.setattr(DocumentCache, "of", None)
    said: list[str] = []
    again = read_once(*read, said.append)
    assert (again.tokens, again.reader) == (first.tokens, first.reader)
    assert said[0].endswith("tokens, read before")


def test_a_model_that_embeds_reads_it_as_it_embeds(named, tmp_path):
    prompts = {"document": "<|embed|>\n"}
    named.model.served = {"embedding": {"pool": "mean", "bidirectional": True, "prompts": prompts}}
    said: list[str] = []
    known = read_once(named, str(tmp_path / "page.txt"), POSITIONS, tmp_path / "cache", said.append)
    assert named.renderer.decode(known.tokens).startswith("<|embed|>\nThe red")
    assert "read in both directions" in said[0]


def test_what_is_not_one_document_is_refused(named, tmp_path):
    (tmp_path / "two.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(DataProblem, match="2 examples, not one document"):
        read_once(named, str(tmp_path / "two.jsonl"), POSITIONS, tmp_path, print)


def test_a_document_leaves_room_for_the_conversation(named, tmp_path):
    (tmp_path / "page.txt").write_text(TEXT * 8)
    with pytest.raises(UsageProblem, match="beside a conversation this model takes 96"):
        read_once(named, str(tmp_path / "page.txt"), POSITIONS, tmp_path, print)
