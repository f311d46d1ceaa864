"""``didact serve``: opens what is to be served, and answers until it is told to stop."""

import errno
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from didact.errors import MissingExtra, ResourceProblem, UsageProblem
from didact.model.embed import Embedder
from didact.run.named import open_model

try:
    import uvicorn

    from didact.feedback.store import Store
    from didact.serve.app import build
    from didact.serve.engine import Engine
    from didact.serve.ground import Ground
    from didact.serve.keys import Keys
    from didact.serve.lane import lane
    from didact.serve.lossy import shrink
    from didact.serve.served import Served, public_name
    from didact.serve.state import Beside, State
    from didact.serve.weights import TRAINER, adapted
except ImportError as error:
    raise MissingExtra("fastapi, uvicorn and prometheus-client", "serve", "serving") from error

HERE = ("localhost", "127.0.0.1", "::1")  # the host names a server on loopback answers to: a web page knows others
GRACE = 10  # seconds that connections get to close
Say = Callable[[str], None]


@dataclass(frozen=True)
class Serving:
    """The options of the command."""

    host: str = "127.0.0.1"
    port: int = 8321
    device: str = "auto"
    name: str | None = None
    adapters: Sequence[str] = ()
    models: Sequence[str] = ()
    slots: int = 16
    queue: int = 64
    context: int = 8192
    key_file: Path | None = None
    no_key: bool = False
    cors: Sequence[str] = ()
    log_prompts: bool = False
    feedback: str | None = None
    index: str | None = None
    passages: int = 4
    relevance: float = 0.25
    guard: bool = True
    embedder: str = "all-minilm-l6-v2"
    quantize: Literal["int8", "int4"] | None = None
    weights: Path | None = None


def serve(model: str, options: Serving, say: Say) -> None:
    """Serves until Ctrl-C or SIGTERM. Raises a Problem for what cannot be opened, before anything is computed."""
    keys = Keys(options.key_file) if options.key_file else None
    local = _loopback(options.host)
    if not local and not keys and not options.no_key:
        remedy = "give --key-file, or say --no-key if the network is your own"
        raise UsageProblem("beyond this machine a key is needed", where=f"--host {options.host}", remedy=remedy)
    _check_weights(options, local or keys is not None)
    listener = _bound(options.host, options.port)
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("didact.serve").setLevel(logging.INFO)
    served = {each.name: each for each in _opened(model, options, say)}
    state = State(
        Engine(options.slots, options.queue),
        served,
        store=Store.open(options.feedback),
        ground=_ground(options),
        beside=Beside(public_name(options.embedder), partial(_embedder, options.embedder, say)),
        keys=keys,
        log_prompts=options.log_prompts,
        cors=tuple(options.cors),
        hosts=HERE if local else (),
        weights=options.weights,
    )
    state.engine.start()
    host = f"[{options.host}]" if ":" in options.host else options.host
    say(f"serving {', '.join(served)} at http://{host}:{listener.getsockname()[1]} (OpenAI's interface under /v1)")
    config = uvicorn.Config(build(state), log_config=None, access_log=False, timeout_graceful_shutdown=GRACE)
    _Server(config, state.engine).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells those who still read that it ends, before it waits for them."""

    def __init__(self, config: uvicorn.Config, engine: Engine):
        super().__init__(config)
        self.engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends what runs; every stream gets its last event."""
        self.engine.stop()
        await super().shutdown(sockets)


def _opened(model: str, options: Serving, say: Say) -> list[Served]:
    """The model, its adapters and the others, under their names."""
    first = open_model(model, options.device, say)
    if options.quantize:
        if options.adapters:
            what = "an adapter was trained beside the weights as they are"
            raise UsageProblem(what, where="--quantize", remedy="merge the adapter, or leave one of the two out")
        shrink(first, options.quantize, say)
    each = [(options.name or public_name(model), first)]
    each += [(name, adapted(first, Path(folder))) for name, folder in _pairs(options.adapters, "--adapter")]
    each += [(name, open_model(where, options.device, say)) for name, where in _pairs(options.models, "--model")]
    names = [name for name, _ in each]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageProblem(f"two models are called {twice[0]!r}", remedy="give each a name of its own")
    served = [Served(name, named, lane(named, options.context) if named.model.writes else None) for name, named in each]
    for adapter in served[1 : 1 + len(options.adapters)]:
        adapter.base = served[0]
    return served


def _ground(options: Serving) -> Ground | None:
    if options.index is None:
        return None
    from didact.retrieve.index import Index

    index = Index.open(options.index, device=options.device)
    index.search(
        "the first question loads the model that embeds", 1
    )  # nobody should wait for it, or learn that it is gone
    return Ground(index, options.passages, options.relevance, options.guard)


def _embedder(name: str, say: Say) -> Embedder:
    named = open_model(name, "cpu", say)
    return Embedder.of(named.model, named.renderer)


def _check_weights(options: Serving, guarded: bool) -> None:
    """Refuses to load weights for whoever asks, from nowhere, or in the place of weights of few bits."""
    where = f"--weights {options.weights}"
    if options.weights is None:
        return
    if not options.weights.is_dir():
        raise UsageProblem("no such folder", where=where, remedy="make it; the one who trains writes into it")
    if options.quantize:
        raise UsageProblem("what is loaded later has all its bits", where=where, remedy="leave --quantize out")
    if not guarded:
        remedy = f"give --key-file, and make a key with --new-key {TRAINER}"
        raise UsageProblem("beyond this machine it takes a key to load weights", where=where, remedy=remedy)


def _pairs(given: Sequence[str], option: str) -> list[tuple[str, str]]:
    pairs = []
    for text in given:
        name, _, value = text.partition("=")
        if not (name and value):
            raise UsageProblem(f"{text!r} is not NAME=FOLDER", where=option, remedy=f"write {option} mine=folder")
        pairs.append((name, value))
    return pairs


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bound(host: str, port: int) -> socket.socket:
    """The socket, taken before anything is loaded. Raises ResourceProblem where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, proto=socket.IPPROTO_TCP)  # unless it is named, asyncio leaves Nagle's delay in
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        what = "this port is taken" if taken else f"cannot be bound ({error.strerror})"
        remedy = "choose another with --port" if taken else "choose another --host or --port"
        raise ResourceProblem(what, where=f"{host}:{port}", remedy=remedy) from error
    return listener
