"""Reward models: values by hand, distributions that add up, what is found again in judgements that were made."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from didact.audit import laws
from didact.batch import Batch
from didact.engine.mesh import Mesh
from didact.engine.step import Task, take_step
from didact.errors import UsageProblem
from didact.objective.reward import SPEED, Reward, rewards
from didact.rng import Rng
from tests.toy import toy_answers, toy_model


class Given:
    """A model whose rewards are given: hidden states are numbers, the head hands them on."""

    def __init__(self, reward, **heads):
        self.reward, self.heads = torch.as_tensor(reward, dtype=torch.float64), heads

    def hidden(self, batch: Batch):
        return self.reward.gather(1, batch.answer.clamp(min=0))[..., None]

    def head(self, name, x):
        return x if name == "reward" else x.double() @ self.heads[name].T if x.dim() > 1 else self.heads[name]


def judged(score, reward_shape=None, who=None, size=None, of=None) -> Batch:
    """One token an answer unless ``size`` says more; a row of answers to one prompt."""
    score = torch.as_tensor(score, dtype=torch.float32)
    rows, answers = score.shape
    sizes = size or [1] * answers
    answer = torch.tensor([-1] + [k for k in range(answers) for _ in range(sizes[k])]).expand(rows, -1)
    return Batch(
        {
            "token": torch.zeros_like(answer),
            "doc": torch.zeros_like(answer),
            "answer": answer,
            "trained": answer >= 0,
            "score": score,
            "of": torch.zeros(rows, answers, dtype=torch.int64) if of is None else torch.tensor(of),
            "who": torch.zeros(rows, answers, dtype=torch.int64) if who is None else torch.tensor(who),
        }
    )


def loss(objective: Reward, model, batch: Batch) -> tuple[float, dict[str, float]]:
    """The mean of the term and of each gauge."""
    ready = objective.prepare(model, batch, Rng(0, 0))
    found = objective.loss(model, ready)
    means = {name: ((x * ready.weight[name]).sum() / ready.weight[name].sum()).item() for name, x in found.items()}
    return means[objective.form], means


def test_pairs_by_hand():
    model, batch = Given([[2.0, -1.0, 0.5]]), judged([[1.0, 0.0, 3.0]])  # better: (0, 1), (2, 0), (2, 1)
    gaps, sums, apart = [3.0, -1.5, 1.5], [1.0, 2.5, -0.5], [1.0, 2.0, 3.0]
    value, means = loss(Reward(center=0.1, margin=0.5), model, batch)
    wanted = [math.log1p(math.exp(-(g - 0.5 * m))) + 0.1 * s * s for g, s, m in zip(gaps, sums, apart, strict=True)]
    assert value == pytest.approx(sum(wanted) / 3)
    assert means["accuracy"] == pytest.approx(2 / 3)
    assert means["margin"] == pytest.approx(1.0)
    assert means["reward"] == pytest.approx(0.5)
    assert loss(Reward(), Given([[0.0] * 3]), batch)[0] == pytest.approx(math.log(2))


def test_a_prompt_counts_once_however_many_answers_it_has():
    batch = judged([[3.0, 2.0, 1.0, 0.0], [1.0, 0.0, math.nan, math.nan]])
    model = Given([[4.0, 3.0, 2.0, 1.0], [1.0, 0.0, 9.0, 9.0]])
    many = [F.softplus(torch.tensor(-gap)).item() for gap in (1.0, 1.0, 1.0, 2.0, 2.0, 3.0)]
    one = F.softplus(torch.tensor(-1.0)).item()
    assert loss(Reward(center=0), model, batch)[0] == pytest.approx((sum(many) / 6 + one) / 2)


def test_the_orders_of_a_ranking_add_up_to_one():
    reward = [0.3, -1.2, 2.0, 0.7]
    total = 0.0
    for order in permutations(range(4)):
        value, _ = loss(Reward(form="ranking", center=0), Given([reward]), judged([[float(x) for x in order]]))
        total += math.exp(-3 * value)  # three choices, of which the loss is the mean
    assert total == pytest.approx(1)


def test_two_answers_ranked_are_a_pair_and_ties_say_nothing():
    model, batch = Given([[0.4, -0.9]]), judged([[1.0, 2.0]])
    pair, ranking = (loss(Reward(form=form, center=0.3), model, batch)[0] for form in ("pairs", "ranking"))
    assert pair == pytest.approx(ranking)
    tied = Reward(form="ranking", center=0)
    ready = tied.prepare(model, judged([[1.0, 1.0]]), Rng(0, 0))
    assert ready.weight["ranking"].sum().item() == 0
    # Two good and one bad: each good one is held against the bad one alone.
    value, _ = loss(tied, Given([[1.0, 3.0, 0.0]]), judged([[1.0, 1.0, 0.0]]))
    assert value == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(-3))) / 2)


def test_ratings_by_hand_and_add_up_to_one():
    objective = Reward(form="ratings", levels=(1.0, 2.0, 4.0))
    raw = torch.tensor([-0.5, 1.0], dtype=torch.float64)
    low, high = -0.5, -0.5 + math.log1p(math.e)
    reward = 0.7

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    wanted = [sigmoid(low - reward), sigmoid(high - reward) - sigmoid(low - reward), 1 - sigmoid(high - reward)]
    found = [
        math.exp(-loss(objective, Given([[reward]], levels=raw), judged([[level]]))[0]) for level in objective.levels
    ]
    assert found == pytest.approx(wanted, rel=1e-5)
    assert sum(found) == pytest.approx(1)
    far = Given(torch.tensor([[60.0]], requires_grad=True), levels=raw)
    value = objective.loss(far, objective.prepare(far, judged([[1.0]]), Rng(0, 0)))["ratings"]
    assert value.isfinite().all()


def test_what_judges_add_is_no_part_of_the_reward():
    objective = Reward(center=0, prior=0, debias=("person", "length", "place"), people=(7, 9))
    table = torch.tensor([[5.0, 5.0, 5.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.5]], dtype=torch.float64).T  # [F, K + 1]
    batch = judged([[1.0, 0.0]], size=[2, 4])
    for who, row in ((7, 0), (9, 1), (3, 2), (0, 2)):
        person, length, place = table[:, row].tolist()
        added = [person + length * math.log(2), person + length * math.log(4) + place]
        value, means = loss(
            objective, Given([[0.5, 0.2]], judges=table / SPEED), batch.with_(who=torch.full((1, 2), who))
        )
        assert value == pytest.approx(math.log1p(math.exp(-(0.3 + added[0] - added[1]))), rel=1e-5)
        assert means["margin"] == pytest.approx(0.3, rel=1e-5)
    assert Reward(debias=("length",), people=(1, 2)).heads["judges"].inputs == 3


def test_the_head_begins_as_the_paper_says():
    model = toy_model(hidden_size=64, intermediate_size=128)
    model.add_heads(Reward(form="ratings", debias=("length",)).heads, seed=3)
    weight = model.heads["reward"].weight
    assert weight.std().item() == pytest.approx(65**-0.5, rel=0.3)
    assert not model.heads["reward"].bias.any()
    assert not model.heads["judges"].weight.any()
    other = toy_model(hidden_size=64, intermediate_size=128)
    other.add_heads(Reward().heads, seed=4)
    assert not torch.equal(weight, other.heads["reward"].weight)


FORMS = [Reward(), Reward(form="ranking"), Reward(form="ratings", levels=(0.0, 1.0, 2.0))]
FORMS += [Reward(debias=("person", "length", "place"), people=(1, 2)), Reward(margin=0.5, center=0.1)]


@pytest.mark.parametrize("objective", FORMS, ids=repr)
def test_laws_hold(objective):
    model = toy_model()
    model.add_heads(objective.heads)
    for name, weight in model.heads.named_parameters():
        torch.nn.init.normal_(weight, std=0.3 if "reward" in name else 0.3 / SPEED)
    batch = next(toy_answers().start(0))[0]
    assert laws.micro_batches(model, objective, batch) < 1e-5
    assert laws.packing(model, objective, batch) < 1e-5
    assert laws.weight_zero(model, objective, next(toy_answers(pack=False).start(0))[0]) < 1e-5


@pytest.mark.parametrize("objective", FORMS[:3], ids=repr)
def test_fifty_examples_are_overfitted(objective):
    stream = toy_answers(batch_size=8, examples=50, seed=1).start(0)
    model = toy_model(hidden_size=64, intermediate_size=128)
    model.add_heads(objective.heads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    gauge = {}
    for number in range(120):
        step = take_step(model, [Task("t", objective, stream)], Mesh(torch.device("cpu")), Rng(0, number), 8)
        optimizer.step()
        optimizer.zero_grad()
        gauge = step.gauge
    assert gauge["t", "accuracy"] > 0.95


def test_the_last_token_of_an_answer_is_what_a_classifier_of_transformers_reads():
    model = toy_model()
    model.add_heads(Reward().heads)
    batch = next(toy_answers(share=False, pack=False).start(0))[0]
    ready = Reward().prepare(model, batch, Rng(0, 0))
    found = rewards(model, ready)
    model.net.set_attn_implementation("eager")
    plain = model.body
    for row in range(batch.size):
        for number in range(int((batch.of[row] >= 0).sum())):
            doc = batch.doc[row][batch.answer[row] == number][0]
            token = batch.token[row][batch.doc[row] == doc][None]
            hidden = plain(input_ids=token, use_cache=False).last_hidden_state[:, -1]
            assert torch.allclose(model.head("reward", hidden)[0, 0], found[row, number], atol=1e-5)


def test_a_form_or_a_bias_that_is_none():
    for wrong, what in (({"form": "pair"}, "no form 'pair'"), ({"debias": ["lenght"]}, "no bias 'lenght'")):
        with pytest.raises(UsageProblem, match=what):
            Reward(**wrong)
    with pytest.raises(UsageProblem, match="center is -1"):
        Reward(center=-1)


def fitted(
    objective: Reward, score, worth: np.ndarray, who=None, size=None, steps: int = 400
) -> tuple[np.ndarray, ...]:
    """The worth of items and what judges add, found by gradient descent: rewards are free parameters."""
    items = torch.zeros(worth.max() + 1, dtype=torch.float64, requires_grad=True)
    table = torch.zeros(len(objective.debias), len(objective.people) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([items, table], max_iter=steps, line_search_fn="strong_wolfe")
    batch = judged(score, who=who, size=size)

    def closure():
        optimizer.zero_grad()
        model = Given(items.detach(), judges=table)
        model.reward = items[torch.as_tensor(worth)]
        ready = objective.prepare(model, batch, Rng(0, 0))
        term = objective.loss(model, ready)[objective.form]
        value = (term * ready.weight[objective.form]).sum() / ready.weight[objective.form].sum()
        value.backward()
        return value

    optimizer.step(closure)
    return items.detach().numpy(), SPEED * table.detach().numpy()


def test_maximum_likelihood_is_that_of_the_mm_algorithm():
    """Hunter 2004, Annals of Statistics 32: w_i = wins_i / sum_j n_ij / (w_i + w_j), which ``choix`` also computes."""
    rng = np.random.default_rng(0)
    true = np.array([0.0, 0.5, -0.7, 1.1, 0.2])
    items = np.stack([rng.permutation(5)[:3] for _ in range(300)])
    order = np.argsort(-(true[items] + rng.gumbel(size=items.shape)), axis=1)
    ranked = np.take_along_axis(items, order, 1)
    score = np.tile([2.0, 1.0, 0.0], (300, 1))
    found, _ = fitted(Reward(form="ranking", center=0), score, ranked)
    weight = np.ones(5)
    for _ in range(500):
        wins, shares = np.zeros(5), np.zeros(5)
        for row in ranked:
            for place in range(2):
                wins[row[place]] += 1
                shares[row[place:]] += 1 / weight[row[place:]].sum()
        weight = wins / shares
    assert np.log(weight) - np.log(weight).mean() == pytest.approx(found - found.mean(), abs=1e-3)


def test_the_tastes_of_judges_are_found_apart_from_the_worth():
    """Two judges like length, one does not; the worth of answers is found as if none had."""
    rng = np.random.default_rng(1)
    true, likes = np.array([0.0, 1.0, -1.0, 0.5]), {1: 2.0, 2: 0.0}
    size = [2, 20]
    items = rng.integers(4, size=(3000, 2))
    items = items[items[:, 0] != items[:, 1]]
    who = rng.integers(1, 3, len(items))
    logit = true[items[:, 1]] - true[items[:, 0]] + np.vectorize(likes.get)(who) * math.log(10)
    second = rng.random(len(items)) < 1 / (1 + np.exp(-logit))
    score = np.stack([~second, second], 1).astype(float)
    people = np.stack([who, who], 1)
    biased, _ = fitted(Reward(center=0), score, items, who=people.tolist(), size=size)
    blind = Reward(center=0, prior=0, debias=("person", "length"), people=(1, 2))
    found, table = fitted(blind, score, items, who=people.tolist(), size=size)
    assert table[1, :2] == pytest.approx([2.0, 0.0], abs=0.25)
    assert found - found.mean() == pytest.approx(true - true.mean(), abs=0.2)
    assert (
        np.abs(biased - biased.mean() - true + true.mean()).max()
        > np.abs(found - found.mean() - true + true.mean()).max()
    )
