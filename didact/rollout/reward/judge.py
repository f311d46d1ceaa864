"""AI feedback: what another model thinks of an answer, by a rubric."""

from __future__ import annotations

import json
import math
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from pydantic import Field, model_validator

from didact.errors import DataProblem, ResourceProblem, UsageProblem
from didact.rollout.reward.base import Answered, Models, Reward, Rewarding

GRADES = ("1", "2", "3", "4", "5")
SIDES = ("A", "B")
PATIENCE = 60  # seconds for an answer over the network
AT_ONCE = 4  # questions over the network
LOST = 1e-3  # of the chance, that verdicts must have together

Ask = Callable[[list[dict[str, str]], Sequence[str]], list[float]]
"""A conversation and verdicts of one token each in, how probable each verdict is out."""


class Judge(Rewarding):
    """What the language model ``model`` says of an answer, asked with the ``rubric``: a mark between 0 and 1.

    ``how: grade`` asks for a grade from 1 to 5 and takes its mean under the model's own chances. ``how: compare`` asks
    which is better, the answer or the record's field ``against``, in both orders, since models prefer a place (Zheng et
    al. 2023, arXiv:2306.05685, section 3.4); the mark is the mean chance of the answer. ``model`` is a name as ``base``
    is, or ``self``; with ``url``, what an OpenAI-compatible server calls it, whose key is in DIDACT_JUDGE_KEY.
    """

    kind = "judge"
    first = "model"
    model: str = Field(min_length=1)
    rubric: str = Field(default="A good answer is right, helpful and to the point.", min_length=1)
    how: Literal["grade", "compare"] = "grade"
    against: str | None = Field(default=None, description="field of the record, for how: compare")
    url: str | None = Field(
        default=None, description="of an OpenAI-compatible server, such as http://localhost:8000/v1"
    )

    @model_validator(mode="after")
    def compares(self) -> Judge:
        """A comparison is with something."""
        if (self.how == "compare") != (self.against is not None):
            raise ValueError("'how: compare' and 'against' belong together; as in {how: compare, against: reference}")
        return self

    def open(self, models: Models) -> Reward:
        """The judge, ready to be asked."""
        return Judging(self, remote(self.url, self.model) if self.url else local(*models.language(self.model)))


class Judging:
    """Asks a judge about answers."""

    def __init__(self, spec: Judge, ask: Ask):
        self.spec, self.ask, self.name = spec, ask, spec.name or spec.kind

    def __call__(self, done: Sequence[Answered]) -> list[float]:
        """A mark for each answer."""
        with ThreadPoolExecutor(AT_ONCE if self.spec.url else 1) as pool:
            return list(pool.map(self._mark, done))

    def _mark(self, one: Answered) -> float:
        asked = _told(one)
        try:
            if self.spec.against is None:
                return graded(self.ask, self.spec.rubric, asked, one.answer)
            return preferred(self.ask, self.spec.rubric, asked, one.answer, str(one.field(self.spec.against)))
        except DataProblem as problem:
            raise DataProblem(problem.what, where=problem.where or one.where, remedy=problem.remedy) from problem


def graded(ask: Ask, rubric: str, prompt: str, answer: str) -> float:
    """The mean grade of an answer, as a mark between 0 and 1."""
    question = f"{rubric}\n\n{_part('question', prompt)}{_part('answer', answer)}"
    question += "How good is the answer? Give one number from 1 (bad) to 5 (good), and nothing else."
    chances = ask([{"role": "user", "content": question}], GRADES)
    return sum(place * chance for place, chance in enumerate(chances)) / (len(GRADES) - 1)


def preferred(ask: Ask, rubric: str, prompt: str, answer: str, other: str) -> float:
    """How probably an answer is better than another: the mean over both orders; 0.5 for equal ones."""
    first = ask(_both(rubric, prompt, answer, other), SIDES)[0]
    second = ask(_both(rubric, prompt, other, answer), SIDES)[1]
    return (first + second) / 2


def _both(rubric: str, prompt: str, one: str, other: str) -> list[dict[str, str]]:
    parts = _part("question", prompt) + _part("answer A", one) + _part("answer B", other)
    question = f"{rubric}\n\n{parts}Which answer is better? Say A or B, and nothing else."
    return [{"role": "user", "content": question}]


def _part(name: str, text: str) -> str:
    return f"--- {name} ---\n{text}\n--- end of {name} ---\n\n"


def _told(one: Answered) -> str:
    """The prompt as a judge reads it."""
    if len(one.prompt) == 1:
        return str(one.prompt[0].get("content", ""))
    return "\n".join(f"{turn['role']}: {turn.get('content', '')}" for turn in one.prompt)


def local(model: Any, renderer: Any) -> Ask:
    """A judge on this machine: the chances of the verdicts' first tokens, as the first of its answer."""
    import torch

    from didact.batch import Batch
    from didact.objective.tokens import causal_reach, prefix_reach

    @torch.no_grad()
    def ask(messages: list[dict[str, str]], verdicts: Sequence[str]) -> list[float]:
        model.check_writes()
        tokens = renderer.prompt(messages)
        device = next(model.parameters()).device
        token = torch.tensor([tokens], device=device)
        index = torch.arange(len(tokens), device=device)[None]
        batch = Batch({"token": token, "position": index, "doc": torch.zeros_like(index)})
        batch = batch.with_(trained=torch.zeros_like(index).bool())
        reach = prefix_reach(batch) if model.bidirectional_prompt else causal_reach(batch)
        logits = model.logits(model.hidden(batch.with_(reach=reach))[0, -1]).float()
        ids = [renderer.tokenizer.encode(verdict, add_special_tokens=False)[0] for verdict in verdicts]
        if len(set(ids)) < len(ids):
            what = f"the judge's tokenizer begins {' and '.join(verdicts)} alike"
            raise UsageProblem(what, remedy="choose another judge")
        return logits[torch.tensor(ids, device=device)].softmax(0).tolist()

    return ask


def remote(url: str, name: str) -> Ask:
    """A judge behind a URL: the chances that it names among its likeliest first tokens, or else what it says."""

    def ask(messages: list[dict[str, str]], verdicts: Sequence[str]) -> list[float]:
        asked = {"model": name, "messages": messages, "max_tokens": 1, "temperature": 0}
        choice = _posted(url, asked | {"logprobs": True, "top_logprobs": 20})
        named = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
        chances = [
            sum(math.exp(one["logprob"]) for one in named if one["token"].strip() == verdict) for verdict in verdicts
        ]
        if sum(chances) > LOST:
            return [chance / sum(chances) for chance in chances]
        said = str(choice["message"]["content"]).strip()
        if not named and said in verdicts:
            return [float(verdict == said) for verdict in verdicts]
        what = f"the judge {name} said {said[:40]!r} in place of {' or '.join(verdicts)}"
        raise DataProblem(what, remedy="choose another judge, or another rubric")

    return ask


def _posted(url: str, asked: dict[str, Any]) -> dict[str, Any]:
    where = f"{url.rstrip('/')}/chat/completions"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("DIDACT_JUDGE_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(where, json.dumps(asked).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["choices"][0]
    except urllib.error.HTTPError as error:
        said = error.read(300).decode(errors="replace")
        raise ResourceProblem(f"the judge answers {error.code}: {said}", where=where, remedy="see its log") from error
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        remedy = "start the server, or mend url"
        raise ResourceProblem(f"the judge cannot be asked ({error})", where=where, remedy=remedy) from error
