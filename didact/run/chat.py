"""``didact chat``: one answer, or a conversation in the terminal, streamed as it is sampled."""

import contextlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from didact.data.fetch import cache_dir
from didact.engine.progress import plain
from didact.errors import Problem, UsageProblem
from didact.rollout.decoder import Completion
from didact.rollout.diffusion import VEIL, Draft, Unmasker, sketch, writer
from didact.rollout.document import DocumentCache
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.run.named import Named, open_model
from didact.run.reading import read_once

COMMANDS = "/clear forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer"
ROOM = 4  # at most one part in this many of the context is kept free for the answer


class Chat:
    """A model and a conversation with it, about a ``document`` where one is named."""

    def __init__(
        self,
        named: Named,
        system: str | None,
        sampling: Sampling,
        say: Callable[[str], None],
        document: str | None = None,
    ):
        named.model.check_writes()
        self.renderer = named.renderer
        self.decode = partial(named.renderer.decode, skip_special=True)
        self.sampler = writer(named.model, self.decode, named.renderer.stops, slots=1)
        if not isinstance(self.sampler, Unmasker) and (sampling.steps or sampling.block or sampling.guidance):
            what = "this model writes left to right: it knows no steps, blocks or guidance"
            raise UsageProblem(what, remedy="leave these options out")
        self.reads_both_ways = named.model.bidirectional_prompt
        self.sampling, self.say = sampling, say
        self.document: DocumentCache | None = None
        if document is not None:
            if not isinstance(self.sampler, Sampler):
                raise UsageProblem(
                    "a model that writes by unmasking goes on from no document", remedy="ask in the text"
                )
            self.document = read_once(named, document, self.sampler.longest, cache_dir(), say)
        self.before: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self.turns: list[dict[str, Any]] = []

    def clear(self) -> None:
        """Forgets the conversation."""
        self.turns = []

    def answer(self, text: str, write: Callable[[str], None], settle: Callable[[str], None] | None = None) -> str:
        """Answers, handing every new piece of text to ``write``; both sides join the conversation.

        Where a model writes by unmasking, ``settle`` is given the whole answer as far as it is known after every pass,
        and ``write`` all of it at the end; without ``settle``, pieces as they settle from the left. An answer that is
        interrupted joins as far as it came; a message whose answer never began is forgotten. Raises UsageProblem for a
        message that is too long for the model even alone.
        """
        self.turns.append({"role": "user", "content": text})
        said, written = "", 0
        try:
            prompt = self._prompt()
            for out in self._written(prompt):
                whole = out.text.lstrip()  # a template may leave the space before an answer to the model
                if settle is not None and isinstance(out, Draft):
                    settle("" if out.reason else self._sketch(out))
                if settle is None or not isinstance(out, Draft) or out.reason:
                    write(whole[written:])
                    written = len(whole)
                said = whole
        finally:
            if said:
                self.turns.append({"role": "assistant", "content": said})
            else:
                self.turns.pop()
        self.sampling = self.sampling.model_copy(update={"seed": self.sampling.seed + 1})
        return said

    def _written(self, prompt: list[int]) -> Iterator[Completion]:
        if isinstance(self.sampler, Sampler):
            return self.sampler.stream([prompt], self.sampling, [self._opening()], [self.document])
        return self.sampler.stream([prompt], self.sampling, [self._opening()])

    def _sketch(self, draft: Draft) -> str:
        assert isinstance(self.sampler, Unmasker)
        return sketch(draft, self.decode, self.sampler.mask, self.renderer.stops)

    def _opening(self) -> int:
        """How many tokens stand before the first answer; only a model that reads them both ways has to know."""
        return len(self.renderer.prompt([*self.before, self.turns[0]])) if self.reads_both_ways else 0

    def _prompt(self) -> list[int]:
        """What the answer starts from; the oldest turns are forgotten until it fits and leaves room."""
        longest, turns = self.sampler.longest - (len(self.document.tokens) if self.document else 0), self.turns
        room = min(self.sampling.max_new_tokens, longest // ROOM)
        while len(prompt := self._rendered(turns)) + room > longest:
            later = [i for i, turn in enumerate(turns) if i and turn["role"] == "user"]
            if not later:
                break
            turns = turns[later[0] :]
        if len(prompt) >= longest:
            what = f"this message makes {len(prompt):,} tokens; the model takes fewer than {longest:,}"
            raise UsageProblem(what, remedy="shorten it")
        if forgotten := len(self.turns) - len(turns):
            self.say(f"(the context of {longest:,} tokens is full: the oldest {forgotten} messages are forgotten)")
        self.turns = turns
        return prompt

    def _rendered(self, turns: list[dict[str, Any]]) -> list[int]:
        """The prompt of these turns; behind a document it does not begin a text a second time."""
        prompt = self.renderer.prompt([*self.before, *turns])
        begun = self.document is not None and self.document.tokens[0] == self.renderer.tokenizer.bos_token_id
        return prompt[1:] if begun and prompt[0] == self.renderer.tokenizer.bos_token_id else prompt


def chat_with(
    name: str,
    prompt: str | None,
    system: str | None,
    sampling: Sampling,
    device: str,
    say: Callable[[str], None],
    document: str | None = None,
) -> None:
    """One answer to ``prompt`` on stdout, or a conversation until end of input."""
    if prompt is not None and not prompt.strip():
        raise UsageProblem("the prompt is empty", remedy="give some text after --prompt")
    chat = Chat(open_model(name, device, say), system, sampling, say, document)
    if prompt is None:
        converse(chat, say)
        return
    chat.answer(prompt, _write, _settle if sys.stdout.isatty() else None)
    _write("\n")


def converse(chat: Chat, say: Callable[[str], None]) -> None:
    """A message a line until end of input."""
    if sys.stdin.isatty():
        say(f"Type a message; {COMMANDS}.")
    for line in _lines():
        if line == "/quit":
            return
        if line == "/clear":
            chat.clear()
            say("(forgotten)")
        elif re.fullmatch("/[a-z]+", line):
            say(f"there is no command {line}; {COMMANDS}")
        elif line:
            _exchange(chat, line, say)


def _exchange(chat: Chat, line: str, say: Callable[[str], None]) -> None:
    try:
        chat.answer(line, _write, _settle if sys.stdout.isatty() else None)
    except KeyboardInterrupt:
        _write("\n")
        say("(stopped)")
    except Problem as problem:  # the next message may do better
        say(f"didact: {problem}")
    else:
        _write("\n")


def _lines() -> Iterator[str]:
    """What the person types, line by line."""
    terminal = sys.stdin.isatty()
    shown = terminal and sys.stdout.isatty()
    if shown:
        with contextlib.suppress(ImportError):  # not on Windows, whose console edits lines by itself
            import readline  # noqa: F401
    while True:
        if terminal and not shown:
            print("> ", end="", file=sys.stderr, flush=True)
        try:
            yield input("\n> " if shown else "").strip()
        except EOFError:
            if terminal:
                print(file=sys.stderr)
            return


def _write(text: str) -> None:
    sys.stdout.write(plain(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _settle(text: str) -> None:
    """Writes an answer under way over the one before it, on one line: the part where it is not known yet."""
    line, width = " ".join(plain(text).split("\n")), shutil.get_terminal_size().columns - 1
    start = max(0, min(line.find(VEIL) - width // 2, len(line) - width))
    sys.stdout.write("\r\x1b[K" + line[start : start + width])
    sys.stdout.flush()
