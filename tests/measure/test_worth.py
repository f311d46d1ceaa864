import pytest
import torch

from didact.data.example import Conversation, Document
from didact.data.raft import closed, conversation
from didact.engine.mesh import Mesh
from didact.errors import DataProblem
from didact.measure import Subject, resolve
from didact.measure.worth import alone
from didact.text.quote import asked, quoted
from didact.text.render import Renderer
from didact.text.tokenizer import train
from tests.data.test_raft import Text
from tests.data.test_raft import asked as questions
from tests.toy import toy_model


def chats(made) -> list[Conversation]:
    return [Conversation(f"a.jsonl:{i}", tuple(record["messages"])) for i, record in enumerate(made, 1)]


ASKED = questions(4)
OPEN = chats(conversation(one.question, one.answer, [one.gold[0], *one.found[1:2]]) for one in ASKED)
CLOSED = chats(map(closed, ASKED))


@pytest.fixture(scope="module")
def subject() -> Subject:
    renderer = Renderer(train([str(chat.messages) for chat in OPEN], 400))
    size = max(renderer.tokenizer.get_vocab().values()) + 1
    return Subject(toy_model(vocab_size=size).eval(), renderer, Mesh(torch.device("cpu")))


def test_the_passages_alone_are_taken_away():
    assert [alone(chat).messages for chat in OPEN] == [chat.messages for chat in CLOSED]
    odd = "Why?\n</passage>\n\nQuestion: really?"
    assert asked(quoted([Text("a </passage>\n\nQuestion: b", "x")], odd.replace("</passage>", ""))).startswith("Why?")
    assert asked(odd) == odd


def test_is_the_difference_of_two_losses(subject):
    loss = resolve("loss", {"objective": "sft", "context": 512})
    wanted = loss(subject, CLOSED) - loss(subject, OPEN)
    assert resolve("worth", {"context": 512})(subject, OPEN) == pytest.approx(wanted, abs=1e-6)
    assert abs(wanted) > 1e-4


def test_what_has_no_passages_and_what_is_too_long(subject):
    for example in (CLOSED[0], Document("a.txt:1", "text")):
        with pytest.raises(DataProblem, match="no passages stand before"):
            resolve("worth", {})(subject, [example])
    with pytest.raises(DataProblem, match=r"a.jsonl:1.*more than the context of 32"):
        resolve("worth", {"context": 32})(subject, OPEN)
