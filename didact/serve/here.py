"""A server in this process, for as long as a block of code lasts."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from didact.errors import ResourceProblem
from didact.serve.app import build
from didact.serve.state import State

LOOPBACK = "127.0.0.1"
PATIENCE = 30  # seconds that it gets to begin and to end


@contextmanager
def serving(state: State) -> Iterator[int]:
    """The port, a free one of loopback, where the state is served. Raises ResourceProblem where that cannot be."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # unless it is named, asyncio leaves Nagle's delay in
    try:
        listener.bind((LOOPBACK, 0))
    except OSError as error:
        listener.close()
        what, remedy = f"no port can be had ({error.strerror})", "let this process listen on loopback"
        raise ResourceProblem(what, where=LOOPBACK, remedy=remedy) from error
    server = uvicorn.Server(uvicorn.Config(build(state), log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
    state.engine.start()
    thread.start()
    until = time.monotonic() + PATIENCE
    try:
        while not server.started:
            if not thread.is_alive() or time.monotonic() > until:
                raise ResourceProblem("the server does not begin", where=LOOPBACK, remedy="see what it says above")
            time.sleep(0.01)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        state.engine.stop()
        thread.join(PATIENCE)
        state.engine.thread.join(PATIENCE)
        for served in state.models.values():
            if served.lane:
                served.lane.close()
        listener.close()
