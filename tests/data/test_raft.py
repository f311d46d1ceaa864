import re
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.data.raft import REFUSAL, Asked, Plan, closed, conversation, files, quotation
from didact.text.quote import defused, quoted, task


@dataclass(frozen=True)
class Text:
    text: str
    source: str


def asked(count: int = 60, others: int = 8) -> list[Asked]:
    def page(i: int) -> Text:
        return Text(
            f"About others of no use. See below.\nthing{i} turns the wheel number {i} by one. So much.", f"page{i}"
        )

    far = [Text(f"Nothing of the kind, {j} times.", f"other{j}") for j in range(others)]
    return [
        Asked(f"What does thing{i} do?", f"It turns the wheel number {i} by one.", [page(i)], [page(i), *far])
        for i in range(count)
    ]


def plan(**options) -> Plan:
    return Plan(
        **{"golden": 0.8, "distractors": 4, "quote": True, "refuse": False, "found": False, "seed": 3, **options}
    )


def shown(record) -> list[str]:
    return re.findall(r'<passage number="\d+" source="([^"]*)">', record["messages"][1]["content"])


@pytest.mark.parametrize("golden", [0.0, 0.25, 0.8, 1.0])
def test_the_share_with_the_right_document_is_exact(golden):
    made = list(plan(golden=golden).learned(asked()))
    has = [f"page{i}" in record["documents"] for i, record in enumerate(made)]
    assert sum(has) == round(60 * golden)
    assert {len(record["documents"]) for record in made} == {5}  # how many there are tells nothing


def test_the_right_one_stands_anywhere():
    places = Counter(
        record["documents"].index(f"page{i}") for i, record in enumerate(plan(golden=1).learned(asked(1000)))
    )
    assert sum((places[place] - 200) ** 2 / 200 for place in range(5)) < 18.5  # chi square, 4 degrees, p = 0.001


def test_quotes_are_letters_of_the_passage_they_name():
    for i, record in enumerate(plan(golden=1).learned(asked())):
        answer = record["messages"][2]["content"]
        quote, number, rest = re.fullmatch(r"> (.*) \[(\d)\]\n\n(.*)", answer).groups()
        assert quote == f"thing{i} turns the wheel number {i} by one."
        assert record["documents"][int(number) - 1] == f"page{i}"
        assert rest == f"It turns the wheel number {i} by one."


@given(st.text(min_size=1).filter(str.strip), st.text(), st.text())
def test_any_quote_is_a_substring(text, question, answer):
    said = quotation(Text(text, "a"), Asked(question, answer, [], []))
    assert said in defused(text)
    assert said.strip()
    assert "\n" not in said


def test_no_distractor_has_the_answer():
    (one,) = asked(1)
    spoiled = Asked(one.question, one.answer, one.gold, [Text(f"Also: {one.answer}", "x"), *one.found])
    for record in (*plan().learned([spoiled]), *plan().measured([spoiled], 8)):
        assert "x" not in record["documents"]


def test_refusing_and_answering_without_the_document():
    refused, said = (next(plan(golden=0, refuse=refuse).learned(asked(1))) for refuse in (True, False))
    assert refused["messages"][2]["content"] == REFUSAL
    assert said["messages"][2]["content"] == "It turns the wheel number 0 by one."
    assert refused["messages"][1] == said["messages"][1]


def test_the_prompt_is_the_servers():
    (one,) = asked(1)
    made = conversation(one.question, one.answer, one.gold)
    system, user, answer = made["messages"]
    assert system == {"role": "system", "content": task()}
    assert user["content"] == quoted(
        [Text(one.gold[0].text, "page0")], one.question
    )  # what serve/ground.py puts into a prompt
    assert answer["content"] == one.answer
    assert shown(made) == made["documents"] == ["page0"]


def test_measured_sets_ask_the_same_questions():
    made = files(plan(), asked(), asked(20), (0, 2, 8))
    assert [len(made[name]) for name in ("train", "closed", "open0", "open2", "open8")] == [60, 20, 20, 20, 20]
    for name in ("closed", "open0", "open2", "open8"):
        assert [record["messages"][-2]["content"].rpartition("Question: ")[2] for record in made[name]] == [
            one.question for one in asked(20)
        ]
    assert [len(record["documents"]) for record in made["open8"]] == [9] * 20
    assert made["closed"][0] == closed(asked(1)[0])
    assert made == files(plan(), asked(), asked(20), (0, 2, 8))


def test_what_a_search_finds_is_shown_as_it_is():
    near, far = asked(2)
    lost = Asked(far.question, far.answer, far.gold, far.found[1:])
    first, second = plan(found=True).learned([near, lost])
    assert first["documents"] == [one.source for one in near.found[:5]]
    assert first["messages"][2]["content"].startswith("> thing0 turns")
    assert second["documents"] == [one.source for one in far.found[1:6]]
    assert second["messages"][2]["content"] == far.answer
