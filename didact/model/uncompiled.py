"""Running without what was compiled, for as long as somebody needs it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch

# torch's stance is one for all threads: the first user takes it, and the last gives it back.
_lock, _taken = Lock(), ExitStack()
_users = 0


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled modules run as they were written while the block runs, in every thread; blocks may overlap."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _taken.enter_context(torch.compiler.set_stance("force_eager"))
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _taken.close()
