"""Every attention path against the dense oracle: who sees whom, values, gradients, leaks."""

import math

import pytest
import torch
from torch import Tensor, nn

from didact.errors import UsageProblem
from didact.model import attention_cpu, attention_gpu
from didact.model.attention import Sight, attend, dispatch, register
from didact.model.attention_plain import masked, oracle

H, K, HD = 6, 2, 8
SCALE = HD**-0.5


def documents(*rows: list[int], tokens: int) -> Tensor:
    """Rows of documents of the given lengths, padded with -1 to ``tokens``."""
    doc = torch.full((len(rows), tokens), -1, dtype=torch.int32)
    for row, lengths in enumerate(rows):
        flat = [number for number, length in enumerate(lengths) for _ in range(length)]
        doc[row, : len(flat)] = torch.tensor(flat, dtype=torch.int32)
    return doc


def reach(doc: Tensor, kind: str) -> Tensor:
    """Causal, bidirectional, prefix (a third of each document) or anything at all."""
    q = torch.arange(doc.shape[1]).expand(doc.shape)
    same = doc[:, :, None] == doc[:, None, :]
    last = torch.where(same, q[:, None, :], -1).amax(-1)
    first = torch.where(same, q[:, None, :], doc.shape[1]).amin(-1)
    if kind == "causal":
        return q.clone()
    if kind == "bidirectional":
        return last
    if kind == "prefix":
        return torch.maximum(q, first + (last - first) // 3)
    generator = torch.Generator().manual_seed(5)
    return first + (torch.rand(doc.shape, generator=generator) * (last - first + 1)).long()


def inputs(rows: int, tokens: int, dtype: torch.dtype = torch.float32, keys: int = K) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key, value as a model hands them over: [B, T, heads, hd] seen as [B, heads, T, hd]."""
    torch.manual_seed(1)
    made = (torch.randn(rows, tokens, n, HD).to(dtype).requires_grad_() for n in (H, keys, keys))
    q, k, v = (x.transpose(1, 2) for x in made)
    return q, k, v


def close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.to(want.dtype), want, rtol=tolerance, atol=tolerance)


# A reach far behind its token leaves nothing to see in a window: "any" goes without one.
RULES = [(kind, window) for kind in ("causal", "bidirectional", "prefix") for window in (None, 1, 7, 50)] + [
    ("any", None)
]
DOC = documents([70, 1, 90, 20], [200], [33, 33, 33], tokens=200)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 32 queries, and probabilities made twice beyond 64 keys: every branch on small inputs."""
    monkeypatch.setattr(attention_cpu, "QUERIES", 32)
    monkeypatch.setattr(attention_cpu, "KEEP", 64)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("kind", "window"), RULES)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("keys", [K, H])
def test_cpu_path_equals_the_oracle(kind, window, softcap, keys):
    sight = Sight(DOC, reach(DOC, kind))
    real = (DOC >= 0)[:, None, :, None]
    q, k, v = inputs(*DOC.shape, keys=keys)
    ours = attention_cpu.attention(q, k, v, sight, SCALE, window, softcap)
    theirs = oracle(q, k, v, sight, SCALE, window, softcap)
    close(ours * real, theirs * real)
    up = torch.randn(ours.shape) * real
    for got, want in zip(
        torch.autograd.grad(ours, (q, k, v), up), torch.autograd.grad(theirs, (q, k, v), up), strict=True
    ):
        close(got, want)


@pytest.mark.parametrize("lengths", [[700], [300, 257, 143]])
@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_cpu_path_in_bf16_stays_near_the_fp32_oracle(lengths, kind):
    doc = documents(lengths, tokens=700)
    sight, exact = Sight(doc, reach(doc, kind)), Sight(doc, reach(doc, kind))
    q, k, v = inputs(1, 700, torch.bfloat16)
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    ours = attention_cpu.attention(q, k, v, sight, SCALE)
    theirs = oracle(*wide, exact, SCALE)
    assert (ours - theirs).norm() < 0.01 * theirs.norm()
    up = torch.randn(ours.shape).bfloat16()
    got = torch.autograd.grad(ours, (q, k, v), up)
    for g, w in zip(got, torch.autograd.grad(theirs, wide, up.float()), strict=True):
        assert g.dtype == torch.bfloat16
        assert (g - w).norm() < 0.02 * w.norm()


