"""Whether the largest micro-batch fits in memory, found out before the first step."""

from collections.abc import Sequence

import torch

from didact.batch import Batch
from didact.engine.mesh import Mesh
from didact.engine.settings import Training
from didact.engine.step import Source
from didact.errors import ResourceProblem
from didact.model.model import Model
from didact.rng import Rng


def probe(model: Model, sources: Sequence[Source], settings: Training, mesh: Mesh, micro: int) -> None:
    """One forward and backward of the largest micro-batch before the first step, so that memory runs out at once.

    Raises ResourceProblem with what to change.
    """
    for source in sources:
        try:
            like = source.stream.like()
            context = max(settings.context, like.token.shape[1] if "answer" in like else 0)
            batch = full_batch(context, micro, like, source.objective.joined).to(mesh.device)
            ready = source.objective.prepare(model, batch, Rng(settings.seed, -1))
            losses = source.objective.loss(model, ready)
            (0.0 * torch.stack([(loss * ready.weight[term]).sum() for term, loss in losses.items()]).sum()).backward()
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise out_of_memory(settings, micro) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # how torch's CPU allocator says it
                raise
            raise out_of_memory(settings, micro) from error


def full_batch(context: int, rows: int, like: Batch, joined: bool = False) -> Batch:
    """Rows of one document of ``context`` tokens, every token trained.

    Where a row is several texts, of as many; of the same together where they are ``joined``. Where it is prompts with
    answers, one prompt with two; where the model gives these itself, ``like`` is as large as they come.
    """
    if "behaviour" in like:
        return like.rows(torch.zeros(rows, dtype=torch.int64))
    texts = int(like.doc.max()) + 1 if "value" in like else 1
    context = context // texts if joined else context
    index = torch.arange(texts * context).expand(rows, -1)
    value = {"value": like.value[:1].expand(rows)} if "value" in like else {}
    likeliest = torch.zeros(rows, context, like["teacher_token"].shape[2] if "teacher_token" in like else 0)
    taught = {"teacher_token": likeliest.long(), "teacher_logprob": likeliest - 10} if "teacher_token" in like else {}
    if "reference" in like:
        taught["reference"] = torch.full((rows, context), -1.0)
    judged: dict[str, torch.Tensor] = {}
    if "answer" in like:
        answer, two = 3 * index // context - 1, torch.zeros(rows, 2, dtype=torch.int64)
        judged = {"answer": answer, "order": (2 * answer + 1).clamp(min=0), "of": two, "who": two}
        judged["score"] = torch.tensor([1.0, 0.0]).expand(rows, -1)
    return Batch(
        {
            "token": index % 7,
            "doc": (index // context).int(),
            "position": index % context,
            "trained": torch.ones(rows, texts * context, dtype=torch.bool),
            **value,
            "row": torch.arange(rows),
            **taught,
            **judged,
        }
    )


def out_of_memory(settings: Training, micro: int) -> ResourceProblem:
    """What to change when a micro-batch does not fit."""
    remedy = (
        "lower micro_batch_size"
        if micro > 1
        else "set activation_checkpointing: true"
        if not settings.activation_checkpointing
        else "lower context, or use tune: lora"
    )
    return ResourceProblem(
        f"a micro-batch of {micro} x {settings.context} tokens does not fit in memory", remedy=remedy
    )
