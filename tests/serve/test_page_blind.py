"""``didact eval A B --people`` in a browser: nothing says whose answer is whose, and what people say is told."""

from contextlib import contextmanager

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import expect

from didact.feedback.rates import wilson
from didact.feedback.store import Store
from didact.run.duel import Duel, duel
from tests.battery.base import lines
from tests.run.speakers import chain, speaker
from tests.serve import browsing
from tests.serve.browsing import records, visit
from tests.serve.running import running
from tests.serve.scripted import scripted

pytestmark = pytest.mark.skipif(browsing.WHERE is None, reason="no Chromium on this machine")

PAIRS = 8
OURS, THEIRS = "raised-after", "raised-before"
MARKS = ("model_hash", "adapter_hash", "sampling")  # of who wrote an answer, beside the names


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A model that says yes, one that says no, and what both are asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("didact.run.duel._general", lambda *_: None)  # what they forgot is not looked at here
    speaker(tmp_path / OURS, chain("yes"))
    speaker(tmp_path / THEIRS, chain("no"))
    asked = [{"prompt": [{"role": "user", "content": f"Is {i} so?"}]} for i in range(PAIRS)]
    (tmp_path / "asked.jsonl").write_text(lines(asked))
    return tmp_path


def compared() -> tuple[dict, str]:
    """What the command prints, and what it says."""
    said: list[str] = []
    asked = Duel("asked.jsonl", temperature=0, max_new_tokens=3, device="cpu", people=1, store="s.sqlite")
    return duel(OURS, THEIRS, asked, said.append), said[-1]


@contextmanager
def reviewing(browser, url, seen: list[str]):
    """The queue as ann sees it; all that the browser sends, gets, holds and shows goes into ``seen``."""
    with visit(browser, url, ready=False) as page:
        answers = []
        page.on("request", lambda request: seen.append(f"{request.method} {request.url} {request.post_data}"))
        page.on("response", lambda answer: answers.append(answer))
        page.evaluate("localStorage.setItem('didact.annotator', '\"ann\"')")
        page.reload()
        page.locator("body[data-ready]").wait_for()
        page.get_by_role("link", name="Review").click()
        yield page
        seen += [f"{answer.all_headers()} {answer.text()}" for answer in answers if "/feedback" in answer.url]
        seen += [page.content(), page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")]


def shown(page, left: int) -> list[str]:
    """The two answers in the order on the screen."""
    expect(page.locator("#review-progress")).to_contain_text(f"{left} left for you")
    expect(page.locator("#review-item .card .text")).to_have_count(2)
    return page.locator("#review-item .card .text").all_text_contents()


def rank(page, places: list[int], seen: list[str]) -> None:
    """Gives the cards their places, records that, and goes on."""
    page.locator("#review-item .card[tabindex='0']").focus()
    for key in (str(places[0]), "ArrowRight", str(places[1])):
        page.keyboard.press(key)
    page.get_by_role("button", name="Record this ranking").click()
    expect(page.locator("#review-item .ranking > .row .status")).to_have_text("Recorded")
    seen.append(page.content())  # nor is it told after the vote: the next answers may be by the same
    page.get_by_role("button", name="Next").click()


def test_a_blind_comparison_from_the_command_to_its_result(two, browser, base):
    told, line = compared()
    assert (told["queued"], told["alike"], told["judged"]) == (PAIRS, 0, 0)
    assert line.startswith(
        f"0 of {PAIRS} pairs are judged; judge on the page of `didact serve {OURS} --feedback s.sqlite`"
    )
    other, seen, first, votes = scripted(base, lambda *_: "Hello.", "host"), [], [], {}
    with Store.open("s.sqlite") as store, running(other, store=store) as server:
        for part in (range(3), range(3, PAIRS)):  # in the middle ann leaves, and comes back later
            with reviewing(browser, server.url, seen) as page:
                for number in part:
                    texts = shown(page, PAIRS - number)
                    first.append(texts[0])
                    better = texts[0].startswith("yes") == (number != 4)  # but for one, yes is better
                    rank(page, [1, 1] if number == 1 else [1, 2] if better else [2, 1], seen)
                if part.stop == PAIRS:
                    expect(page.locator("#review-item")).to_contain_text("Nothing is left to review.")
                else:
                    shown(page, PAIRS - part.stop)
                    page.screenshot(path=two / "review.png")
            told, line = compared()
            votes[part.stop] = told
        exchanges = records(store, "exchange")
    for text in seen:
        for mark in (OURS, THEIRS, *MARKS):
            assert mark not in text, text[max(0, text.find(mark) - 200) :][:400]
    assert {text[:2] for text in first} == {"ye", "no"}  # who stands first is of chance
    assert {one.candidates[0].model for one in exchanges} == {OURS, THEIRS}  # and who has which number
    assert len({(one.shown, one.candidates[0].model) for one in exchanges}) > 2
    assert (votes[3]["judged"], votes[3]["win_rate"], votes[3]["ties"]) == (3, 2.5 / 3, 1)
    assert (told["judged"], told["win_rate"], told["ties"], told["people"]) == (PAIRS, 6.5 / PAIRS, 1, 1)
    low, high = wilson(6.5 / PAIRS, PAIRS)
    assert told["interval"] == [low, high]
    assert line == f"8 of 8 pairs are judged by 1: {OURS} wins 81.2% ({low:.1%} to {high:.1%}), 1 ties"


@pytest.fixture(scope="module")
def browser():
    with browsing.browser() as browser:
        yield browser
