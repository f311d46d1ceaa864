"""What people say on the page of answers: what reaches the store, when the page shows it, and nothing twice."""

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import expect

from didact.feedback.records import (
    Candidate,
    Edit,
    Exchange,
    Message,
    Passage,
    Ranking,
    Rating,
    Retraction,
    Review,
    Skip,
    Thumb,
)
from didact.feedback.report import report
from didact.feedback.review import enqueue
from didact.feedback.standing import standing
from didact.feedback.store import Store
from didact.serve.ground import Ground
from tests.serve import browsing
from tests.serve.browsing import ask, records, visit
from tests.serve.running import running
from tests.serve.scripted import scripted
from tests.serve.shelf import Found, Shelf

pytestmark = pytest.mark.skipif(browsing.WHERE is None, reason="no Chromium on this machine")

PROMPT = (Message(role="user", content="Which is red?"),)


@pytest.fixture(scope="module")
def browser():
    with browsing.browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def models(base):
    return [scripted(base, lambda prompt, seed, name=name: f"{name} says {seed}.", name) for name in ("one", "two")]


@pytest.fixture
def store(tmp_path):
    with Store.open(str(tmp_path / "feedback.sqlite")) as store:
        yield store


@pytest.fixture
def server(models, store):
    with running(*models, store=store) as up:
        yield up


@pytest.fixture
def page(browser, server):
    with visit(browser, server.url) as page:
        page.evaluate("localStorage.setItem('didact.annotator', '\"ann\"')")
        yield page


def pressed(page, name):
    return page.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed") == "true"


def recorded(page):
    expect(page.locator(".bar .status").first).to_have_text("Recorded")


# --- thumbs and stars ---------------------------------------------------------------------------------------


def test_a_thumb_is_recorded_corrected_and_taken_back(page, store, models):
    text = ask(page, "Which is red?").locator(".text").text_content()
    assert records(store) == []  # nothing is kept of those who say nothing
    page.get_by_role("button", name="Good answer").click()
    recorded(page)
    page.get_by_label("Reason").fill("short and right")
    page.get_by_role("button", name="Save reason").click()
    expect(page.locator(".bar .status")).to_have_text("Recorded")
    page.get_by_role("button", name="Bad answer").click()
    expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")
    assert not pressed(page, "Good answer")
    page.get_by_role("button", name="Bad answer").click()
    expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "false")
    asked, up, reason, down, back = records(store)
    assert isinstance(asked, Exchange)
    assert [turn.content for turn in asked.prompt] == ["Which is red?"]
    candidate = asked.candidates[0]
    assert (candidate.text, candidate.model, candidate.model_hash) == (text, "one", models[0].hash)
    assert text == f"one says {candidate.sampling['seed']}."
    assert {"temperature": 0.7, "top_p": 0.95}.items() <= candidate.sampling.items()
    assert candidate.tokens > 0
    assert (asked.shown, asked.annotator, asked.page) == ((0,), "ann", "1")
    ids = [kept.id for kept in store.each()]
    assert [type(each) for each in (up, reason, down, back)] == [Thumb, Thumb, Thumb, Retraction]
    assert [each.replaces for each in (up, reason, down, back)] == [None, *ids[1:4]]
    assert [each.up for each in (up, reason, down)] == [True, True, False]
    assert (up.reason, reason.reason) == ("", "short and right")
    assert standing(store) == []


def test_stars_by_keys(page, store):
    ask(page, "Which is red?")
    page.get_by_role("radio", name="1 star", exact=True).focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    recorded(page)
    assert page.get_by_role("radio", name="3 stars").get_attribute("aria-checked") == "true"
    page.reload()
    expect(page.get_by_role("radio", name="3 stars")).to_have_attribute("aria-checked", "true")
    page.get_by_role("radio", name="5 stars").click()
    expect(page.get_by_role("radio", name="5 stars")).to_have_attribute("aria-checked", "true")
    found = records(store, "judgement")
    assert [type(each) for each in found] == [Rating, Rating]
    assert [each.rating for each in found] == [3, 5]
    assert found[1].replaces


def test_nothing_counts_as_recorded_before_the_server_says_so(page, store):
    ask(page, "Which is red?")
    held = []
    page.route("**/feedback/judgements", lambda route: held.append(route))
    page.get_by_role("button", name="Good answer").click()
    expect(page.locator(".bar .status")).to_have_text("Saving…")
    while not held:
        page.wait_for_timeout(10)
    assert not pressed(page, "Good answer")
    held[0].continue_()
    recorded(page)
    assert pressed(page, "Good answer")


