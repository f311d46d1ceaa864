"""Advantages and KL estimators against their identities (law 7)."""

import math

import pytest
import torch

from didact.objective import advantage
from didact.objective.advantage import ESTIMATORS, gae, whiten

D = torch.float64


def rewards(prompts=5, answers=4, seed=0):
    return torch.randn(prompts, answers, dtype=D, generator=torch.Generator().manual_seed(seed))


def ragged(count=6, longest=7, seed=1):
    """Rewards, values and a mask of answers of 1 to ``longest`` actions."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(longest)[None] < torch.randint(1, longest + 1, (count, 1), generator=draw)
    reward, value = torch.randn(2, count, longest, dtype=D, generator=draw)
    return reward * mask, value * mask, mask


def test_leave_one_out_is_the_centred_reward_times_g_over_g_minus_one():
    score = rewards()
    expected = torch.stack(
        [score[:, i] - torch.cat([score[:, :i], score[:, i + 1 :]], 1).mean(1) for i in range(score.shape[1])], 1
    )
    torch.testing.assert_close(advantage.others(score), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected, 4 / 3 * advantage.centred(score), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["group", "mean", "others"])
def test_equal_rewards_are_worth_nothing(name):
    score = torch.full((3, 4), 0.7, dtype=D)
    assert advantage.BASELINES[name](score).abs().max() < 1e-12
    assert not advantage.informative(score).any()
    assert advantage.informative(rewards()).all()


def test_a_binary_group_stands_at_the_roots_of_its_odds():
    """With the population's standard deviation: +sqrt((1-p)/p) for the right answers, -sqrt(p/(1-p)) for the wrong."""
    score = torch.tensor([[1.0, 0, 0, 0, 0]], dtype=D)
    found = advantage.standardised(score) * (score.std(1) + 1e-4) / score.std(1, correction=0)
    torch.testing.assert_close(found[0, :2], torch.tensor([2.0, -0.5], dtype=D), rtol=0, atol=1e-12)


def test_one_answer_has_no_deviation():
    assert torch.equal(advantage.standardised(torch.tensor([[3.0]])), torch.zeros(1, 1))


def test_gae_of_lambda_one_is_the_return_less_the_value():
    reward, value, mask = ragged()
    found = gae(reward, value, mask, gamma=1.0, lam=1.0)
    expected = (reward.flip(1).cumsum(1).flip(1) - value) * mask
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(advantage.returns(reward, mask), expected + value, rtol=0, atol=1e-12)


def test_gae_of_lambda_zero_is_the_temporal_difference():
    reward, value, mask = ragged()
    ahead = torch.cat([value[:, 1:], torch.zeros(len(value), 1, dtype=D)], 1)
    expected = (reward + 0.9 * ahead - value) * mask
    torch.testing.assert_close(gae(reward, value, mask, gamma=0.9, lam=0.0), expected, rtol=0, atol=1e-12)


def test_what_is_padded_does_not_matter():
    reward, value, mask = ragged()
    whole = gae(reward, value, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = gae(reward[row : row + 1, :length], value[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(whole[row, :length], alone[0], rtol=0, atol=1e-12)
    other = torch.where(mask, value, 9.0)
    torch.testing.assert_close(gae(reward, other, mask), whole, rtol=0, atol=1e-12)


def test_whitening_with_the_mean_kept():
    x = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]], dtype=D)
    found = whiten(x, torch.ones_like(x), keep_mean=True)
    torch.testing.assert_close(found[0], torch.tensor([0.0508, 0.4381, 0.8254], dtype=D), rtol=0, atol=1e-4)
    found = whiten(x, torch.tensor([[1.0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=D))
    assert found[:2].mean().abs() < 1e-12
    assert abs(float(found[:2].square().mean()) - 1) < 1e-6
    assert not found[2].any()


@pytest.mark.parametrize(
    ("mu", "name", "std", "bias"),
    [
        *((0.1, "k1", 20.0, 0), (0.1, "k2", 1.42, 0.002), (0.1, "k3", 1.42, 0)),
        *((1.0, "k1", 2.0, 0), (1.0, "k2", 1.73, 0.25), (1.0, "k3", 1.68, 0)),
    ],
)
def test_kl_estimators_on_two_normals(mu, name, std, bias):
    """q = N(0, 1), p = N(mu, 1): KL(q || p) = mu^2 / 2; expectations by quadrature."""
    x = torch.linspace(-12, 12, 200_001, dtype=D)
    log_q, log_p = -x.square() / 2, -(x - mu).square() / 2
    density = log_q.exp() / math.sqrt(2 * math.pi) * (x[1] - x[0])
    found = ESTIMATORS[name](log_q, log_p)
    true = mu**2 / 2
    mean = float((found * density).sum())
    assert mean / true - 1 == pytest.approx(bias, abs=1.5e-3)
    assert math.sqrt(float(((found - mean).square() * density).sum())) / true == pytest.approx(std, rel=1e-2)


def test_gradients_of_the_estimators_as_losses():
    """On-policy: k1 has none, k2 that of KL(q || p), k3 that of KL(p || q), and k3_k2 that of k2."""
    logits = rewards(1, 6)[0].requires_grad_()
    log_p = rewards(1, 6, seed=3)[0].log_softmax(0)

    def gradient(make):
        (found,) = torch.autograd.grad(make(logits.log_softmax(0)), logits)
        return found

    def expected(estimator):
        return gradient(lambda log_q: (log_q.exp().detach() * estimator(log_q, log_p)).sum())

    forward = gradient(lambda log_q: (log_q.exp() * (log_q - log_p)).sum())
    reverse = gradient(lambda log_q: (log_p.exp() * (log_p - log_q)).sum())
    assert expected(advantage.k1).abs().max() < 1e-12
    torch.testing.assert_close(expected(advantage.k2), forward, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected(advantage.k3), reverse, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected(advantage.k3_k2), forward, rtol=0, atol=1e-12)
    same = advantage.k3_k2(logits, log_p), advantage.k3(logits, log_p)
    torch.testing.assert_close(*same, rtol=0, atol=1e-12)


def test_answers_that_run_long_are_punished_softly():
    length = torch.tensor([10.0, 80, 90, 100, 120])
    assert advantage.overlong(length, 100, 20).tolist() == [0, 0, -0.5, -1, -1]
    assert advantage.overlong(length, 100, 0).tolist() == [0] * 5
