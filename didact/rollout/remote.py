"""Answers from an engine behind a URL, such as vLLM or ``didact serve``: tokens as they were drawn, never spelled."""

import json
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError

from didact.engine.step import Interrupted
from didact.errors import ResourceProblem, UsageProblem
from didact.rollout.decoder import Completion
from didact.rollout.settings import Rollout, Sampling
from didact.rollout.text import Decode, Unrolled
from didact.rollout.wire import posted

FOREIGN = 1.0  # nats a token: farther apart it is another model, not an older one
SAME = 0.1  # nats a token: farther apart than bf16 explains, these are not the weights that it was sent
KEPT, LEAST = 10, 0.01  # so many times as far as it was first, and so many nats at least: they are not all there
PLAIN = {"top_k": -1, "min_p": 0, "repetition_penalty": 1}  # nothing cut off, whatever the server's defaults


class Engine:
    """The model of an OpenAI-compatible server, asked at ``/completions``; up to ``slots`` answers are under way.

    A request is one answer, with its own seed. The server must say ``token_ids`` (vLLM's ``return_token_ids``) and
    log-probabilities before temperature and truncation. Its key is in DIDACT_ROLLOUT_KEY.
    """

    def __init__(self, rollout: Rollout, decode: Decode, stops: Collection[int], longest: int):
        assert rollout.url
        self.where, self.model, self.slots = f"{rollout.url.rstrip('/')}/completions", rollout.model, rollout.slots
        self.decode, self.stops, self.longest = decode, frozenset(stops), longest
        self.pushed = rollout.push is not None
        self.first: float | None = None  # nats a token where they were first compared

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        ways: Sequence[Sequence[Sampling]],
        leaving: Callable[[], bool] = lambda: False,
    ) -> list[list[Completion]]:
        """For each prompt a completion for each of its ``ways``. Raises Interrupted between two when ``leaving``.

        Raises ResourceProblem for a server that cannot be asked, or does not say tokens and log-probabilities.
        """
        asked = [(prompt, way) for prompt, each in zip(prompts, ways, strict=True) for way in each]

        def one(number: int) -> Completion:
            if leaving():
                raise Interrupted
            return self._one(number, *asked[number])

        with ThreadPoolExecutor(self.slots) as pool:
            done = pool.map(one, range(len(asked)))
            return [[next(done) for _ in each] for each in ways]

    def compare(self, apart: float, say: Callable[[str], None]) -> None:
        """Says the first time how far the engine is from the model in training, in nats a token.

        Raises UsageProblem where it must be another model, or has not all of the weights that it was sent.
        """
        bound = FOREIGN
        if self.pushed:
            bound = SAME if self.first is None else min(SAME, max(LEAST, KEPT * self.first))
        if not apart <= bound:
            what = f"the engine is {apart:.3g} nats a token from the model in training, more than {bound:g}"
            remedy = "load this run's newest weights into it, or mend model"
            if self.pushed:
                remedy = "it was sent these very weights: see that it serves all of them, none older, in bf16 at least"
            raise UsageProblem(what, where=self.where, remedy=remedy)
        if self.first is None:
            self.first = apart
            then = "it gets each phase's weights" if self.pushed else "the ratio corrects for it"
            say(f"{self.where}: {apart:.2g} nats a token from the model in training; {then}")

    def _one(self, number: int, prompt: Sequence[int], way: Sampling) -> Completion:
        choice = self._posted(
            {
                "model": self.model,
                "prompt": list(prompt),
                "max_tokens": min(way.max_new_tokens, self.longest - len(prompt)),
                "temperature": way.temperature,
                "top_p": way.top_p,
                "stop": list(way.stop),
                "seed": way.seed,
                "logprobs": 0,
                "return_token_ids": True,
                **PLAIN,
            }
        )
        tokens, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if not tokens:
            remedy = "it must know return_token_ids, as vLLM 0.10.2 and didact serve do"
            raise ResourceProblem("the engine answers without token_ids", where=self.where, remedy=remedy)
        if not logprobs or len(logprobs) != len(tokens) or None in logprobs:
            remedy = "switch on its log-probabilities of sampled tokens"
            raise ResourceProblem("the engine answers without token_logprobs", where=self.where, remedy=remedy)
        size, text, ended = self._read(prompt, tokens, way.stop)
        reason = "stop" if ended or choice.get("finish_reason") == "stop" else "length"
        return Completion(number, tokens[:size], logprobs[:size], text, reason)

    def _read(self, prompt: Sequence[int], tokens: Sequence[int], stops: Sequence[str]) -> tuple[int, str, bool]:
        """How many of the tokens are the answer, its text, and whether it ended, all as the sampler here has it."""
        words = Unrolled(self.decode, prompt)
        for size, token in enumerate(tokens, 1):
            over = token in self.stops
            if not over:
                words.add(token)
            if over or size == len(tokens):
                words.finish()
            places = [place for stop in stops if (place := words.text.find(stop)) >= 0]
            if over or places:
                return size, words.text[: min(places, default=None)], True
        return len(tokens), words.text, False

    def _posted(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            return json.loads(posted(self.where, asked))["choices"][0]
        except HTTPError as error:
            said = error.read(300).decode(errors="replace")
            remedy = "lower rollout.slots" if error.code == 429 else "see its log"
            what = f"the engine answers {error.code}: {said}"
            raise ResourceProblem(what, where=self.where, remedy=remedy) from error
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            what, remedy = f"the engine cannot be asked ({error})", "start the server, or mend rollout.url"
            raise ResourceProblem(what, where=self.where, remedy=remedy) from error