def test_what_the_network_lost_is_sent_again_and_kept_once(page, store):
    page.watched.expects = "Failed to load resource"
    ask(page, "Which is red?")
    keys = []

    def lossy(route):
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:  # the request is lost
            route.abort()
        elif len(keys) == 2:  # the answer is lost
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/feedback/judgements", lossy)
    page.get_by_role("button", name="Good answer").click()
    recorded(page)
    assert len(keys) == 3
    assert len({*keys}) == 1
    assert [kept.key for kept in store.each("judgement")] == keys[:1]


def test_what_could_not_be_sent_is_sent_after_a_reload(page, store):
    page.watched.expects = "Failed to load resource"
    ask(page, "Which is red?")
    page.clock.install()
    page.route("**/feedback/**", lambda route: route.abort())
    page.get_by_role("button", name="Good answer").click()
    for _ in range(3):
        page.clock.run_for(5000)
    expect(page.locator(".bar .status")).to_contain_text("Not recorded. The server cannot be reached")
    assert page.get_by_role("button", name="Try again").is_visible()
    assert not pressed(page, "Good answer")
    page.unroute("**/feedback/**")
    page.reload()
    recorded(page)
    assert pressed(page, "Good answer")
    assert [record.up for record in records(store, "judgement")] == [True]


def test_a_better_answer_is_recorded_and_read_on(page, store, models, monkeypatch):
    answer = ask(page, "Which is red?")
    old = answer.locator(".text").text_content()
    page.get_by_role("button", name="Write a better answer").click()
    field = page.get_by_role("textbox", name="A better answer")
    assert field.input_value() == old
    field.fill("  ")
    page.get_by_role("button", name="Save as the better answer").click()
    assert page.get_by_text("An answer needs some text.").is_visible()
    field.fill("The **rose** is.")
    page.get_by_role("button", name="Save as the better answer").click()
    expect(answer.locator(".text strong")).to_have_text("rose")
    assert isinstance(records(store)[1], Edit)
    assert (records(store)[1].text, records(store)[1].candidate) == ("The **rose** is.", 0)
    read = []
    monkeypatch.setattr(models[0].lane, "says", lambda prompt, seed: read.append(prompt) or "yes")
    ask(page, "Sure?")
    assert "The **rose** is." in read[0]
    assert old not in read[0]


def test_what_an_answer_stood_on_is_recorded(browser, models, store):
    ground = Ground(Shelf(Found("The red thing.", source="docs/a.md", heading="Red")))
    with running(*models, store=store, ground=ground) as up, visit(browser, up.url) as page:
        ask(page, "Which is red?")
        page.get_by_role("button", name="Good answer").click()
        recorded(page)
    (passage,) = records(store, "exchange")[0].passages
    assert (passage.text, passage.source, passage.heading) == ("The red thing.", "docs/a.md", "Red")


def test_a_person_is_forgotten(page, store):
    ask(page, "Which is red?")
    page.get_by_role("button", name="Good answer").click()
    recorded(page)
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Delete all I recorded").click()
    assert len(records(store)) == 2
    page.get_by_role("button", name="Delete all I recorded").click()
    expect(page.locator("#forget-status")).to_have_text("2 records were deleted.")
    assert [record.type for record in records(store)] == ["forgotten"]


# --- comparing ----------------------------------------------------------------------------------------------


def compare(page, count, vary="seed"):
    page.get_by_role("link", name="Compare").click()
    page.get_by_label("Question for all").fill("Which is red?")
    page.get_by_label("Answers", exact=False).first.select_option(str(count))
    page.locator("#compare-vary").select_option(vary)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator(".place").first.wait_for()
    return page.locator(".cards .text").all_text_contents()


def judged(page, store):
    page.get_by_role("button", name="Record this ranking").click()
    page.locator(".revealed").first.wait_for()
    asked, ranking = records(store)
    assert isinstance(ranking, Ranking)
    return asked, ranking


