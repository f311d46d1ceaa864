"""The chunked head against torch's cross entropy, value and gradient."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from didact.model import head
from didact.model.head import closeness, logprob

D, V = 16, 37


def problem(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (3, 11)) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(*shape, D, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, dtype=dtype, requires_grad=True)
    bias = torch.randn(V, dtype=dtype, requires_grad=True)
    target = torch.randint(V, shape)
    where = torch.rand(shape) * (torch.rand(shape) > 0.4)
    return hidden, weight, bias, target, where


def plain(hidden, weight, bias, target, where, softcap=None, temperature=1.0) -> Tensor:
    """The equation with full logits."""
    x = F.linear(hidden, weight, bias)
    x = x if softcap is None else softcap * torch.tanh(x / softcap)
    found = (x / temperature).log_softmax(-1).gather(-1, target[..., None])[..., 0]
    return torch.where(where != 0, found, 0)


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("chunk", [1, 4, 512])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("usual", [True, False], ids=["weighted mean", "any loss"])
def test_value_and_gradient_are_the_full_softmax(chunk, softcap, temperature, usual):
    hidden, weight, bias, target, where = problem()
    ours = logprob(hidden, weight, bias, target, where, softcap, chunk, temperature)
    theirs = plain(hidden, weight, bias, target, where, softcap, temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    up = -where / where.sum() if usual else torch.randn(where.shape)
    got = gradients((ours * up).sum(), hidden, weight, bias)
    for g, w in zip(got, gradients((theirs * up).sum(), hidden, weight, bias), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("usual", [True, False], ids=["weighted mean", "any loss"])
def test_an_id_without_a_chance_is_left_out_of_the_softmax(softcap, usual):
    hidden, weight, bias, target, where = problem()
    target[target == 7] = 8
    ours = logprob(hidden, weight, bias, target, where, softcap, chunk=4, never=7)
    rest = [i for i in range(V) if i != 7]
    theirs = plain(hidden, weight[rest], bias[rest], target - (target > 7).long(), where, softcap)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    up = -where / where.sum() if usual else torch.randn(where.shape)
    got = gradients((ours * up).sum(), hidden, weight, bias)
    for g, w in zip(got, gradients((theirs * up).sum(), hidden, weight, bias), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=3e-6)


def test_equals_cross_entropy():
    hidden, weight, bias, target, where = problem()
    here = where != 0
    theirs = F.cross_entropy(F.linear(hidden, weight, bias)[here], target[here])
    ours = -logprob(hidden, weight, bias, target, here).sum() / here.sum()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_gradcheck_in_fp64():
    hidden, weight, bias, target, where = problem(torch.float64, (2, 3))
    assert torch.autograd.gradcheck(
        lambda h, w, b: logprob(h, w, b, target, where, 4.0, 2, 0.9), (hidden, weight, bias)
    )


def test_usual_loss_needs_no_second_pass(monkeypatch):
    hidden, weight, bias, target, where = problem()
    loss = -(logprob(hidden, weight, bias, target, where) * where).sum() / 17

    def refuse(*args):
        raise AssertionError("the guess was right, yet the gradient was made twice")

    monkeypatch.setattr(head.Head, "score", refuse)
    loss.backward()
    unusual = problem()
    monkeypatch.undo()
    squared = logprob(*unusual).square().sum()
    monkeypatch.setattr(head.Head, "score", refuse)
    with pytest.raises(AssertionError, match="made twice"):
        squared.backward()


def test_only_weighted_positions_are_computed():
    hidden, weight, bias, target, where = problem()
    with torch.no_grad():
        hidden[where == 0] = torch.nan
    found = logprob(hidden, weight, bias, target, where)
    assert found.isfinite().all()
    (dh,) = gradients(found.sum(), hidden)
    assert (dh[where == 0] == 0).all()
    assert (dh[where != 0] != 0).any()


def test_nothing_to_predict_is_zero_with_zero_gradient():
    hidden, weight, bias, target, where = problem()
    found = logprob(hidden, weight, bias, target, where * 0)
    assert (found == 0).all()
    assert all((g == 0).all() for g in gradients(found.sum(), hidden, weight, bias))


def test_frozen_head_makes_no_weight_gradient(monkeypatch):
    hidden, weight, bias, target, where = problem()
    expected = gradients(plain(hidden, weight, bias, target, where).sum(), hidden)[0]

    def refuse(*args):
        raise AssertionError("a frozen head was given a gradient")

    monkeypatch.setattr(head, "Sums", refuse)
    found = logprob(hidden, weight.detach(), bias.detach(), target, where)
    torch.testing.assert_close(gradients(found.sum(), hidden)[0], expected)
    with pytest.raises(AssertionError, match="frozen"):
        logprob(hidden, weight, bias.detach(), target, where)


def test_frozen_hidden_still_trains_the_weight():
    hidden, weight, _, target, where = problem()
    (dw,) = gradients(logprob(hidden.detach(), weight, None, target, where).sum(), weight)
    torch.testing.assert_close(dw, gradients(plain(hidden, weight, None, target, where).sum(), weight)[0])


def test_no_grad_gives_values_only():
    hidden, weight, bias, target, where = problem()
    with torch.no_grad():
        assert not logprob(hidden, weight, bias, target, where).requires_grad


def test_bf16_is_as_good_as_bf16_can_be():
    hidden, weight, bias, target, where = problem(torch.bfloat16, (4, 50))
    wide = [x.detach().float().requires_grad_() for x in (hidden, weight, bias)]
    ours = logprob(hidden, weight, bias, target, where, chunk=64)
    theirs = plain(*wide, target, where)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.05)
    got = gradients(-(ours * where).sum(), hidden, weight, bias)
    for g, w in zip(got, gradients(-(theirs * where).sum(), *wide), strict=True):
        assert g.dtype == torch.bfloat16
        assert (g - w).norm() < 0.01 * w.norm()


def test_bf16_gradient_sum_does_not_degrade_with_many_chunks():
    hidden, weight, bias, target, where = problem(torch.bfloat16, (1, 400))
    one = gradients(-logprob(hidden, weight, bias, target, where, chunk=400).sum(), weight)[0].float()
    many = gradients(-logprob(hidden, weight, bias, target, where, chunk=4).sum(), weight)[0].float()
    assert (one - many).norm() < 0.005 * one.norm()


def test_autocast_and_fp32_weights():
    hidden, weight, bias, target, where = problem()
    with torch.autocast("cpu", torch.bfloat16):
        found = logprob(hidden.bfloat16(), weight, bias, target, where)
    torch.testing.assert_close(found, plain(hidden, weight, bias, target, where), rtol=0.02, atol=0.1)
    assert gradients(found.sum(), weight)[0].dtype == torch.float32


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("chunk", [4, 512])
def test_label_smoothing_and_z_loss_are_theirs(softcap, chunk):
    """In fp64: F.cross_entropy(label_smoothing=) plus lambda log^2 Z, in value and gradient."""
    hidden, weight, bias, target, where = problem(torch.float64)
    smoothing, z_loss, here = 0.1, 1e-2, where != 0
    ours = -logprob(hidden, weight, bias, target, where, softcap, chunk, smoothing=smoothing, z_loss=z_loss)
    x = F.linear(hidden, weight, bias)[here]
    x = x if softcap is None else softcap * torch.tanh(x / softcap)
    theirs = F.cross_entropy(x, target[here], label_smoothing=smoothing, reduction="none")
    theirs = theirs + z_loss * x.logsumexp(-1).square()
    torch.testing.assert_close(ours[here], theirs, rtol=1e-8, atol=1e-8)
    up = where[here].double()
    got = gradients((ours[here] * up).sum(), hidden, weight, bias)
    for g, w in zip(got, gradients((theirs * up).sum(), hidden, weight, bias), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-8)


def test_z_loss_pulls_on_the_logits_by_twice_log_z_softmax():
    """With the identity as head, hidden states are logits: the added gradient is 2 lambda log Z softmax(x)."""
    x = torch.randn(7, V, dtype=torch.float64, requires_grad=True)
    weight, target, where = torch.eye(V, dtype=torch.float64), torch.randint(V, (7,)), torch.ones(7)
    with_z, without = (-logprob(x, weight, None, target, where, z_loss=z).sum() for z in (1e-4, 0.0))
    added = gradients(with_z, x)[0] - gradients(without, x)[0]
    torch.testing.assert_close(added, 2e-4 * x.logsumexp(-1, keepdim=True) * x.softmax(-1), rtol=1e-8, atol=1e-12)


def teacher(top: int, dtype: torch.dtype = torch.float64, shape=(3, 11), temperature: float = 1.0):
    """Logits of a teacher, its likeliest tokens and their log-probabilities."""
    logits = 2 * torch.randn(*shape, V, dtype=dtype, generator=torch.Generator().manual_seed(7))
    log_p, token = (logits / temperature).log_softmax(-1).topk(top)
    return logits, token, log_p


@pytest.mark.parametrize("chunk", [4, 512])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("usual", [True, False], ids=["weighted mean", "any loss"])
def test_closeness_on_all_tokens_is_torchs_kl(chunk, softcap, temperature, usual):
    hidden, weight, bias, _, where = problem(torch.float64)
    logits, token, log_p = teacher(V, temperature=temperature)
    ours = -closeness(hidden, weight, bias, token, log_p, where, softcap, chunk, temperature)
    x = F.linear(hidden, weight, bias)
    x = x if softcap is None else softcap * torch.tanh(x / softcap)
    log_q, p = (x / temperature).log_softmax(-1), (logits / temperature).softmax(-1)
    theirs = torch.where(where != 0, F.kl_div(log_q, p, reduction="none").sum(-1), 0)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    up = where.double() if usual else torch.randn(where.shape, dtype=torch.float64)
    got = gradients((ours * up).sum(), hidden, weight, bias)
    for g, w in zip(got, gradients((theirs * up).sum(), hidden, weight, bias), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-8)


def test_closeness_on_some_tokens_is_the_kl_with_the_others_as_one():
    hidden, weight, bias, _, where = problem(torch.float64)
    full = closeness(hidden, weight, bias, *teacher(V)[1:], where)
    for top in (1, 5, V - 1):
        _, token, log_p = teacher(top)
        ours = -closeness(hidden, weight, bias, token, log_p, where)
        q = F.linear(hidden, weight, bias).softmax(-1)
        named = q.gather(-1, token)
        both = [torch.cat([part, 1 - part.sum(-1, keepdim=True)], -1) for part in (log_p.exp(), named)]
        theirs = torch.where(where != 0, F.kl_div(both[1].log(), both[0], reduction="none").sum(-1), 0)
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
        assert (ours <= -full + 1e-12).all()
        got = gradients((ours * where).sum(), hidden, weight, bias)
        for g, w in zip(got, gradients((theirs * where).sum(), hidden, weight, bias), strict=True):
            torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-8)


def test_closeness_of_a_sure_teacher_and_a_sure_student_is_finite():
    """In fp32 the student's tail has no probability left, and the teacher's three tokens all of it."""
    x = torch.zeros(2, V).index_fill(1, torch.tensor([3]), 200.0).requires_grad_()
    token, log_p = torch.tensor([[3, 4, 5], [6, 3, 5]]), torch.tensor([[0.9, 0.07, 0.03], [0.6, 0.2, 0.1]]).log()
    ours = -closeness(x, torch.eye(V), None, token, log_p, torch.ones(2))
    assert ours.isfinite().all()
    assert (ours > 1).all()
    (gradient,) = gradients(ours.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient.gather(1, token) < 0).sum() == 4  # all but what it is too sure of
