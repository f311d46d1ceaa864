import math

import pytest
import torch

from didact.data.pieces import cut
from didact.engine.evaluate import evaluate
from didact.engine.mesh import Mesh
from didact.objective.tokens import Causal
from tests.toy import toy_corpus, toy_model

MESH = Mesh(torch.device("cpu"))


def by_hand(model, corpus) -> tuple[float, int]:
    """Document by document through transformers' own forward."""
    model.net.set_attn_implementation("eager")
    nats, count = 0.0, 0
    for start, end in zip(corpus.bound[:-1], corpus.bound[1:], strict=True):
        token = torch.from_numpy(corpus.token[start:end].astype("int64"))[None]
        with torch.no_grad():
            logp = model.net(input_ids=token).logits.log_softmax(-1)[0, :-1]
        picked = logp.gather(-1, token[0, 1:, None])[:, 0][torch.from_numpy(corpus.trained[start + 1 : end])]
        nats, count = nats - picked.double().sum().item(), count + len(picked)
    model.net.set_attn_implementation("reach")
    return nats, count


@pytest.mark.parametrize("rows", [1, 3, 4, 64])
def test_bits_per_byte_by_hand(rows):
    model, corpus = toy_model(), toy_corpus(documents=23)
    nats, count = by_hand(model, corpus)
    parts, _ = cut([corpus], 32, "window")
    model.train()
    score = evaluate(model, Causal(), parts, 32, MESH, rows=rows)
    assert score.tokens == count
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / corpus.text_bytes.sum(), rel=1e-5)
    assert model.training, "the mode of the model was changed"


def test_windows_lose_context_but_no_token():
    model, corpus = toy_model(), toy_corpus(documents=6, longest=100)
    whole = evaluate(model, Causal(), cut([corpus], 128, "window")[0], 128, MESH)
    cut_up = evaluate(model, Causal(), cut([corpus], 24, "window")[0], 24, MESH)
    assert cut_up.tokens == whole.tokens
    assert cut_up.nats != pytest.approx(whole.nats, rel=1e-4)
