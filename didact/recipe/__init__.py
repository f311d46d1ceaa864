"""Recipes: YAML <-> typed stages, with every mistake told by file and line."""

from didact.recipe.editor import json_schema
from didact.recipe.load import Loaded, load
from didact.recipe.schema import (
    Corpus,
    Evaluate,
    Finetune,
    Learning,
    Links,
    Mine,
    ObjectiveSpec,
    Pretrain,
    Recipe,
    Stage,
    TaskSpec,
    Tokenizer,
    stage_digest,
)
from didact.recipe.write import dump

__all__ = [
    "Corpus",
    "Evaluate",
    "Finetune",
    "Learning",
    "Links",
    "Loaded",
    "Mine",
    "ObjectiveSpec",
    "Pretrain",
    "Recipe",
    "Stage",
    "TaskSpec",
    "Tokenizer",
    "dump",
    "json_schema",
    "load",
    "stage_digest",
]
