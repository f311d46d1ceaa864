"""The rewards of a stage, opened: what each answer is worth to each, and to all of them together."""

from collections.abc import Sequence
from dataclasses import dataclass

from didact.rollout.reward.base import Answered, Models, Reward, Rewarding, scores


@dataclass(frozen=True)
class Weighed:
    """Rewards, and how much each counts; one of weight 0 is held out: measured and never learned from."""

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]

    def __call__(self, done: Sequence[Answered]) -> tuple[list[float], dict[str, list[float]]]:
        """The weighed sum for each answer, and by name what each reward says of each answer.

        Raises DataProblem, naming the record, where a reward fails or gives anything but a finite number.
        """
        said = {reward.name: scores(reward, done) for reward in self.rewards}
        learned = [(w, said[r.name]) for r, w in zip(self.rewards, self.weights, strict=True) if w]
        return [sum(w * values[i] for w, values in learned) for i in range(len(done))], said


def weighed(specs: Sequence[Rewarding], models: Models) -> Weighed:
    """The rewards that a recipe names, ready; ``models`` opens what they ask for."""
    return Weighed(tuple(spec.open(models) for spec in specs), tuple(spec.weight for spec in specs))
