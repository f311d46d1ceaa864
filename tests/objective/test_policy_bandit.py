"""Bandit: answers of one token. Where the reverse KL is paid for, the policy becomes reference * exp(r / beta) / Z."""

import pytest
import torch

from didact.data.stack import stacked
from didact.objective.policy import Policy, Ppo
from didact.rng import Rng
from didact.rollout.decoder import Completion
from didact.rollout.rows import row

REWARD = torch.tensor([0.0, 0.5, 1.0, 0.2, 0.8])
REFERENCE = torch.tensor([0.3, 0.25, 0.1, 0.3, 0.05])
BETA = 0.5
ANSWERS = 400
OPTIMUM = (REFERENCE * (REWARD / BETA).exp()) / (REFERENCE * (REWARD / BETA).exp()).sum()


class Table:
    """A policy of one logit a token, and a value."""

    def __init__(self):
        self.logits = REFERENCE.log().clone().requires_grad_()
        self.worth = torch.zeros((), requires_grad=True)

    def hidden(self, batch):
        return batch.token

    def logprob(self, hidden, target, where, **how):
        return self.logits.log_softmax(0)[target] * where

    def value(self, batch, hidden):
        return self.worth.expand(hidden.shape)


def trained(objective, steps=250) -> torch.Tensor:
    """The policy after so many phases of answers drawn in proportion to their probabilities."""
    table, draw = Table(), torch.Generator().manual_seed(0)
    objective = objective.acting(1, 1.0, ())
    optimizer = torch.optim.Adam([table.logits, table.worth], lr=0.05)
    averaged = torch.zeros(5)
    for step in range(steps):
        logp = table.logits.detach().log_softmax(0)
        places = (torch.arange(ANSWERS) + torch.rand(ANSWERS, generator=draw)) / ANSWERS
        token = torch.searchsorted(logp.exp().cumsum(0), places).clamp(max=4)
        batch = stacked([row([0], [Completion(0, [t], [0.0]) for t in token.tolist()])])
        old, ref, value = logp[token][:, None], REFERENCE.log()[token][:, None], table.worth.detach().expand(ANSWERS, 1)
        mask, score = torch.ones(ANSWERS, 1, dtype=torch.bool), REWARD[token][None]
        advantage, gain = objective.credit(score, old, ref, value, mask, BETA)
        columns = {"behaviour": old, "reference": ref, "advantage": advantage, "value_old": value, "return": gain}
        placed = {name: torch.zeros(batch.token.shape).masked_scatter(batch.trained, x) for name, x in columns.items()}
        ones = torch.ones(1, ANSWERS)
        plain = dict.fromkeys(("finished", "distinct", "mismatch", "explained_variance"), ones)
        batch = batch.with_(**placed, **plain, score=score, beta=torch.tensor([BETA]))
        ready = objective.prepare(table, batch, Rng(0, step))
        losses = objective.loss(table, ready)
        optimizer.zero_grad()
        terms = ready.weight.keys() - objective.gauges
        sum((losses[t] * ready.weight[t]).sum() / ready.weight[t].sum() for t in terms).backward()
        optimizer.step()
        if step >= steps - 50:
            averaged += table.logits.detach().softmax(0) / 50
    return averaged


@pytest.mark.parametrize(
    "objective",
    [
        Policy(baseline="mean", beta=BETA, estimator="k2"),
        Policy(baseline="mean", beta=BETA, estimator="k3_k2", mean="longest"),
        Policy(baseline="others", ratio="whole", beta=BETA, kl="reward"),
        Policy(baseline="mean", to_go=True, beta=BETA, kl="reward", mean="tokens"),
        Ppo(beta=BETA, whiten=False, vf=1.0, value_clip=10.0),
    ],
    ids=["group k2", "group k3_k2", "rloo", "to go", "ppo"],
)
def test_it_converges_to_the_reference_times_exp_of_the_reward(objective):
    torch.testing.assert_close(trained(objective), OPTIMUM, rtol=0, atol=0.012)


def test_k3_as_a_loss_ends_elsewhere():
    """Its gradient is that of KL(p || q), so q (r - mean r) = beta (q - p) holds at the end, and not the above."""
    q = trained(Policy(baseline="mean", beta=BETA, estimator="k3"))
    torch.testing.assert_close(q * (REWARD - (q * REWARD).sum()), BETA * (q - REFERENCE), rtol=0, atol=0.01)
    assert (q - OPTIMUM).abs().max() > 0.02


def test_without_kl_all_goes_to_the_best():
    assert trained(Policy(baseline="mean"))[2] > 0.95
