"""The page in a real browser: asking, reading, stopping, asking again, and what happens when something fails."""

import time

import pytest

from tests.serve.scripted import scripted

pytest.importorskip("playwright")
from tests.serve import browsing
from tests.serve.browsing import answered, ask, visit
from tests.serve.running import running

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


@pytest.fixture
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
