"""Whether an answer's code passes the tests of its record."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import Field

from didact.errors import DataProblem
from didact.rollout.reward.base import Answered, Rule
from didact.rollout.reward.json import FENCE
from didact.rollout.reward.sandbox.run import run


class Tests(Rule):
    """The share of the tests that an answer's Python passes, each in a process that can reach nothing.

    The record's ``field`` is Python that raises where the code is wrong, or a list of such texts. The code is the
    answer's first part between ``` and ```, or all of it. There are no packages but Python's own.
    """

    kind = "tests"
    first = "field"
    field: str = Field(default="tests", min_length=1, description="of the record")
    before: str = Field(default="", description="code that stands before the answer's")
    seconds: int = Field(default=5, gt=0, description="of computing, for each test")
    memory: int = Field(default=512, ge=64, description="MB, for each test")
    walls: bool = Field(default=True, description="refuse to run where the system cannot wall a process in")

    def __call__(self, done: Sequence[Answered]) -> list[float]:
        """The shares; as many processes at once as there are processors."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self.score, done))

    def score(self, one: Answered) -> float:
        """Between 0 and 1."""
        given = one.field(self.field)
        tests = given if isinstance(given, list) else [given]
        if not tests or not all(isinstance(test, str) and test.strip() for test in tests):
            what = f"its field {self.field!r} is no text and no list of texts with tests"
            raise DataProblem(what, where=one.where, remedy="give Python that raises where the code is wrong")
        match = FENCE.search(one.answer)
        code = self.before + "\n" + (match[1] if match else one.answer)
        passed = [run(code, test, self.seconds, self.memory << 20, self.walls).passed for test in tests]
        return sum(passed) / len(tests)
