"""Where the feedback lies when nobody says."""

import os

DEFAULT = "runs/feedback.sqlite"
PLACE = "DIDACT_FEEDBACK"


def place(asked: str | None = None) -> str:
    """The path or URL asked for, else what ``DIDACT_FEEDBACK`` says, else ``runs/feedback.sqlite``."""
    return asked or os.environ.get(PLACE) or DEFAULT
