"""The page in a real browser: asking, reading, stopping, asking again, and what happens when something fails."""

import time

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Error

from didact.serve.ground import Ground
from didact.serve.keys import Keys, create
from tests.serve import browsing
from tests.serve.browsing import answered, ask, visit
from tests.serve.running import running
from tests.serve.scripted import scripted
from tests.serve.shelf import Found, Shelf

pytestmark = pytest.mark.skipif(browsing.WHERE is None, reason="no Chromium on this machine")

MARKDOWN = """\
# Colours

Some *red*, **blue** and `code`, see [the list](https://example.org/a_(b)).

- one
  1. inner

| a | b |
|---|--:|
| 1 | 2 |

> said

```python
x = "<b>"
```
"""
PLANTED = """\
<script>alert(1)</script> <img src=x onerror="alert(2)">

[run](javascript:alert(3)) [data](data:text/html,<script>alert(4)</script>) ![spy](https://spy.example/p.png)

<iframe src="https://spy.example"></iframe> <javascript:alert(5)> `</code><script>alert(6)</script>`

```html
</code></pre><script>alert(7)</script>
```
"""
SAYS = {"markdown": MARKDOWN, "planted": PLANTED, "long": "word " * 2000, "cite": "Red [1], not blue [2] or [9]."}


def says(prompt, seed):
    """By the last of the words above that the prompt has, else by the seed."""
    last = max(SAYS, key=prompt.rfind)
    return SAYS[last] if last in prompt else f"It is {seed}."


@pytest.fixture(scope="module")
def browser():
    with browsing.browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def model(base):
    return scripted(base, says, pause=0.002)


@pytest.fixture(scope="module")
def server(model):
    with running(model) as up:
        yield up


@pytest.fixture
def page(browser, server):
    with visit(browser, server.url) as page:
        yield page


def test_an_answer_streams_and_is_markdown(page):
    page.get_by_label("Your message").fill("long")
    page.keyboard.press("Enter")
    text = page.locator(".answer .text")
    page.wait_for_function("() => document.querySelector('.answer .text')?.textContent.length > 50")
    assert page.locator("#thread").get_attribute("aria-busy") == "true"
    assert len(text.text_content()) < 9000
    page.get_by_role("button", name="Stop").click()
    answer = ask(page, "markdown")
    assert answer.locator("h3").text_content() == "Colours"
    assert answer.locator("em").text_content() == "red"
    assert answer.locator("strong").text_content() == "blue"
    assert answer.get_by_role("link").get_attribute("href") == "https://example.org/a_(b)"
    assert answer.locator("ul > li > ol > li").text_content() == "inner"
    assert answer.locator("td.right").text_content() == "2"
    assert answer.locator("blockquote").text_content() == "said"
    assert answer.locator("pre").text_content() == 'x = "<b>"'
    answer.get_by_role("button", name="Copy", exact=True).click()
    answer.get_by_text("Copied").wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()") == 'x = "<b>"'
    assert page.locator("#announcer").text_content() == "Copied"


def test_what_a_model_writes_stays_text(page):
    answer = ask(page, "planted")
    assert answer.locator("script, img, iframe, object, embed, [onerror], [style]").count() == 0
    links = answer.locator("a").evaluate_all("(links) => links.map((link) => link.href)")
    assert links == ["https://spy.example/p.png", "https://spy.example/"]  # a picture is a link, followed by none
    for text in ("<script>alert(1)</script>", "run", "</code></pre><script>alert(7)</script>"):
        assert text in answer.text_content()
    answer.get_by_text("run", exact=True).click()
    assert page.evaluate("() => document.querySelectorAll('script').length") == 2  # the page's own


@pytest.mark.parametrize("way", ["button", "key"])
def test_stopping_keeps_what_was_written_and_frees_the_slot(page, server, way):
    page.get_by_label("Your message").fill("long")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.answer .text')?.textContent.length > 50")
    if way == "key":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Stop").click()
    answer = answered(page)
    assert answer.locator(".note").text_content() == "Stopped."
    assert 50 < len(answer.locator(".text").text_content()) < 9000
    until = time.monotonic() + 5
    while server.state.engine.running and time.monotonic() < until:
        time.sleep(0.01)
    assert not server.state.engine.running


