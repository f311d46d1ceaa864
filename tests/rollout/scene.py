"""A toy model that answers toy prompts for toy rewards."""

import re
import zlib
from pathlib import Path

import torch

from didact.engine.mesh import Mesh
from didact.model.model import Model
from didact.objective.base import Head
from didact.objective.policy import Policy
from didact.rollout.cast import Cast
from didact.rollout.experience import Experience, Setting
from didact.rollout.prompts import Prompt
from didact.rollout.reward.function import Function
from didact.rollout.settings import Rollout
from didact.run.rewards import weighed
from tests.toy import VOCABULARY, toy_model

STOP = 1


class Words:
    """What reads and writes text: a token is its number."""

    stops = (STOP,)

    def decode(self, ids) -> str:
        return "".join(f"{i} " for i in ids)


def even(one) -> float:
    """The share of even tokens."""
    numbers = [int(word) for word in one.answer.split()]
    return sum(number % 2 == 0 for number in numbers) / max(len(numbers), 1)


def whole(one) -> float:
    """The share of even tokens of the prompt and the answer together."""
    numbers = [int(word) for word in re.findall(r"\d+", one.prompt[0]["content"] + one.answer)]
    return sum(number % 2 == 0 for number in numbers) / len(numbers)


def length(one) -> float:
    """How many tokens."""
    return float(len(one.answer.split()))


def half(one) -> float:
    """Different answers are of different worth to every other prompt; to the others none is worth anything."""
    return (1 + zlib.crc32(one.answer.encode()) / 2**32) * (one.record["number"] % 2)


def toy_critic(seed: int = 7) -> Model:
    """A network for the values, not yet taught anything."""
    critic = toy_model(seed)
    critic.add_heads({"value": Head(1, drawn=True)}, seed)
    return critic


def toy_prompts(count: int = 12, seed: int = 0) -> list[Prompt]:
    draw = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        size = int(torch.randint(1, 7, (), generator=draw))
        tokens = tuple(torch.randint(2, VOCABULARY, (size,), generator=draw).tolist())
        made.append(Prompt(tokens, ({"role": "user", "content": str(tokens)},), {"number": number}, f"toy:{number}"))
    return made


def toy_experience(
    folder: Path,
    objective: Policy,
    model: Model | None = None,
    *,
    batch_size: int = 2,
    seed: int = 0,
    mesh: Mesh | None = None,
    prompts: int = 12,
    prompts_a_phase: int = 4,
    micro_rows: int = 2,
    say=lambda line: None,
    whole=toy_model,
    reward: str = "even",
    **rollout,
) -> Experience:
    """Answers of up to 6 tokens, rewarded for even tokens unless said; their length is measured beside."""
    model = model or toy_model()
    if model.critic is None:
        model.add_heads(objective.heads)
    mesh = mesh or Mesh(torch.device("cpu"))
    how = Rollout(**{"group": 3, "prompts": prompts_a_phase, "max_new_tokens": 6, "slots": 5, **rollout})
    named = [
        Function(path=f"tests.rollout.scene:{reward}", name=reward),
        Function(path="tests.rollout.scene:length", name="length", weight=0),
    ]
    rewards = weighed(named, None)
    objective = objective.acting(how.max_new_tokens, how.temperature, tuple(spec.name for spec in named))
    setting = Setting(batch_size, micro_rows, 64, seed, folder, "policy", how)
    cast = Cast(model, mesh, whole)
    return Experience(objective, toy_prompts(prompts), rewards, cast, Words(), setting, mesh, say)  # type: ignore
