"""A real browser before a real server: whatever the page logs, asks of others or runs against its policy is kept."""

import contextlib
import re
import shutil
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

WHERE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", NOWHERE]
PATIENCE = 8000  # milliseconds
VIOLATED = "addEventListener('securitypolicyviolation', (e) => console.error('policy: ' + e.violatedDirective))"


@contextlib.contextmanager
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=WHERE, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """What a page did that it should not: errors, unless they match what a test ``expects``, and requests elsewhere."""

    errors: list = field(default_factory=list)
    elsewhere: list = field(default_factory=list)
    expects: str = "(?!)"

    def log(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def check(self):
        wrong = [*self.elsewhere, *(error for error in self.errors if not re.search(self.expects, error))]
        assert not wrong, wrong


@contextlib.contextmanager
def visit(browser, url, view="", ready=True, **fields):
    """The page of a server, ready for use; afterwards it has done nothing that it should not."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en", **fields})
    context.set_default_timeout(PATIENCE)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    watched, origin = Watched(), urlsplit(url).netloc

    def asked(request):
        if urlsplit(request.url).netloc != origin:
            watched.elsewhere.append(request.url)

    context.on("request", asked)
    page = context.new_page()
    page.add_init_script(VIOLATED)
    page.on("console", watched.log)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on("dialog", lambda dialog: watched.errors.append(f"dialog: {dialog.message}"))
    page.watched = watched
    page.goto(f"{url}/{view}")
    if ready:
        page.locator("body[data-ready]").wait_for()
    yield page
    context.close()
    watched.check()


def ask(page, text):
    """Asks, and waits for the answer to be complete."""
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")
    return answered(page)


def answered(page):
    """The last answer, once it is complete."""
    page.locator("#thread[aria-busy=false] .turn:last-child .bar").wait_for()
    return page.locator(".turn:last-child .answer")


def records(store, *types):
    return [kept.record for kept in store.each(*types)]
