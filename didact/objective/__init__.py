"""Objectives: one short file an equation."""

from collections.abc import Mapping
from typing import Any

from didact.named import make
from didact.objective.base import Objective
from didact.objective.contrast import Contrast
from didact.objective.diffusion import Diffusion
from didact.objective.distil import Distil
from didact.objective.dpo import Cdpo, Dpo, Hinge, Ipo, LdDpo, PlDpo, Robust
from didact.objective.kto import Kto
from didact.objective.linked import Linked, LinkedMasked, Together
from didact.objective.masked import Masked
from didact.objective.policy import Dapo, DrGrpo, Expert, Grpo, Gspo, Policy, Ppo, ReinforcePp, Rloo
from didact.objective.preference import Cpo, Orpo, Simpo
from didact.objective.reward import Reward
from didact.objective.tokens import Causal, Prefix

NAMES: dict[str, type[Objective]] = {
    "causal": Causal,
    "sft": Causal,
    "prefix": Prefix,
    "distil": Distil,
    "masked": Masked,
    "diffusion": Diffusion,
    "contrast": Contrast,
    "together": Together,
    "linked": Linked,
    "linked_masked": LinkedMasked,
    "policy": Policy,
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "dapo": Dapo,
    "rloo": Rloo,
    "gspo": Gspo,
    "reinforce_pp": ReinforcePp,
    "expert_iteration": Expert,
    "ppo": Ppo,
    "reward": Reward,
    "dpo": Dpo,
    "ipo": Ipo,
    "cdpo": Cdpo,
    "robust": Robust,
    "hinge": Hinge,
    "ld_dpo": LdDpo,
    "pl_dpo": PlDpo,
    "simpo": Simpo,
    "cpo": Cpo,
    "orpo": Orpo,
    "kto": Kto,
}


def resolve(name: str, options: Mapping[str, Any]) -> Objective:
    """The objective a recipe names: one of ``NAMES``, or a user's own as ``module:Class``."""
    return make("objective", name, options, NAMES, Objective)
