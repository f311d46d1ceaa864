"""Hard negatives: texts the model itself takes for what belongs to an anchor, and that do not."""

from typing import Any

import orjson
import torch
from torch import Tensor

from didact.data.source import examples
from didact.engine.durable import on_disk
from didact.measure.recall import belongings, paired
from didact.model.embed import Embedder
from didact.recipe.making import Mine
from didact.run.folder import Artifact, StageFolder
from didact.run.ground import Ground, opened

ROWS = 1024  # anchors whose scores are made at once


def mine(stage: Mine, ground: Ground, folder: StageFolder) -> Artifact:
    """Leaves ``pairs``: every anchor with its positive and the nearest wrong texts among all positives."""
    assert ground.model is not None
    facts: dict[str, Any] = {}
    if ground.mesh.main:
        found = [example for source in examples(stage.data, ground.outputs, stage.seed) for example in source]
        anchors, positives = paired(found)
        corpus = list(dict.fromkeys(positives))
        embed = Embedder.of(*opened(ground.model, ground.mesh.device))
        asked, known = embed(anchors, "query"), embed(corpus, "document")
        own, right = known[[corpus.index(text) for text in positives]], belongings(anchors, positives, corpus)
        parts = zip(asked.split(ROWS), own.split(ROWS), right.split(ROWS), strict=True)
        hard = [row for q, p, mine in parts for row in nearest(q @ known.T, (q * p).sum(1), mine, stage)]
        lines = [
            {"anchor": anchor, "positive": positive, "negatives": [corpus[number] for number in row]}
            for anchor, positive, row in zip(anchors, positives, hard, strict=True)
        ]
        with on_disk(folder.path, "write the pairs"):
            (folder.path / "pairs.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        count = sum(map(len, hard))
        ground.say(f"{stage.name}: {count:,} hard negatives for {len(lines):,} anchors among {len(corpus):,} texts")
        facts = {"anchors": len(lines), "negatives": count, "texts": len(corpus)}
    ground.mesh.barrier()
    return Artifact(outputs={"pairs": folder.path / "pairs.jsonl"}, facts=facts)


def nearest(score: Tensor, positive: Tensor, right: Tensor, stage: Mine) -> list[list[int]]:
    """The numbers of the nearest wrong texts of each anchor, ``negatives`` at most; scores [N, corpus], positive [N].

    A text nearer than ``margin`` times the positive's score is likely to belong to the anchor too and is passed over
    (positive-aware mining, arXiv:2407.15831, section 3.2), and so are the first ``skip_top`` of the others.
    """
    bound = positive - (1 - stage.margin) * positive.abs()
    guarded = score.masked_fill(right | (score > bound[:, None]), -torch.inf)
    wanted = min(stage.skip_top + stage.negatives, score.shape[1])
    top, number = guarded.topk(wanted, dim=1)
    kept = top[:, stage.skip_top :] > -torch.inf
    return [row[keep].tolist() for row, keep in zip(number[:, stage.skip_top :], kept, strict=True)]
