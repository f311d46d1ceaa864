"""Where the feedback lies when nobody says."""

import os
from pathlib import Path

from didact.errors import UsageProblem

DEFAULT = "runs/feedback.sqlite"
PLACE = "DIDACT_FEEDBACK"


def place(asked: str | None = None) -> str:
    """The path or URL asked for, else what ``DIDACT_FEEDBACK`` says, else ``runs/feedback.sqlite``."""
    return asked or os.environ.get(PLACE) or DEFAULT


def there(asked: str | None = None) -> str:
    """The same, of a store that is to be read. Raises UsageProblem where there is no such file."""
    where = place(asked)
    if "://" not in where and not Path(where).expanduser().is_file():
        remedy = f"serve a model and judge its answers, or name another, as --store or in {PLACE}"
        raise UsageProblem("there is no feedback store", where=where, remedy=remedy)
    return where
