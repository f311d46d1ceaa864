"""The attention inside unmodified transformers models: packed equals separate, nothing leaks, eager agrees."""

import pytest
import torch
from torch import Tensor

from didact.model.attention import Sight, register

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WINDOWED = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PADDING = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
CAUSAL = {
    "llama": GROUPED,
    "qwen3": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 5},
    "gemma2": {**GROUPED, **WINDOWED, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**GROUPED, **WINDOWED, "query_pre_attn_scalar": 8},
    "phi3": {k: v for k, v in GROUPED.items() if k != "head_dim"} | {"sliding_window": 6},
    "olmo2": GROUPED,
    "gpt2": {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "attn_pdrop": 0.0},
}
BIDIRECTIONAL = {
    "bert": {**SMALL, **NO_DROPOUT, "pad_token_id": 0},
    "modernbert": {**SMALL, **PADDING, "global_attn_every_n_layers": 2, "local_attention": 8},
}
LENGTHS = [9, 14, 1, 7]


def build(kind: str, attention: str):
    """A tiny random model of the kind in fp32, the same for every attention."""
    from transformers import AutoConfig, AutoModel

    register()
    config = AutoConfig.for_model(kind, **{**CAUSAL, **BIDIRECTIONAL}[kind])
    torch.manual_seed(0)
    net = AutoModel.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():  # large enough that a wrong mask shows
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return net


def row(lengths: list[int], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Document numbers and positions, [1, T] each."""
    doc = [n for n, length in enumerate(lengths) for _ in range(length)] + [-1] * pad
    position = [i for length in lengths for i in range(length)] + [0] * pad
    return torch.tensor([doc]), torch.tensor([position])


def reach_of(doc: Tensor, kind: str) -> Tensor:
    """The reach of a causal, bidirectional or prefix row."""
    q = torch.arange(doc.shape[1])[None]
    same = doc[0][:, None] == doc[0]
    last = torch.where(same, q, -1).amax(-1)[None]
    first = torch.where(same, q, 10**6).amin(-1)[None]
    return {"causal": q, "bidirectional": last, "prefix": torch.maximum(q, (first + last) // 2)}[kind]


def run(net, token: Tensor, doc: Tensor, position: Tensor, kind: str, embeds: Tensor | None = None) -> Tensor:
    """Hidden states [1, T, D] of a row."""
    sight = Sight(doc, reach_of(doc, kind))
    what = {"input_ids": token} if embeds is None else {"inputs_embeds": embeds}
    known = {} if net.config.model_type == "bert" and embeds is None else {"use_cache": False}
    return net(**what, position_ids=position, sight=sight, **known).last_hidden_state


@pytest.mark.parametrize("kind", [*CAUSAL, *BIDIRECTIONAL])
@pytest.mark.parametrize("reach", ["causal", "bidirectional", "prefix"])
@torch.no_grad()
def test_packed_equals_separate(kind, reach):
    net = build(kind, "reach")
    doc, position = row(LENGTHS, pad=3)
    token = torch.randint(3, 61, doc.shape, generator=torch.Generator().manual_seed(3))
    packed = run(net, token, doc, position, reach)
    assert packed.isfinite().all()
    start = 0
    for length in LENGTHS:
        alone = run(net, token[:, start : start + length], *row([length]), reach)
        torch.testing.assert_close(packed[:, start : start + length], alone, rtol=1e-5, atol=1e-5)
        start += length


@pytest.mark.parametrize("kind", [*CAUSAL, *BIDIRECTIONAL])
@torch.no_grad()
def test_one_document_equals_the_models_own_eager_attention(kind):
    ours, theirs = build(kind, "reach"), build(kind, "eager")
    doc, position = row([21])
    token = torch.randint(3, 61, doc.shape, generator=torch.Generator().manual_seed(3))
    reach = "causal" if kind in CAUSAL else "bidirectional"
    want = theirs(input_ids=token, position_ids=position).last_hidden_state
    torch.testing.assert_close(run(ours, token, doc, position, reach), want, rtol=1e-5, atol=1e-5)
    other = "bidirectional" if kind in CAUSAL else "causal"
    assert (run(ours, token, doc, position, other) - want).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["llama", "qwen3", "olmo2", "gpt2", "bert"])
@pytest.mark.parametrize("reach", ["bidirectional", "prefix"])
@torch.no_grad()
def test_other_reaches_equal_eager_under_the_dense_mask(kind, reach):
    ours, theirs = build(kind, "reach"), build(kind, "eager")
    doc, position = row([21])
    token = torch.randint(3, 61, doc.shape, generator=torch.Generator().manual_seed(3))
    sees = torch.arange(21)[None, None, None, :] <= reach_of(doc, reach)[:, None, :, None]
    mask = torch.zeros(sees.shape).masked_fill_(~sees, torch.finfo(torch.float32).min)
    want = theirs(input_ids=token, position_ids=position, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(run(ours, token, doc, position, reach), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [*CAUSAL, *BIDIRECTIONAL])
@pytest.mark.parametrize("reach", ["causal", "bidirectional"])
def test_no_gradient_crosses_a_document_border(kind, reach):
    net = build(kind, "reach")
    doc, position = row(LENGTHS)
    embeds = torch.randn(1, sum(LENGTHS), 32, requires_grad=True)
    out = run(net, torch.empty(0), doc, position, reach, embeds)
    (grad,) = torch.autograd.grad(out[doc == 1].square().sum(), embeds)
    assert (grad[doc != 1] == 0).all()
    assert (grad[doc == 1].abs().sum(-1) > 0).all()


@torch.no_grad()
def test_autocast_runs_and_stays_near():
    net = build("qwen3", "reach")
    doc, position = row([12, 9])
    token = torch.randint(3, 61, doc.shape, generator=torch.Generator().manual_seed(3))
    exact = run(net, token, doc, position, "causal")
    with torch.autocast("cpu", torch.bfloat16):
        rough = run(net, token, doc, position, "causal")
    assert (rough - exact).norm() < 0.1 * exact.norm()
