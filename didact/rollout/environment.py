"""Prompts that take several turns: what the model says is answered by an environment, until it says that it is over."""

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from numbers import Real
from typing import Any, Literal, Protocol

from didact.data.example import Message
from didact.data.words import brief
from didact.errors import DataProblem, Problem, UsageProblem
from didact.rollout.decoder import Completion
from didact.rollout.prompts import Prompt
from didact.text.render import Renderer


class Environment(Protocol):
    """What answers a model. It keeps no state of its own, so that an episode can be played again."""

    def opening(self, record: Mapping[str, Any]) -> Sequence[Message]:
        """Messages before the prompt of a record, such as how to use a tool."""
        ...

    def step(self, record: Mapping[str, Any], turns: Sequence[Message]) -> Sequence[Message] | float:
        """What it says to all that was said since the prompt; or that it is over, and what that is worth."""
        ...


@dataclass
class Episode:
    """All that followed a prompt: ``chosen`` are the tokens the model drew, the others are the environment's."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    chosen: list[bool] = field(default_factory=list)
    text: str = ""
    reason: Literal["", "stop", "length"] = ""
    turns: list[Message] = field(default_factory=list)
    reward: float = 0.0

    def heard(self, out: Completion) -> None:
        """What the model says next."""
        self.tokens += out.tokens
        self.logprobs += out.logprobs
        self.chosen += [True] * len(out.tokens)
        self.text, self.reason = out.text, out.reason
        self.turns.append({"role": "assistant", "content": out.text})

    def told(self, messages: Sequence[Message], tokens: Sequence[int]) -> None:
        """What the environment says, and the tokens up to where the model goes on."""
        self.tokens += tokens
        self.logprobs += [0.0] * len(tokens)
        self.chosen += [False] * len(tokens)
        self.turns += messages


Ask = Callable[[Sequence[Sequence[int]], Sequence[int], int], list[Completion]]
# (prompts, the number of each one's episode, turn) -> what the model says


def play(
    environment: Environment | None,
    prompts: Sequence[Prompt],
    ask: Ask,
    renderer: Renderer,
    turns: int,
    room: int,
) -> list[Episode]:
    """An episode for each prompt, of at most ``turns`` answers and ``room`` tokens; without an environment, of one."""
    episodes = [Episode() for _ in prompts]
    going = list(range(len(prompts)))
    for turn in range(turns if environment else 1):
        if not going:
            break
        outs = ask([[*prompts[i].tokens, *episodes[i].tokens] for i in going], going, turn)
        for i, out in zip(going, outs, strict=True):
            episodes[i].heard(out)
        if environment:
            last = turn == turns - 1
            going = [i for i in going if _goes_on(environment, prompts[i], episodes[i], renderer, room, last)]
    return episodes


def _goes_on(
    environment: Environment, asked: Prompt, episode: Episode, renderer: Renderer, room: int, last: bool
) -> bool:
    """Lets the environment answer; False where the episode is over."""
    said = _answered(environment, asked, episode)
    if isinstance(said, float):
        episode.reward = said
        return False
    if last or episode.reason != "stop" or not episode.text.strip():
        return False
    tokens = between([*asked.messages, *episode.turns], said, renderer)
    if len(asked.tokens) + len(episode.tokens) + len(tokens) >= room:
        return False
    episode.told(said, tokens)
    return True


def _answered(environment: Environment, asked: Prompt, episode: Episode) -> Sequence[Message] | float:
    """What it says, or what the episode was worth. Raises DataProblem, naming the record, where it fails."""
    try:
        said = environment.step(asked.record, episode.turns)
    except Problem:
        raise
    except Exception as error:  # a person's own environment may raise anything
        what = f"the environment failed on this record ({type(error).__name__}: {brief(error)})"
        raise DataProblem(what, where=asked.where, remedy="mend it, or leave the record out") from error
    if not isinstance(said, Real):
        return said
    if not isfinite(said):
        raise DataProblem(f"the environment's reward is {said}", where=asked.where, remedy="give a finite number")
    return float(said)


def between(before: Sequence[Message], said: Sequence[Message], renderer: Renderer) -> list[int]:
    """The tokens from the end of the last answer in ``before`` to where the answer to ``said`` begins."""
    read = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in before[:-1]]
    whole = renderer.conversation([*read, before[-1], *said, {"role": "assistant", "content": "."}])
    edges = [i for i in range(1, len(whole.trained)) if whole.trained[i] != whole.trained[i - 1]]
    return whole.tokens[edges[1] : edges[2]]


CALL = re.compile(r"<calc>(.*?)</calc>", re.DOTALL)
SIGNS: dict[type, Callable[[Any, Any], Any]] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


class Calculator:
    """The worked example: ``<calc>12 * (3 + 4)</calc>`` is answered with the result; anything else ends the episode."""

    def opening(self, record: Mapping[str, Any]) -> Sequence[Message]:
        """How it is used."""
        return [{"role": "system", "content": "Write <calc>1 + 2</calc> to have it calculated."}]

    def step(self, record: Mapping[str, Any], turns: Sequence[Message]) -> Sequence[Message] | float:
        """The result of the last call; over, and worth nothing by itself, where there is none."""
        found = CALL.findall(turns[-1]["content"])
        return [{"role": "tool", "content": _calculated(found[-1])}] if found else 0.0


def _calculated(text: str) -> str:
    try:
        return str(_value(ast.parse(text.strip()[:100], mode="eval").body))
    except (SyntaxError, ValueError, RecursionError):
        return "error"


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
        return SIGNS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("no sum, difference or product of whole numbers")


def environment(path: str) -> Environment:
    """What stands at ``module:Class``, or the ``calculator``. Raises UsageProblem where there is none."""
    import importlib

    module, _, name = (f"{__name__}:Calculator" if path == "calculator" else path).partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError) as error:
        what = f"cannot make the environment {path!r}: {error}"
        raise UsageProblem(what, remedy="name a class as module:Class that needs no arguments") from error