def test_answering_again_keeps_the_first_answer(page):
    first = ask(page, "which?").locator(".text").text_content()
    page.get_by_role("button", name="Answer again").click()
    page.get_by_text("2/2").wait_for()
    second = page.locator(".answer .text").text_content()
    assert second != first
    page.get_by_role("button", name="Earlier answer").click()
    assert page.locator(".answer .text").text_content() == first
    assert page.get_by_role("button", name="Earlier answer").is_disabled()
    page.reload()
    page.locator(".turn").wait_for()
    assert page.locator(".answer .text").text_content() == first


def test_conversations_stay_in_the_browser(page):
    ask(page, "first question")
    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".turn").count() == 0
    ask(page, "second question")
    page.get_by_label("Your message").fill("half a thou")
    page.reload()
    page.locator(".turn").wait_for()
    assert page.locator(".user p").all_text_contents() == ["second question"]
    assert page.get_by_label("Your message").input_value() == "half a thou"
    page.get_by_role("button", name="first question", exact=True).click()
    assert page.locator(".user p").all_text_contents() == ["first question"]
    page.get_by_role("button", name="Delete “first question”").click()
    assert page.locator("#talks li").count() == 2
    page.get_by_role("button", name="Delete “first question”").click()
    assert page.locator(".turn").count() == 0
    assert page.locator("#talks li").count() == 1


def test_the_model_reads_the_conversation_and_the_instructions(page, model, monkeypatch):
    read = []
    monkeypatch.setattr(model.lane, "says", lambda prompt, seed: read.append(prompt) or f"Reply {len(read)}.")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Instructions for the model").fill("Be kind.")
    page.get_by_role("button", name="Save", exact=True).click()
    ask(page, "one")
    ask(page, "two")
    places = [read[1].find(part) for part in ("Be kind.", "one", "Reply 1.", "two")]
    assert -1 not in places
    assert places == sorted(places)


def test_settings_are_used_and_remembered(page, model, monkeypatch):
    asked = []
    admit = model.lane.admit
    monkeypatch.setattr(model.lane, "admit", lambda jobs: asked.extend(job.ask.sampling for job in jobs) or admit(jobs))
    page.get_by_role("button", name="Settings").click()
    for name, value in (("Temperature", "0.25"), ("Top-p", "0.5"), ("Longest answer, in tokens", "2"), ("Seed", "77")):
        page.get_by_role("spinbutton", name=name).fill(value)
    page.get_by_label("Your pseudonym").fill("not allowed!")
    page.get_by_role("button", name="Save", exact=True).click()
    assert page.locator("#settings").is_visible()
    page.get_by_label("Your pseudonym").fill("ann")
    page.get_by_role("button", name="Save", exact=True).click()
    page.reload()
    answer = ask(page, "long")
    assert (asked[0].temperature, asked[0].top_p, asked[0].max_new_tokens, asked[0].seed) == (0.25, 0.5, 2, 77)
    assert "as long as the answer may get" in answer.locator(".note").text_content()
    page.get_by_role("button", name="Settings").click()
    assert page.get_by_label("Your pseudonym").input_value() == "ann"


def test_one_of_several_models_is_chosen(browser, base, model):
    other = scripted(base, lambda prompt, seed: "From the other.", "other")
    with running(model, other) as up, visit(browser, up.url) as page:
        page.get_by_label("Model", exact=True).select_option("other")
        answer = ask(page, "who?")
        assert answer.locator(".text").text_content() == "From the other."
        assert answer.locator(".who").text_content() == "other"


def test_sources_stand_beside_the_answer(browser, model):
    found = [Found("The red thing.", title="Colours"), Found("The blue thing.", 0.8, "b/blue.md", "", "Blue", 10, 25)]
    with running(model, ground=Ground(Shelf(*found))) as up, visit(browser, up.url) as page:
        answer = ask(page, "cite")
        assert answer.locator(".text").text_content() == "Red 1, not blue 2 or [9]."
        sources = page.locator(".sources details")
        assert sources.locator("summary").all_text_contents() == [
            "1Colours \u203a One \u203a Two",
            "2blue.md \u203a Blue",
        ]
        assert not sources.nth(1).locator("blockquote").is_visible()
        answer.get_by_role("button", name="Source 2").click()
        assert sources.nth(1).locator("blockquote").text_content() == "The blue thing."
        assert sources.nth(1).locator("blockquote").is_visible()
        assert sources.nth(1).locator(".where").text_content() == "b/blue.md, characters 10\u201325"
        beside = [page.locator(place).first.bounding_box() for place in (".answer", ".sources")]
        assert beside[1]["x"] > beside[0]["x"] + beside[0]["width"]


