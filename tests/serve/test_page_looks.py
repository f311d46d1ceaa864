"""What the page looks like and how it is reached: phones, keys alone, light and dark."""

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import expect

from didact.feedback.records import Candidate, Exchange, Message, Review, Thumb
from didact.feedback.review import enqueue
from didact.feedback.store import Store
from didact.serve.ground import Ground
from tests.serve import browsing
from tests.serve.browsing import answered, ask, records, visit
from tests.serve.running import running
from tests.serve.scripted import scripted
from tests.serve.shelf import Found, Shelf

pytestmark = pytest.mark.skipif(browsing.WHERE is None, reason="no Chromium on this machine")

WIDE = """\
Verylongwordwithoutanybreak_{0} and `code_{0}` in [1].

| {1} |
|{2}|

```
{0} {0}
```
""".format("x" * 120, " | ".join(f"column {i}" for i in range(12)), "---|" * 12)
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}

# Every text that is seen, with its contrast to what is behind it (WCAG 2); where colours are mixed, as they are mixed.
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  canvas.canvas.width = canvas.canvas.height = 1;
  const over = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility({ visibilityProperty: true }) || node.closest(".sr, .skip, :disabled")) continue;
    const behind = [];
    for (let each = node; each; each = each.parentElement) behind.unshift(getComputedStyle(each).backgroundColor);
    const [one, other] = [over(behind), over([...behind, getComputedStyle(node).color])].map(light);
    found.push([(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), node.textContent.slice(0, 40)]);
  }
  return found;
}"""
TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter((node) => {
  const box = node.getBoundingClientRect();
  const elsewhere = node.closest(".wide, pre, #talks, #side, .skip, .sr");
  const seen = node.checkVisibility({ visibilityProperty: true }) && !elsewhere;
  return seen && (box.right > innerWidth + 1 || box.left < -1);
}).map((node) => node.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def browser():
    with browsing.browser() as browser:
        yield browser


@pytest.fixture
def store(tmp_path):
    with Store.open(str(tmp_path / "feedback.sqlite")) as store:
        asked = Exchange(
            prompt=[Message(role="user", content="Which?")],
            candidates=[Candidate(text=WIDE, model="a-model-with-quite-a-long-name"), Candidate(text="b", model="B")],
            shown=[0, 1],
        )
        kept = store.add(asked)
        store.add(Thumb(exchange=kept.id, annotator="someone-with-quite-a-long-name", up=True))
        enqueue(store, [Review(exchange=kept.id, wanted=2)])
        yield store


@pytest.fixture
def server(base, store):
    models = [scripted(base, lambda prompt, seed: WIDE, name) for name in ("one", "a-model-with-quite-a-long-name")]
    ground = Ground(Shelf(Found("The red thing.", source="documents/a/" + "y" * 80)))
    with running(*models, store=store, ground=ground) as up:
        yield up


def tour(page):
    """Every view of the page with something in it, one after the other."""
    ask(page, "Which is red? " + "z" * 90)
    page.locator(".source summary").click()
    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_label("Reason")).to_be_visible()
    yield "chat"
    page.get_by_role("link", name="Compare").click()
    page.get_by_label("Question for all").fill("Which?")
    page.locator("#compare-count").select_option("4")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator(".place").first.wait_for()
    yield "compare"
    page.locator(".card[tabindex='0']").focus()
    for key in ("1", "ArrowRight", "1", "ArrowRight", "2", "ArrowRight", "4"):
        page.keyboard.press(key)
    page.get_by_role("button", name="Record this ranking").click()
    page.locator(".revealed").first.wait_for()
    yield "ranked"
    page.get_by_role("link", name="Review").click()
    page.locator("#review-item .place").first.wait_for()
    page.get_by_text("Add prompts to the queue").click()
    yield "review"
    page.get_by_role("link", name="Dashboard").click()
    page.locator(".panel tbody tr").first.wait_for()
    yield "dashboard"
    page.get_by_role("button", name="Settings").click()
    yield "settings"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser, server, scheme):
    with visit(browser, server.url, color_scheme=scheme) as page:
        for view in tour(page):
            found = page.evaluate(CONTRASTS)
            assert len(found) > 20, view
            assert not [text for contrast, text in found if contrast < 4.5], view


@pytest.mark.parametrize("width", [360, pytest.param(768, marks=pytest.mark.slow)])
def test_nothing_is_wider_than_the_screen(browser, server, width):
    with visit(browser, server.url, **{**PHONE, "viewport": {"width": width, "height": 740}}) as page:
        for view in tour(page):
            assert page.evaluate(TOO_WIDE) == [], view
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width, view


def test_conversations_on_a_phone_are_in_a_drawer(browser, server):
    with visit(browser, server.url, **PHONE) as page:
        ask(page, "Which is red?")
        assert not page.get_by_role("button", name="New conversation").is_visible()
        page.get_by_role("button", name="Conversations").tap()
        page.get_by_role("button", name="New conversation").tap()
        assert not page.get_by_role("button", name="New conversation").is_visible()
        assert page.locator(".turn").count() == 0
        page.get_by_role("button", name="Conversations").tap()
        page.keyboard.press("Escape")
        assert not page.get_by_role("button", name="New conversation").is_visible()


def test_the_scheme_can_be_chosen(browser, server):
    ground = "() => getComputedStyle(document.body).backgroundColor"
    with visit(browser, server.url, color_scheme="dark") as page:
        dark = page.evaluate(ground)
        page.get_by_role("button", name="Colours: auto").click()
        light = page.evaluate(ground)
        assert light != dark
        page.reload()
        assert page.evaluate(ground) == light
        page.get_by_role("button", name="Colours: light").click()
        assert page.evaluate(ground) == dark
        page.get_by_role("button", name="Colours: dark").click()
        page.emulate_media(color_scheme="light")
        assert page.evaluate(ground) == light


def tab_to(page, name):
    """Presses Tab until something with this name has the focus, which can be seen."""
    for _ in range(60):
        page.keyboard.press("Tab")
        label, outline = page.evaluate(
            """() => {
              const node = document.activeElement;
              const shown = node.closest(".composer") ?? node;
              const style = getComputedStyle(shown);
              const seen = style.outlineStyle !== "none" || style.boxShadow !== "none";
              return [node.getAttribute("aria-label") ?? node.textContent.trim(), seen];
            }"""
        )
        if label.startswith(name):
            assert outline, f"no outline on {name}"
            return
    raise AssertionError(f"Tab does not lead to {name!r}")


def test_keys_alone_are_enough(browser, server, store):
    before = len(records(store))
    with visit(browser, server.url) as page:
        tab_to(page, "Your message")
        page.keyboard.type("Which is red?")
        page.keyboard.press("Enter")
        answered(page)
        page.evaluate("() => document.activeElement.blur()")
        tab_to(page, "Source 1")
        page.keyboard.press("Enter")
        assert page.locator(".source blockquote").is_visible()
        page.evaluate("() => document.activeElement.blur()")
        for name in ("Good answer", "1 star"):
            tab_to(page, name)
            page.keyboard.press("Enter")
        expect(page.get_by_role("radio", name="1 star", exact=True)).to_have_attribute("aria-checked", "true")
        tab_to(page, "Write a better answer")
        page.keyboard.press("Enter")
        page.keyboard.press("Control+A")
        page.keyboard.type("Red is.")
        tab_to(page, "Save as")
        page.keyboard.press("Enter")
        expect(page.locator(".answer .text")).to_have_text("Red is.")
        page.evaluate("() => document.activeElement.blur()")
        tab_to(page, "Compare")
        page.keyboard.press("Enter")
        tab_to(page, "Question for all")
        page.keyboard.type("Which?")
        page.keyboard.press("Enter")
        page.locator("#compare-round .place").first.wait_for()
        tab_to(page, "Answer A")
        for key in ("1", "ArrowRight", "2", "Enter"):
            page.keyboard.press(key)
        page.locator(".revealed").first.wait_for()
    said = records(store)[before:]
    assert [getattr(record, "kind", record.type) for record in said] == [
        *("exchange", "thumb", "rating", "edit"),
        *("exchange", "ranking"),
    ]
