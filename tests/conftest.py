from collections.abc import Iterator

import pytest

from tests.engine.worker import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Forks processes that train, and harms them."""
    one = Server()
    yield one
    one.close()
