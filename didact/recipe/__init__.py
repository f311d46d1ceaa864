"""Recipes: YAML <-> typed stages, with every mistake told by file and line."""

from didact.recipe.aligning import Align
from didact.recipe.editor import json_schema
from didact.recipe.judging import Evaluate
from didact.recipe.learning import Finetune, Learning, ObjectiveSpec, Pretrain, TaskSpec
from didact.recipe.load import Loaded, load
from didact.recipe.making import Corpus, Index, Links, Mine, Tokenizer
from didact.recipe.schema import Recipe
from didact.recipe.stage import Stage, stage_digest
from didact.recipe.write import dump

__all__ = [
    "Align",
    "Corpus",
    "Evaluate",
    "Finetune",
    "Index",
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