def test_three_answers_are_ranked_by_keys_with_a_tie(page, store):
    texts = compare(page, 3)
    assert page.get_by_role("button", name="Record this ranking").is_disabled()
    page.locator(".card[tabindex='0']").focus()
    for key in ("2", "ArrowRight", "1", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    assert page.locator(".cards .card").nth(2).get_attribute("aria-label") == "Answer C, place 3"
    page.keyboard.press("2")
    assert page.locator(".cards .card").nth(2).get_attribute("aria-label") == "Answer C, place 2, tied"
    assert "one ·" not in page.locator("#compare-round").text_content()
    asked, ranking = judged(page, store)
    assert [asked.candidates[number].text for number in asked.shown] == texts
    assert sorted(asked.shown) == [0, 1, 2]
    assert ranking.ranking == ((asked.shown[1],), (asked.shown[0], asked.shown[2]))
    assert [candidate.model for candidate in asked.candidates] == ["one", "two", "one"]
    assert len({candidate.sampling["seed"] for candidate in asked.candidates}) == 3
    assert ranking.seconds > 0
    revealed = page.locator(".revealed").all_text_contents()
    assert [name.split(" ")[0] for name in revealed] == [asked.candidates[number].model for number in asked.shown]


def test_four_answers_are_ranked_by_dragging(page, store):
    texts = compare(page, 4, "temperature")
    for letter, place in (("C", 1), ("A", 2), ("D", 2), ("B", 4)):
        chip = page.locator(".chip", has_text=letter)
        chip.scroll_into_view_if_needed()
        chip.drag_to(page.locator(f".slot[data-place='{place}']"))
    asked, ranking = judged(page, store)
    a, b, c, d = asked.shown
    assert ranking.ranking == ((c,), (a, d), (b,))
    assert [asked.candidates[number].text for number in asked.shown] == texts
    assert [candidate.sampling["temperature"] for candidate in asked.candidates] == [0.2, 0.6, 1.0, 1.4]


def test_the_order_of_answers_is_random(page):
    compare(page, 2)
    orders = page.evaluate(
        """async () => {
          const { shuffled } = await import("./compare.js");
          const counts = {};
          for (let i = 0; i < 6000; i++) { const o = shuffled(3).join(""); counts[o] = (counts[o] ?? 0) + 1; }
          return counts;
        }"""
    )
    assert len(orders) == 6
    assert all(800 < count < 1200 for count in orders.values())  # 1000 each, six deviations off


def test_a_ranking_that_was_lost_is_recorded_once(page, store):
    page.watched.expects = "Failed to load resource"
    compare(page, 2)
    page.clock.install()
    page.route("**/feedback/judgements", lambda route: (route.fetch(), route.abort()))
    page.locator(".card[tabindex='0']").focus()
    for key in ("1", "ArrowRight", "2"):
        page.keyboard.press(key)
    page.get_by_role("button", name="Record this ranking").click()
    for _ in range(4):
        page.wait_for_timeout(50)
        page.clock.run_for(5000)
    expect(page.locator(".ranking .status").last).to_contain_text("Not recorded.")
    assert page.locator(".revealed").count() == 0
    page.unroute("**/feedback/judgements")
    asked, ranking = judged(page, store)
    assert ranking.ranking == ((asked.shown[0],), (asked.shown[1],))


# --- review and dashboard -----------------------------------------------------------------------------------


def test_the_queue_is_reviewed_to_its_end(page, store):
    sides = tuple(Candidate(text=f"Side {side}", model="M") for side in "xy")
    stood_on = (Passage(text="The red thing.", source="docs/a.md"),)
    alone = store.add(Exchange(prompt=PROMPT, candidates=sides[:1], shown=(0,), passages=stood_on))
    both = store.add(Exchange(prompt=PROMPT, candidates=sides, shown=(1, 0)))
    skipped = store.add(Exchange(prompt=PROMPT, candidates=sides[1:], shown=(0,)))
    given = [{"exchange": alone.id}, {"exchange": both.id}, {"exchange": skipped.id}, {"prompt": PROMPT}]
    items = enqueue(store, [Review(**each) for each in given])
    start = len(records(store))
    page.get_by_role("link", name="Review").click()
    progress = page.locator("#review-progress")
    expect(progress).to_have_text("0 judged in this visit · 4 left for you")
    expect(page.locator("#review-item .text")).to_have_text("Side x")
    assert page.locator("#review-item .source").text_content() == "1a.mddocs/a.mdThe red thing."
    assert page.get_by_role("button", name="Next").is_disabled()
    page.get_by_role("radio", name="4 stars").click()
    page.locator("#review-item").get_by_role("button", name="Next").click()
    expect(progress).to_have_text("1 judged in this visit · 3 left for you")
    assert page.locator("#review-item .text").all_text_contents() == ["Side y", "Side x"]  # as it was shown at first
    page.locator(".card[tabindex='0']").focus()
    for key in ("2", "ArrowRight", "1"):
        page.keyboard.press(key)
    page.get_by_role("button", name="Record this ranking").click()
    page.get_by_role("button", name="Next").click()
    expect(progress).to_have_text("2 judged in this visit · 2 left for you")
    page.get_by_role("button", name="Skip").click()
    expect(progress).to_have_text("2 judged in this visit · 1 left for you")
    page.locator("#review-item .place").first.wait_for()
    page.locator("#review-item .card[tabindex='0']").focus()
    for key in ("1", "ArrowRight", "1"):
        page.keyboard.press(key)
    page.get_by_role("button", name="Record this ranking").click()
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#review-item")).to_contain_text("Nothing is left to review.")
    rating, ranking, skip, asked, tie = records(store)[start:]
    assert (rating.rating, rating.exchange, rating.annotator) == (4, alone.id, "ann")
    assert (ranking.ranking, ranking.exchange) == (((0,), (1,)), both.id)
    assert isinstance(skip, Skip)
    assert skip.exchange == skipped.id
    assert asked.review == items[3].id
    assert len(tie.ranking) == 1


def test_prompts_are_put_into_the_queue(page, store):
    page.get_by_role("link", name="Review").click()
    page.get_by_text("Add prompts to the queue").click()
    page.get_by_label("One prompt a line").fill("First?\n\n Second? ")
    page.get_by_label("People each").fill("2")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#review-added")).to_have_text("2 prompts are in the queue.")
    expect(page.locator("#review-item .said p")).to_have_text("First?")
    found = records(store, "review")
    assert [(each.prompt[0].content, each.wanted) for each in found] == [("First?", 2), ("Second?", 2)]


def test_a_prompt_is_skipped_before_it_has_answers(page, store):
    enqueue(store, [Review(prompt=PROMPT)])
    page.get_by_role("link", name="Review").click()
    page.get_by_role("button", name="Skip").click()
    expect(page.locator("#review-item")).to_contain_text("Nothing is left to review.")
    asked, skip = records(store)[1:]
    assert asked.candidates == ()
    assert skip.kind == "skip"


def test_the_dashboard_says_what_the_report_says(page, store):
    sides = tuple(Candidate(text=f"Side {side}", model=f"Model {side}") for side in "xy")
    for number, winners in enumerate(("xx", "xy", "xx")):
        asked = store.add(Exchange(prompt=PROMPT, candidates=sides, shown=(0, 1)))
        for name, winner in zip(("ann", "bob"), winners, strict=True):
            order = ((0,), (1,)) if winner == "x" else ((1,), (0,))
            about = {"exchange": asked.id, "annotator": name}
            store.add(Ranking(ranking=order, **about))
            store.add(Rating(rating=3 + (winner == "x"), candidate=0, **about))
            store.add(Thumb(up=number % 2 == 0, **about))
    said = report(store)
    page.get_by_role("link", name="Dashboard").click()
    panel = page.locator(".panel", has=page.get_by_role("heading", name="Win rates"))
    first = said["win_rates"]["Model x"]
    low, high = (round(100 * first[side]) for side in ("low", "high"))
    rate = f"{round(100 * first['rate'])}% ({low}%\u2013{high}%), 6 rounds"
    expect(panel.locator("tbody tr").first).to_have_text(f"Model x{rate}")
    assert panel.locator("svg").count() == 2
    agreement = page.locator(".panel", has=page.get_by_role("heading", name="Agreement"))
    alpha = said["agreement"]["rating"]["alpha"]
    expect(agreement.locator("tr", has_text="Stars").locator("td").nth(2)).to_have_text(f"{alpha['interval']:.2f}")
    volume = page.locator(".panel", has=page.get_by_role("heading", name="Volume by day"))
    assert volume.locator("tbody td").all_text_contents()[1:] == ["18", "3"]
    people = page.locator(".panel", has=page.get_by_role("heading", name="Annotators"))
    assert people.locator("tbody th").all_text_contents() == ["ann (you)", "bob"]
    assert page.locator(".tile").all_text_contents()[:4] == ["3exchanges", "6thumbs", "6ratings", "6rankings"]
