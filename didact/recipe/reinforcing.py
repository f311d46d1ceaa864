"""The stage in which a model learns from what its own answers are worth."""

from typing import Literal

from pydantic import Field, model_validator

from didact.data.settings import Data
from didact.recipe.learning import Learning, ObjectiveSpec, usual
from didact.recipe.rewarding import Rewards, read_by
from didact.recipe.stage import misplaced
from didact.rollout.settings import Rollout


class Reinforce(Learning):
    """Answers prompts, has the answers scored by ``rewards``, and learns from that: GRPO unless said.

    ``data`` are prompts: records of ``prompt`` (text or messages) or ``messages``, with what the rewards read beside
    them. ``batch_size`` and ``micro_batch_size`` count prompts with all their answers, ``epochs`` passes over the
    prompts. The learning rate is 1e-6, or 1e-5 when a LoRA is trained. ``critic`` is a reward model, what a ``reward``
    stage left or ``hub:org/name``, as which a network for PPO's values begins; else these are a head on the model.
    """

    kind = "reinforce"
    also = frozenset({".sqlite", ".safetensors"})
    objective: ObjectiveSpec | None = usual("grpo")
    rewards: Rewards
    rollout: Rollout = Rollout()
    critic: str | None = Field(default=None, min_length=1, description="reward model that PPO's values begin as")
    force: bool = Field(default=False, description="learn from a reward model that is no better than chance")
    batch_size: int = Field(default=8, gt=0, description="prompts in a step")
    forgetting: bool = True
    overlong: Literal["drop", "window"] = "drop"
    learning_rate: float = Field(default_factory=lambda given: 1e-5 if given["tune"].what == "lora" else 1e-6, gt=0)

    @model_validator(mode="after")
    def rewarded(self) -> "Reinforce":
        """Something must be worth something."""
        if not self.rollout.environment and not any(one.weight for one in self.rewards):
            what = "no reward counts here, so nothing would be learned; give one, of a weight other than 0"
            raise misplaced(what, "rewards")
        return self

    def inputs(self) -> dict[tuple[str | int, ...], Data]:
        """All data this stage reads, by where in the stage it is said; what its rewards read, too."""
        own = self.critic is not None and not self.critic.startswith("hub:")
        critic = {("critic",): Data.model_validate(self.critic)} if own else {}
        rewards = {("rewards", *at): data for at, data in read_by(self.rewards).items()}
        return super().inputs() | critic | rewards
