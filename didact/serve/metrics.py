"""What Prometheus reads: numbers only, never a text."""

import time
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from didact.serve.engine import Engine, Piece

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PACE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """Counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        seconds: dict[str, Any] = {"buckets": SECONDS, **own}
        pace: dict[str, Any] = {"buckets": PACE, **own}
        self.requests = Counter("didact_requests", "Requests by path and status.", ["path", "status"], **own)
        self.prompt = Counter("didact_prompt_tokens", "Tokens of prompts.", ["model"], **own)
        self.answer = Counter("didact_answer_tokens", "Tokens of answers.", ["model"], **own)
        self.first = Histogram("didact_first_token_seconds", "Until the first token.", ["model"], **seconds)
        self.pace = Histogram("didact_tokens_per_second", "Of one answer.", ["model"], **pace)
        self.cut = Counter("didact_cut_requests", "Requests whose client left before the end.", **own)
        self.waiting = Gauge("didact_waiting", "Completions in the queue.", **own)
        self.running = Gauge("didact_running", "Completions being written.", **own)

    def text(self, engine: Engine) -> bytes:
        """The page of numbers."""
        self.waiting.set(len(engine.waiting))
        self.running.set(len(engine.running))
        return generate_latest(self.registry)


class Clock:
    """The times of one request's answers."""

    def __init__(self, metrics: Metrics, model: str, asked: float, prompts: Sequence[int]):
        self.metrics, self.model, self.asked = metrics, model, asked
        self.first: dict[int, float] = {}
        self.count: dict[int, int] = {}
        metrics.prompt.labels(model).inc(sum(prompts))

    def saw(self, piece: Piece) -> None:
        """A piece went out."""
        now = time.monotonic()
        if piece.index not in self.first:
            self.first[piece.index] = now
            self.metrics.first.labels(self.model).observe(now - self.asked)
        self.count[piece.index] = self.count.get(piece.index, 0) + len(piece.tokens)
        self.metrics.answer.labels(self.model).inc(len(piece.tokens))
        if piece.reason and now > self.first[piece.index]:
            self.metrics.pace.labels(self.model).observe(
                max(0, self.count[piece.index] - 1) / (now - self.first[piece.index])
            )
