"""Takes the pictures of docs/page.md: python -m tests.serve.pictures.

SmolLM2-135M-Instruct answers, from an index over the notes below; the judgements on the dashboard are made up.
"""

import random
import tempfile
from pathlib import Path

from PIL import Image

from didact.feedback.records import Candidate, Exchange, Message, Ranking, Rating, Review, Thumb
from didact.feedback.review import enqueue
from didact.feedback.store import Kept, Store
from didact.retrieve.index import Index
from didact.run.search import index_files
from didact.serve.ground import Ground
from tests.serve import browsing
from tests.serve.browsing import ask, visit
from tests.serve.running import running, served

OUT = Path("docs/pictures")
MODEL = "smollm2-135m-instruct"
NOTES = {
    "watering.md": "# Watering tomatoes\n\nWater tomatoes early in the morning, two or three times a week, at the foot "
    "of the plant. Wet leaves invite blight, a disease that spreads from leaf to leaf.\n",
    "feeding.md": "# Feeding tomatoes\n\nFeed tomatoes with compost when the first fruits show, and then every second "
    "week until the end of August.\n",
    "swarming.md": "# Why bees swarm\n\nBees swarm between May and June, when the hive has become too small and a new "
    "queen is about to hatch.\n",
    "winter.md": "# Bees in winter\n\nIn winter the bees sit close together around their queen, and live on the honey "
    "that they stored in summer.\n",
}
QUESTION = "When should I water tomatoes?"
ASIDE = "Explain in a few sentences why the sky is blue."
MARKDOWN = "Write a Python function that reverses a list, and a list of two ways to use it."
STRENGTH = {"base": 0.0, "tuned": 0.9, "tuned with documents": 1.4}
PEOPLE = {"ann": 2.5, "bob": 1.8, "carol": 0.8}  # how surely each sees the difference


def judgements(store):
    """Ten days in which three people ranked, rated and gave thumbs."""
    chance, names = random.Random(1), [*STRENGTH]
    for number in range(90):
        day = f"2026-01-{5 + int(10 * (number / 90) ** 0.7):02}T12:00:00.{number:06}Z"
        pair = chance.sample(names, 2)
        said = [Candidate(text="An answer. " * chance.randint(3, 12), model=name) for name in pair]
        turn = Message(role="user", content=f"Question {number}")
        asked = Kept(f"x{number}", day, Exchange(prompt=[turn], candidates=said, shown=chance.sample([0, 1], 2)))
        store.put([asked])
        gap = STRENGTH[pair[0]] - STRENGTH[pair[1]] + chance.gauss(0, 0.6)
        for name in chance.sample([*PEOPLE], chance.choice([1, 2, 3])):
            seen = PEOPLE[name] * gap + chance.gauss(0, 1)
            order = [[0, 1]] if abs(seen) < 0.3 else [[0], [1]] if seen > 0 else [[1], [0]]
            about = {"exchange": asked.id, "annotator": name}
            stars = max(1, min(5, round(3 + seen)))
            each = [Ranking(ranking=order, **about), Rating(rating=stars, **about), Thumb(up=seen > 0, **about)]
            given = each[: chance.choice([1, 2, 3])]
            store.put([Kept(f"j{number}{name}{i}", day, record) for i, record in enumerate(given)])


def take(page, name):
    page.mouse.move(0, 0)
    page.evaluate("() => document.activeElement.blur()")
    page.wait_for_timeout(300)
    path = OUT / f"{name}.png"
    page.screenshot(path=path)
    Image.open(path).quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, path.stat().st_size)


def rank(page, *keys):
    page.locator(".card[tabindex='0']").focus()
    for key in keys:
        page.keyboard.press(key)


def pictures(browser, url, store):
    with visit(browser, url, viewport={"width": 1280, "height": 800}) as page:
        page.set_default_timeout(180_000)
        page.evaluate("""() => localStorage.setItem("didact.annotator", '"ann"')""")
        page.evaluate("""() => localStorage.setItem("didact.settings", '{"seed": 5, "temperature": 0.3}')""")
        ask(page, ASIDE)
        page.get_by_role("button", name="New conversation").click()
        ask(page, QUESTION)
        page.get_by_role("radio", name="4 stars").click()
        page.get_by_role("button", name="Good answer").click()
        page.get_by_label("Reason").wait_for()
        page.locator(".source summary").first.click()
        page.locator("#thread").evaluate("(thread) => (thread.scrollTop = 0)")
        take(page, "chat")
        page.evaluate("""() => localStorage.setItem("didact.settings", '{"retrieve": false}')""")
        page.get_by_role("link", name="Compare").click()
        page.get_by_label("Question for all").fill(ASIDE)
        page.locator("#compare-count").select_option("3")
        page.locator("#compare-vary").select_option("temperature")
        page.get_by_role("button", name="Compare", exact=True).click()
        page.locator(".place").first.wait_for()
        rank(page, "2", "ArrowRight", "1", "ArrowRight", "2")
        page.locator("#compare-asked").evaluate("(node) => node.scrollIntoView()")
        take(page, "compare")
        page.get_by_role("link", name="Dashboard").click()
        page.set_viewport_size({"width": 1280, "height": 1500})
        page.locator(".panel tbody tr").first.wait_for()
        take(page, "dashboard")
    with visit(browser, url, "#review", viewport={"width": 768, "height": 900}) as page:
        page.locator("#review-item .text").first.wait_for()
        rank(page, "1")
        take(page, "review")
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "device_scale_factor": 1.5}
    with visit(browser, url, **phone) as page:
        page.set_default_timeout(180_000)
        page.evaluate("""() => localStorage.setItem("didact.settings", '{"seed": 2, "retrieve": false}')""")
        ask(page, MARKDOWN)
        page.get_by_role("button", name="Good answer").click()
        page.get_by_label("Reason").wait_for()
        take(page, "phone")


def main():
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        notes = Path(folder) / "notes"
        notes.mkdir()
        for name, text in NOTES.items():
            (notes / name).write_text(text)
        index_files([str(notes)], index, "all-minilm-l6-v2", 300, 0, "cpu", print)
        ground = Ground(Index.open(index, device="cpu"), passages=3)
        with (
            Store.open(f"{folder}/feedback.sqlite") as store,
            running(served(MODEL, MODEL), store=store, ground=ground) as up,
            browsing.browser() as browser,
        ):
            judgements(store)
            texts = ["Blue light is scattered more than red light by the air.", "Because the sea is blue."]
            turn = Message(role="user", content="Why is the sky blue?")
            said = [Candidate(text=text, model=model) for text, model in zip(texts, STRENGTH, strict=False)]
            kept = store.add(Exchange(prompt=[turn], candidates=said, shown=[1, 0]))
            enqueue(store, [Review(exchange=kept.id), Review(prompt=[turn])])
            pictures(browser, up.url, store)


if __name__ == "__main__":
    main()