@pytest.mark.parametrize("length", [180, 512, 1100, 2300])
def test_cpu_path_at_the_lengths_it_changes_course(length):
    doc = documents([length], tokens=length)
    sight = Sight(doc, reach(doc, "causal"))
    q, k, v = inputs(1, length)
    ours, theirs = attention_cpu.attention(q, k, v, sight, SCALE), oracle(q, k, v, sight, SCALE)
    close(ours, theirs)
    up = torch.randn(ours.shape)
    for got, want in zip(
        torch.autograd.grad(ours, (q, k, v), up), torch.autograd.grad(theirs, (q, k, v), up), strict=True
    ):
        close(got, want, 2e-5)


def test_padding_is_finite_and_reaches_nobody():
    doc = documents([5, 4], tokens=12)
    sight = Sight(doc, reach(doc, "causal"))
    q, k, v = inputs(1, 12)
    base = attention_cpu.attention(q, k, v, sight, SCALE)
    loud = [torch.where((doc < 0)[:, None, :, None], torch.full_like(x, 1e4), x) for x in (q, k, v)]
    for path in (attention_cpu.attention, oracle):
        out = path(*loud, sight, SCALE)
        assert out.isfinite().all()
        close(out[:, :, :9], base[:, :, :9])


def test_a_torn_document_is_refused():
    doc = torch.tensor([[0, 0, 1, 0]])
    with pytest.raises(ValueError, match="unbroken"):
        attention_cpu.attention(*inputs(1, 4), Sight(doc, reach(doc, "causal")), SCALE)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("kind", "window"), RULES)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_flex_and_masked_equal_the_oracle(kind, window, softcap):
    from torch.nn.attention.flex_attention import flex_attention

    sight = Sight(DOC, reach(DOC, kind))
    real = (DOC >= 0)[:, None, :, None]
    q, k, v = (x.detach() for x in inputs(*DOC.shape))
    theirs = oracle(q, k, v, sight, SCALE, window, softcap) * real
    close(attention_gpu.attention(q, k, v, sight, SCALE, window, softcap, kernel=flex_attention).where(real, 0), theirs)
    if softcap is None:
        close(masked(q, k, v, sight, SCALE, window, 0.0) * real, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kind", "window"), RULES)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_cuda_path_equals_the_oracle(kind, window, softcap):
    doc = DOC.cuda()
    sight = Sight(doc, reach(DOC, kind).cuda())
    real = (doc >= 0)[:, None, :, None]
    torch.manual_seed(2)
    q, k, v = (torch.randn(3, n, 200, 64, device="cuda", requires_grad=True) for n in (H, K, K))
    ours = dispatch(q, k, v, sight, 0.125, window, softcap)
    theirs = oracle(q, k, v, sight, 0.125, window, softcap)
    close(ours.where(real, 0), theirs * real, 2e-3)
    up = torch.randn_like(ours) * real
    for got, want in zip(
        torch.autograd.grad(ours, (q, k, v), up), torch.autograd.grad(theirs, (q, k, v), up), strict=True
    ):
        close(got, want, 5e-3)


@pytest.mark.parametrize("queries", [1, 3, 300])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_decoding_on_a_cache_equals_the_whole_row(queries, window, softcap):
    """Rows of different lengths, the last ``queries`` tokens of each asked against the slots before them."""
    lengths, slots = [310, 400, 305], 420
    q, k, v = inputs(3, slots)
    last = torch.tensor(lengths)[:, None] - queries + torch.arange(queries)  # [B, Q]
    new = torch.stack([q[row, :, last[row]] for row in range(3)])
    got = dispatch(new, k, v, Sight.decode(last), SCALE, window, softcap)
    for row, length in enumerate(lengths):
        doc = documents([length], tokens=length)
        one = [x[row : row + 1, :, :length] for x in (q, k, v)]
        whole = oracle(*one, Sight(doc, reach(doc, "causal")), SCALE, window, softcap)
        close(got[row : row + 1], whole[:, :, -queries:])


def test_decoding_ignores_slots_beyond_reach():
    q, k, v = inputs(2, 9)
    sight = Sight.decode(torch.tensor([[3], [6]]))
    base = dispatch(q[:, :, :1], k, v, sight, SCALE)
    with torch.no_grad():
        k[0, :, 4:] = 1e4
        v[0, :, 4:] = 1e4
    close(dispatch(q[:, :, :1], k, v, sight, SCALE)[:1], base[:1])


def test_equal_lengths_need_no_mask_when_decoding():
    q, k, v = inputs(2, 9)
    got = dispatch(q[:, :, :1], k, v, Sight.decode(torch.tensor([[8], [8]])), SCALE)
    score = (q[:, :, :1] @ k.repeat_interleave(H // K, 1).transpose(2, 3) / math.sqrt(HD)).softmax(-1)
    close(got, score @ v.repeat_interleave(H // K, 1))


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_dropout_drops_and_keeps_the_mean(softcap):
    doc = documents([20], tokens=20)
    sight = Sight(doc, reach(doc, "causal"))
    with torch.no_grad():
        q, k, v = inputs(1, 20)
        exact = dispatch(q, k, v, sight, SCALE, None, softcap)
        drawn = torch.stack([dispatch(q, k, v, sight, SCALE, None, softcap, dropout=0.3) for _ in range(800)])
    assert (drawn[0] - exact).abs().max() > 0.05
    assert (drawn.mean(0) - exact).abs().max() < 0.25
    assert (drawn.mean(0) - exact).abs().mean() < 0.02


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("keep", [attention_cpu.KEEP, 0], ids=["kept", "made again"])
def test_the_gradient_under_dropout_is_that_of_what_was_left(softcap, keep, monkeypatch):
    monkeypatch.setattr(attention_cpu, "KEEP", keep)
    doc = documents([3, 5], [7], tokens=8)
    sight = Sight(doc, reach(doc, "bidirectional"))

    def drawn(*given: Tensor) -> Tensor:
        torch.manual_seed(3)
        return dispatch(*given, sight, SCALE, None, softcap, dropout=0.4)

    assert torch.autograd.gradcheck(drawn, inputs(2, 8, torch.float64), eps=1e-6, atol=1e-7)


def test_derivations_are_made_once():
    doc = documents([20], tokens=20)
    sight = Sight(doc, reach(doc, "causal"))
    calls = []

    def make(seen: Sight, key: int) -> int:
        calls.append(key)
        return key

    assert [sight.derive(make, n) for n in (1, 1, 2, 1)] == [1, 1, 2, 1]
    assert calls == [1, 2]


def call(**changes):
    q, k, v = inputs(1, 4)
    doc = documents([4], tokens=4)
    asked = {"sight": Sight(doc, reach(doc, "causal")), "attention_mask": None, **changes}
    return attend(nn.Linear(1, 1), q, k, v, **asked)


def test_what_it_cannot_honour_is_one_clear_line():
    assert call(position_ids=torch.arange(4), s_aux=None)[0].shape == (1, 4, H, HD)
    for changes, said in [
        ({"s_aux": torch.zeros(H)}, "attention with s_aux"),
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"sight": None}, "without `sight`"),
        ({"attention_mask": torch.zeros(1, 1, 4, 4)}, "attention mask"),
        ({"sight": Sight.decode(torch.zeros(1, 3, dtype=torch.int64))}, "1 x 3 tokens"),
    ]:
        with pytest.raises(UsageProblem, match=said) as problem:
            call(**changes)
        assert "\n" not in str(problem.value)


def test_mixed_types_follow_the_value():
    doc = documents([6], tokens=6)
    q, k, v = inputs(1, 6)
    out, _ = attend(nn.Linear(1, 1), q, k, v.bfloat16(), None, sight=Sight(doc, reach(doc, "causal")))
    assert out.dtype == torch.bfloat16


def test_registering_twice_is_harmless():
    from transformers import AttentionInterface, AttentionMaskInterface

    register()
    register()
    assert AttentionInterface()["reach"] is attend
    assert AttentionMaskInterface()["reach"](1, 2, mask_function=None) is None
