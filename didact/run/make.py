"""The stages that make data and tokenizers."""

from typing import Any

from didact.data.source import examples
from didact.engine.durable import on_disk
from didact.recipe.making import Corpus, Links, Tokenizer
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground
from didact.text import tokenizer as tokenizers


def corpus(stage: Corpus, ground: Ground, folder: StageFolder) -> Artifact:
    """Builds a domain's files."""
    from didact.data import domain

    provenance: dict[str, Any] = {}
    if ground.mesh.main:
        with on_disk(folder.path, "make the corpus"):
            provenance = domain.build(stage.domain, folder.path, stage.holdout, stage.seed, ground.say, stage.only)
    ground.mesh.barrier()
    outputs = {name: folder.path / f"{name}.jsonl" for name in stage.outputs}
    return Artifact(outputs={name: path for name, path in outputs.items() if path.exists()}, facts=provenance)


def tokenizer(stage: Tokenizer, ground: Ground, folder: StageFolder) -> Artifact:
    """Trains a tokenizer on the text of the data."""
    from didact.data.corpus import trained_text

    where = folder.path / "tokenizer"
    if ground.mesh.main:
        sources = examples(stage.data, ground.outputs, stage.seed)
        trained = tokenizers.train((trained_text(e) for found in sources for e in found), stage.vocab_size)
        with on_disk(where, "write the tokenizer"):
            tokenizers.save(trained, where, 1 << 20)
    ground.mesh.barrier()
    return Artifact(tokenizer=where, facts={"vocab_size": stage.vocab_size})


def links(stage: Links, ground: Ground, folder: StageFolder) -> Artifact:
    """Draws pairs of linked documents."""
    from didact.data.links.build import build

    facts: dict[str, Any] = {}
    if ground.mesh.main:
        with on_disk(folder.path, "make the pairs"):
            facts = build(examples(stage.data, ground.outputs, stage.seed), stage, stage.seed, folder.path, ground.say)
    ground.mesh.barrier()
    return Artifact(outputs={name: folder.path / f"{name}.jsonl" for name in stage.outputs}, facts=facts)
