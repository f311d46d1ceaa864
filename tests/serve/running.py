"""A real server on a free port, in a thread, with a tiny model."""

import contextlib
import socket
import threading
import time

import openai
import uvicorn

from didact.run.named import open_model
from didact.serve.app import build
from didact.serve.engine import Engine
from didact.serve.lane import lane
from didact.serve.served import Served
from didact.serve.state import State


def served(folder, name="tiny", longest=None):
    named = open_model(str(folder), "cpu", lambda line: None)
    return Served(name, named, lane(named, longest) if named.model.writes else None)


class Running:
    """Where the server is, its state, and clients for it."""

    def __init__(self, state, port):
        self.state, self.port, self.url = state, port, f"http://127.0.0.1:{port}"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)


@contextlib.contextmanager
def running(*models, slots=8, queue=64, **fields):
    engine = Engine(slots, queue)
    state = State(engine, {each.name: each for each in models}, **fields)
    engine.start()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build(state), log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Running(state, listener.getsockname()[1])
    finally:
        server.should_exit = True
        engine.stop()
        thread.join(20)
        assert not thread.is_alive()
