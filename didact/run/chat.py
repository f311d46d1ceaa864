"""``didact chat``: one answer, or a conversation in the terminal, streamed as it is sampled."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from didact.data.fetch import cache_dir
from didact.engine.mesh import pick_device
from didact.engine.precision import pick_dtype
from didact.errors import UsageProblem
from didact.model import attention
from didact.model.load import load
from didact.model.model import Model
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.run.life import find_model
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer


class Chat:
    """A model and a conversation with it."""

    def __init__(self, name: str, system: str | None, sampling: Sampling, device: str, say: Callable[[str], None]):
        where = find_model(name, cache_dir(), say)
        place = pick_device(device)
        attention.register()
        model = Model(load(where, pick_dtype("auto", place)).to(place))
        self.renderer = Renderer(tokenizers.load(where))
        self.sampler = Sampler(model, self.renderer.decode, self.renderer.stops, slots=1)
        self.sampling, self.system = sampling, system
        self.messages: list[dict[str, Any]] = []
        self.clear()

    def clear(self) -> None:
        """Forgets the conversation."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def answer(self, text: str, write: Callable[[str], None]) -> str:
        """Answers, handing every new piece of text to ``write``; both sides join the conversation."""
        self.messages.append({"role": "user", "content": text})
        shown = ""
        for out in self.sampler.stream([self.renderer.prompt(self.messages)], self.sampling):
            whole = out.text.rstrip("\ufffd") if not out.reason else out.text  # half a character waits for its rest
            if len(whole) > len(shown):
                write(whole[len(shown) :])
                shown = whole
        self.messages.append({"role": "assistant", "content": shown})
        self.sampling = self.sampling.model_copy(update={"seed": self.sampling.seed + 1})
        return shown


def chat_with(
    name: str, prompt: str | None, system: str | None, sampling: Sampling, device: str, say: Callable[[str], None]
) -> None:
    """One answer to ``prompt`` on stdout, or a conversation until end of input."""
    if prompt is not None and not prompt.strip():
        raise UsageProblem("the prompt is empty", remedy="give some text after --prompt")
    chat = Chat(name, system, sampling, device, say)
    if prompt is not None:
        chat.answer(prompt, _write)
        _write("\n")
        return
    say("Type a message; /clear forgets the conversation, /quit or Ctrl-D ends it.")
    for line in _lines():
        if line == "/quit":
            return
        if line == "/clear":
            chat.clear()
        elif line:
            try:
                chat.answer(line, _write)
            except KeyboardInterrupt:
                say(" (stopped)")
            _write("\n")


def _lines() -> Sequence[str]:
    """What the person types, line by line."""

    def read():
        while True:
            try:
                yield input("\n> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return

    return read()


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
