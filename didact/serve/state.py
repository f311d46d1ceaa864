"""What a running server holds."""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from didact.feedback.store import Store
from didact.model.embed import Embedder
from didact.serve.asked import SEEDS
from didact.serve.engine import Engine
from didact.serve.errors import Refused
from didact.serve.ground import Ground
from didact.serve.keys import Keys
from didact.serve.metrics import Metrics
from didact.serve.served import Served


class Beside:
    """An embedder for models that do not embed, opened with the first text."""

    def __init__(self, name: str, open: Callable[[], Embedder]):
        self.name, self._open, self._lock = name, open, threading.Lock()
        self._embedder: Embedder | None = None

    def embedder(self) -> Embedder:
        """The embedder. Raises a Problem where it cannot be opened."""
        with self._lock:
            self._embedder = self._embedder or self._open()
            return self._embedder


@dataclass
class State:
    """Models by name, the first of which is the default, and what stands around them.

    ``weights`` is the folder that others may be loaded from meanwhile.
    """

    engine: Engine
    models: dict[str, Served]
    ground: Ground | None = None
    beside: Beside | None = None
    store: Store | None = None
    keys: Keys | None = None
    metrics: Metrics = field(default_factory=Metrics)
    log_prompts: bool = False
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    weights: Path | None = None

    def served(self, name: str | None) -> Served:
        """The model of that name; the first where none is given. Raises Refused for one that is not here."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refused(f"the model {name!r} is not served here", 404, "model", "model_not_found")
        return self.models[name]


def drawn(seed: int | None) -> int:
    """The seed of a request as the sampler takes it; by chance where none is given."""
    return secrets.randbits(48) if seed is None else seed % SEEDS
