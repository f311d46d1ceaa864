"""A person's own reward: a function of one answer."""

import importlib
import re
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue

from didact.errors import UsageProblem
from didact.rollout.reward.base import Answered, Models, Reward, Rule


def _path(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise ValueError(f"a function is named as my_module:my_function, got {text[:80]!r}")
    return text


class Function(Rule):
    """``my_module:f``: called with an ``Answered`` (and ``options`` by name), it returns a number."""

    kind = "function"
    first = "path"
    path: Annotated[str, AfterValidator(_path)]
    options: dict[str, JsonValue] = Field(default_factory=dict)

    def open(self, models: Models) -> Reward:
        """Itself; raises UsageProblem for a path that leads to no function."""
        assert callable(self.function)
        return self

    @cached_property
    def function(self) -> Callable[..., Any]:
        """What stands at the path."""
        module, _, name = self.path.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            what = f"cannot import reward {self.path!r}: {error}"
            raise UsageProblem(what, remedy="write it as module:function, of a module Python finds") from error
        if not callable(found):
            raise UsageProblem(f"reward {self.path!r} is no function", remedy="name one that takes an Answered")
        return found

    def score(self, one: Answered) -> float:
        """What the function says."""
        return self.function(one, **self.options)
