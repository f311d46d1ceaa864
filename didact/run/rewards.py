"""The rewards of a stage, opened: what each answer is worth to each, and to all of them together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from didact.engine.precision import pick_dtype
from didact.errors import UsageProblem
from didact.model.classifier import Classifier, open_classifiers
from didact.model.model import Model
from didact.rollout.reward import trust
from didact.rollout.reward.base import Answered, Models, Reward, Rewarding, scores
from didact.run.find import find_model
from didact.run.ground import Ground, opened
from didact.text.render import Renderer


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


@dataclass
class Shelf:
    """Opens the models that rewards ask for, each once; ``force`` also those that are no better than chance."""

    ground: Ground
    force: bool = False
    opened: dict[str, tuple[Model, Renderer]] = field(default_factory=dict)

    def classifiers(self, name: str) -> list[Classifier]:
        """A reward model, and those of its ensemble."""
        device = self.ground.mesh.device
        members = open_classifiers(self.folder(name), device, pick_dtype("auto", device))
        first = members[0]
        if not self.force:
            trust.check(first.facts, name)
        if found := trust.heldout(first.facts):
            self.ground.say(trust.told(name, found))
        return members

    def file(self, name: str) -> Path:
        """A file by what a recipe calls it. Raises UsageProblem where there is none."""
        place = self.ground.outputs.get(name, Path(name))
        if not place.is_file():
            raise UsageProblem(
                "no such file or output", where=name, remedy="name what an earlier stage left, or a path"
            )
        return place

    def language(self, name: str) -> tuple[Model, Renderer]:
        """A language model and what reads text for it; ``self`` is the one that the stage starts from."""
        if name not in self.opened:
            folder = self.ground.model if name == "self" else None
            self.opened[name] = opened(folder or self.folder(name), self.ground.mesh.device)
            self.opened[name][0].eval().requires_grad_(False)
        return self.opened[name]

    def folder(self, name: str) -> Path:
        """A model's folder, by what a recipe calls it."""
        return self.ground.outputs.get(name) or find_model(name, self.ground.cache, self.ground.say)


def weighed(specs: Sequence[Rewarding], models: Models) -> Weighed:
    """The rewards that a recipe names, ready; ``models``, a ``Shelf``, opens what they ask for."""
    return Weighed(tuple(spec.open(models) for spec in specs), tuple(spec.weight for spec in specs))
