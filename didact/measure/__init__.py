"""Measures: one short file a number that is taken of a model on data."""

from collections.abc import Mapping
from typing import Any

from didact.measure.agreement import Agreement
from didact.measure.base import Measure, Subject
from didact.measure.bits import BitsPerByte
from didact.measure.bridge import Bridge
from didact.measure.choice import Choice
from didact.measure.loss import Loss
from didact.measure.preference import Chosen, Preference
from didact.measure.recall import Mrr, Recall
from didact.measure.rewarded import Rewarded
from didact.measure.win_rate import WinRate
from didact.measure.worth import Worth
from didact.named import make

__all__ = ["NAMES", "Measure", "Subject", "resolve"]

NAMES: dict[str, type[Measure]] = {
    "agreement": Agreement,
    "bits_per_byte": BitsPerByte,
    "bridge": Bridge,
    "choice": Choice,
    "chosen": Chosen,
    "loss": Loss,
    "mrr": Mrr,
    "preference": Preference,
    "recall": Recall,
    "win_rate": WinRate,
    "reward": Rewarded,
    "worth": Worth,
}


def resolve(kind: str, options: Mapping[str, Any]) -> Measure:
    """The measure a recipe names: one of ``NAMES``, or a user's own as ``module:Class``."""
    return make("measure", kind, options, NAMES, Measure)
