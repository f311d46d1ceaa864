"""Learning-rate schedules as functions of the share of steps done."""

import math

from didact.engine.settings import Training


def scale(step: int, steps: int, settings: Training) -> float:
    """Learning rate of step ``step`` (from 0) of ``steps``, over its peak."""
    warmup = round(settings.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return settings.min_ratio + (1 - settings.min_ratio) * _SHAPES[settings.schedule](done, settings.decay_ratio)


def _wsd(done: float, decay: float) -> float:
    """Warmup-stable-decay with the 1 - sqrt tail of Hägele et al. 2024, arXiv:2405.18392, equation 1."""
    return 1.0 if done < 1 - decay or decay == 0 else 1 - math.sqrt((done - (1 - decay)) / decay)


_SHAPES = {
    "constant": lambda done, decay: 1.0,
    "linear": lambda done, decay: 1 - done,
    "cosine": lambda done, decay: 0.5 * (1 + math.cos(math.pi * done)),
    "wsd": _wsd,
}