def test_the_page_says_that_nothing_was_found(browser, model):
    with running(model, ground=Ground(Shelf(Found("x", 0.1)))) as up, visit(browser, up.url) as page:
        ask(page, "which?")
        assert page.locator(".sources .nothing").text_content() == "Nothing relevant was found in the documents."


# --- what fails ---------------------------------------------------------------------------------------------


def refused(page, text, words):
    """What was typed is back in its field, and the page says why."""
    page.watched.expects = "Failed to load resource"
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert words in alert.text_content()
    assert page.get_by_label("Your message").input_value() == text
    assert page.locator(".turn").count() == 0


def test_a_question_that_is_too_long_is_not_lost(page):
    refused(page, "x" * 5000, "too long for the model")


@pytest.mark.slow
def test_a_body_that_is_too_large_is_not_lost(page):
    refused(page, "y" * (1 << 20), "too long for the server")


def test_a_busy_server_is_asked_again(browser, base, model):
    slow = scripted(base, lambda prompt, seed: "word " * 5000, "slow", pause=0.01)
    with running(model, slow, slots=1, queue=0) as up, visit(browser, up.url) as page:
        busy = up.client.chat.completions.create(model="slow", messages=[{"role": "user", "content": "x"}], stream=True)
        next(iter(busy))
        refused(page, "which?", "The server is busy. Try again in ")
        busy.close()
        while up.state.engine.running:
            time.sleep(0.01)
        page.get_by_role("button", name="Try again").click()
        assert answered(page).locator(".text").text_content().startswith("It is ")
        assert page.get_by_label("Your message").input_value() == ""
        assert page.get_by_role("alert").count() == 0


def test_a_server_that_goes_leaves_what_it_said(browser, model):
    with running(model) as up, visit(browser, up.url) as page:
        page.watched.expects = "Failed to load resource|ERR_"
        page.get_by_label("Your message").fill("long")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelector('.answer .text')?.textContent.length > 50")
        up.state.engine.stop()
        answer = answered(page)
        assert len(answer.locator(".text").text_content()) > 50
        assert answer.locator(".note").text_content() == "The connection broke off here."
        assert "the server is being stopped" in page.get_by_role("alert").text_content()
        page.context.set_offline(True)
        page.get_by_label("Your message").fill("are you there?")
        page.keyboard.press("Enter")
        page.get_by_text("The server cannot be reached").wait_for()
        assert page.get_by_label("Your message").input_value() == "are you there?"
        page.context.set_offline(False)


def test_a_key_is_asked_for_once(browser, model, tmp_path):
    key = create(tmp_path / "keys", "ann")
    with running(model, keys=Keys(tmp_path / "keys")) as up, visit(browser, up.url, ready=False) as page:
        page.watched.expects = "401"
        page.get_by_role("textbox", name="Key").fill("wrong")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelector('dialog[open] input')?.value === ''")
        page.get_by_role("textbox", name="Key").fill(key)
        page.keyboard.press("Enter")
        page.locator("body[data-ready]").wait_for()
        assert ask(page, "which?").locator(".text").text_content().startswith("It is ")
        page.reload()
        page.locator("body[data-ready]").wait_for()
        assert page.get_by_role("dialog").count() == 0
        assert page.evaluate("() => [localStorage.getItem('didact.key'), sessionStorage.getItem('didact.key')]") == [
            None,
            key,
        ]


def test_no_text_takes_long_to_show(page):
    hard = [
        "*",
        "**a",
        "_a ",
        "`",
        "``a`",
        "[",
        "[a](",
        "![",
        "> ",
        "- ",
        "|a",
        "~~",
        "<http://",
        "1. ",
        "\\",
        "#",
        "h",
        "[1]",
    ]
    slowest = page.evaluate(
        """async (hard) => {
          const { show } = await import("./markdown.js");
          const took = hard.map((part) => {
            const begun = performance.now();
            show(document.createElement("div"), part.repeat(20000 / part.length), (n) => String(n));
            return [performance.now() - begun, part];
          });
          return took.sort((one, other) => other[0] - one[0])[0];
        }""",
        hard,
    )
    assert slowest[0] < 2000, slowest


@pytest.mark.parametrize(
    "attack",
    [
        "() => fetch('https://spy.example/')",
        "() => { document.body.innerHTML = '<b>markup</b>'; }",
    ],
)
def test_the_policy_stops_what_gets_past_the_page(page, attack):
    page.watched.expects = "policy|Policy|TrustedHTML"
    with pytest.raises(Error):
        page.evaluate(attack)
    page.wait_for_timeout(100)
    assert any(error.startswith("policy: ") for error in page.watched.errors)
