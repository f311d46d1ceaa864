"""Preferences: every loss against its formula, where each starts, and where each ends on tables that can be solved."""

import math
from itertools import permutations

import pytest
import torch
from torch.nn import functional as F

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective import resolve
from didact.objective.dpo import Cdpo, Dpo, Hinge, Ipo, LdDpo, PlDpo, Robust
from didact.objective.preference import Cpo, Orpo, Simpo
from didact.rng import Rng

ALL = ("dpo", "ipo", "cdpo", "robust", "hinge", "ld_dpo", "pl_dpo", "simpo", "cpo", "orpo")
REFERRED = (Dpo(), Cdpo(label_smoothing=0.2), Robust(label_smoothing=0.2), Hinge(), LdDpo(), PlDpo())


class Said:
    """A model that gives every token of ``answers`` (they are numbered) a log-probability, wherever it stands."""

    def __init__(self, logprob: torch.Tensor):
        self.given = logprob

    def hidden(self, batch):
        return None

    def logprob(self, hidden, target, where, **_):
        return self.given.expand(len(target), -1).gather(1, target) * (where != 0)

    def gather(self, rows):
        return rows


def answers(*lengths: int, score=None, of=None, shared: int = 1) -> Batch:
    """One row: of each prompt, then its answers of so many tokens behind the prompt's last one."""
    of = of or [0] * len(lengths)
    answer, doc = [-1] * shared, [0] * shared
    for number, length in enumerate(lengths):
        answer += [number] * (length + 1)
        doc += [of[number]] * (length + 1)
    answer = torch.tensor([answer])
    first = torch.tensor([[a != b for a, b in zip([-1, *answer[0][:-1]], answer[0], strict=True)]])
    return Batch(
        {
            "token": torch.arange(answer.numel())[None],
            "doc": torch.tensor([doc]),
            "position": torch.arange(answer.numel())[None],
            "trained": (answer >= 0) & ~first,
            "answer": answer,
            "order": (2 * answer + 1).clamp(min=0),
            "of": torch.tensor([of]),
            "score": torch.tensor([score or [float(-n) for n in range(len(lengths))]]),
            "who": torch.zeros(1, len(lengths), dtype=torch.int64),
            "row": torch.zeros(1, dtype=torch.int64),
        }
    )


def measured(objective, batch, logprob, reference=None) -> dict[str, torch.Tensor]:
    """Each term's mean over a batch, given log-probabilities of its tokens in their places."""
    if objective.taught_by():
        batch = batch.with_(reference=torch.zeros_like(logprob) if reference is None else reference)
    model = Said(logprob)
    ready = objective.prepare(model, batch, Rng(0, 0))
    losses = objective.loss(model, ready)
    assert losses.keys() == ready.weight.keys()
    return {term: (losses[term] * w).sum() / w.sum() for term, w in ready.weight.items()}


def total(objective, batch, logprob, reference=None) -> torch.Tensor:
    terms = measured(objective, batch, logprob, reference)
    return torch.stack([value for term, value in terms.items() if term not in objective.gauges]).sum()


def pair(better: list[float], worse: list[float]) -> tuple[Batch, torch.Tensor]:
    """A pair of answers whose tokens have these log-probabilities."""
    return answers(len(better), len(worse)), torch.tensor([[0.0, 0.0, *better, 0.0, *worse]])


BETTER, WORSE = [-1.0, -2.0, -0.5], [-2.0, -1.5]
DELTA, MEANS = -3.5 - -3.5, -3.5 / 3 - -3.5 / 2


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def odds(mean: float) -> float:
    return mean - math.log(1 - math.exp(mean))


D = -3.5 + 4.0  # the margin where the reference gives the worse answer 0.5 less
FORMULAS = {
    "dpo": ({"beta": 0.3}, -math.log(sigmoid(0.3 * 0.5))),
    "ipo": ({"beta": 0.3}, (0.5 - 1 / 0.6) ** 2),
    "cdpo": (
        {"beta": 0.3, "label_smoothing": 0.2},
        -0.8 * math.log(sigmoid(0.15)) - 0.2 * math.log(sigmoid(-0.15)),
    ),
    "robust": (
        {"beta": 0.3, "label_smoothing": 0.2},
        (-0.8 * math.log(sigmoid(0.15)) + 0.2 * math.log(sigmoid(-0.15))) / 0.6,
    ),
    "hinge": ({"beta": 0.3}, 1 - 0.15),
    "pl_dpo": ({"beta": 0.3}, -math.log(sigmoid(0.15))),
    "simpo": ({"beta": 2.0, "gamma": 0.7}, -math.log(sigmoid(2 * MEANS - 0.7))),
    "cpo": ({"beta": 0.3}, math.log(2) + 3.5 / 3),
    "orpo": ({"beta": 0.3}, -0.3 * math.log(sigmoid(odds(-3.5 / 3) - odds(-1.75))) + 3.5 / 3),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_loss_is_the_formula(name):
    """log p is -3.5 of both answers; under the reference -4 and -3.5, so the margin is 0.5."""
    options, wanted = FORMULAS[name]
    batch, logprob = pair(BETTER, WORSE)
    reference = logprob.clone()
    reference[0, 2] -= 0.5
    assert total(resolve(name, options), batch, logprob, reference).item() == pytest.approx(wanted, abs=1e-6)


def test_ipo_may_take_means():
    batch, logprob = pair(BETTER, WORSE)
    reference = logprob * 0
    wanted = (MEANS - 1 / 0.2) ** 2
    assert total(Ipo(average=True), batch, logprob, reference).item() == pytest.approx(wanted, rel=1e-6)


def test_what_is_beyond_the_common_length_counts_alpha():
    batch, logprob = pair(BETTER, WORSE)
    wanted = -F.logsigmoid(torch.tensor(0.1 * (-3.0 - 0.25 * 0.5 + 3.5)))
    assert total(LdDpo(alpha=0.25), batch, logprob).item() == pytest.approx(wanted.item(), abs=1e-6)
    assert total(LdDpo(alpha=1.0), batch, logprob).item() == pytest.approx(total(Dpo(), batch, logprob).item())
    batch, logprob = pair(WORSE, BETTER)  # the worse is longer
    wanted = -F.logsigmoid(torch.tensor(0.1 * (-3.5 + 3.0 + 0.25 * 0.5)))
    assert total(LdDpo(alpha=0.25), batch, logprob).item() == pytest.approx(wanted.item(), abs=1e-6)


def test_where_they_start():
    """A model that is its own reference: zero margins, half of the pairs in order."""
    batch, logprob = answers(3, 2, 4), torch.randn(1, 13)
    for objective in REFERRED:
        terms = measured(objective, batch, logprob, logprob)
        assert [terms[g].item() for g in ("margin", "chosen_logprob", "rejected_logprob", "log_ratio")] == [0] * 4
        assert terms["accuracy"] == 0.5
    for objective in (Dpo(), Cdpo(), LdDpo()):
        assert total(objective, batch, logprob, logprob).item() == pytest.approx(math.log(2))
    assert total(Robust(), batch, logprob, logprob).item() == pytest.approx(math.log(2))
    assert total(PlDpo(), batch, logprob, logprob).item() == pytest.approx(math.log(6))  # one order in six
    assert total(Hinge(), batch, logprob, logprob) == 1
    assert total(Ipo(beta=0.5), batch, logprob, logprob) == 1


def test_gauges_say_what_the_chosen_lost():
    batch, logprob = pair(BETTER, WORSE)
    reference = logprob.clone()
    reference[0, 2] += 1.0  # the chosen had more
    reference[0, -1] += 3.0
    terms = measured(Dpo(), batch, logprob, reference)
    assert {name: terms[name].item() for name in sorted(Dpo.gauges)} == pytest.approx(
        {
            "accuracy": 1.0,
            "chosen_logprob": -1.0,
            "chosen_token": -1.0 / len(BETTER),
            "rejected_logprob": -3.0,
            "margin": 2.0,
            "log_ratio": -4 / 5,
        }
    )


def test_pairs_are_strict_and_of_one_prompt():
    """Four answers to two prompts; a tie, and one that nobody judged."""
    of, nan = [0, 0, 0, 1, 1], math.nan
    batch = answers(1, 2, 1, 2, 1, score=[1.0, 1.0, 0.0, 5.0, nan], of=of)
    ready = Dpo().prepare(Said(torch.zeros(1, 13)), batch.with_(reference=torch.zeros(1, 13)), Rng(0, 0))
    assert ready.weight["pair"][0].nonzero().tolist() == [[0, 2], [1, 2]]
    ready = Dpo(sft=1.0).prepare(Said(torch.zeros(1, 13)), batch.with_(reference=torch.zeros(1, 13)), Rng(0, 0))
    best = batch.answer[0][ready.weight["sft"][0] > 0]
    assert best.tolist() == [0, 1, 1]  # one place a trained token


def test_sft_is_the_mean_of_the_best_answers_tokens():
    batch, logprob = pair(BETTER, WORSE)
    terms = measured(Dpo(sft=0.5), batch, logprob, logprob)
    assert terms["sft"].item() == pytest.approx(0.5 * 3.5 / 3)


# --- Plackett-Luce -----------------------------------------------------------------------------------------


def ranked(scores: list[float], gains: list[float]) -> float:
    """The loss of answers of one token that gained so much, by beta 1."""
    logprob = torch.tensor([[0.0, *(x for gain in gains for x in (0.0, gain))]])
    return total(PlDpo(beta=1.0), answers(*[1] * len(gains), score=scores), logprob).item()


def test_the_probabilities_of_all_orders_sum_to_one():
    gains = [0.3, -1.0, 2.0, 0.1]
    chances = [math.exp(-ranked([float(s) for s in order], gains)) for order in permutations(range(4))]
    assert sum(chances) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("objective", [Dpo(), PlDpo(), Simpo(sft=1.0)])
def test_a_judgement_counts_what_its_annotator_is_trusted(objective):
    logprob = torch.tensor([[0.0, *(x for gain in (0.3, -0.8, 0.2, 0.9) for x in (0.0, gain))]])
    batch = answers(1, 1, 1, 1, score=[1.0, 0.0, 1.0, 0.0], of=[0, 0, 1, 1])
    batch = batch.with_(reference=torch.zeros_like(logprob), trust=torch.tensor([[1.5, 1.5, 0.5, 0.5]]))
    ready = objective.prepare(Said(logprob), batch, Rng(0, 0))
    for name in ready.weight.keys() - objective.gauges:
        counts = ready.weight[name][ready.weight[name] > 0]
        assert counts.tolist() == [1.5, 0.5], name


def test_of_two_it_is_bradley_terry():
    assert ranked([1.0, 0.0], [0.3, -0.8]) == pytest.approx(-math.log(sigmoid(1.1)), abs=1e-6)


def test_ties_are_chosen_among_themselves_and_what_is_worse():
    a, b, c = (math.exp(g) for g in (0.3, -0.8, 0.5))
    assert ranked([1.0, 1.0, 0.0], [0.3, -0.8, 0.5]) == pytest.approx(-math.log(a / (a + c) * b / (b + c)), abs=1e-6)
    assert ranked([0.0, 1.0, 0.0], [0.3, -0.8, 0.5]) == pytest.approx(-math.log(b / (a + b + c)), abs=1e-6)


def test_a_ranking_counts_once_however_long():
    logprob = torch.tensor([[0.0, *(x for gain in (0.3, -0.8, 0.5, 0.2, 0.9) for x in (0.0, gain))]])
    batch = answers(1, 1, 1, 1, 1, score=[2.0, 1.0, 0.0, 1.0, 0.0], of=[0, 0, 0, 1, 1])
    wanted = (ranked([2.0, 1.0, 0.0], [0.3, -0.8, 0.5]) + ranked([1.0, 0.0], [0.2, 0.9])) / 2
    assert total(PlDpo(beta=1.0), batch, logprob).item() == pytest.approx(wanted, abs=1e-6)


# --- where they end ----------------------------------------------------------------------------------------


def solved(objective, chance: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The log-probabilities that minimise a loss, where answer i beats j with ``chance[i, j]``; [K]."""
    logits = reference.clone().double().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure():
        optimizer.zero_grad()
        gain = logits.log_softmax(0) - reference.log_softmax(0)
        loss = (chance * objective.of(gain[:, None] - gain[None, :])).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().log_softmax(0)


def test_dpo_on_bradley_terry_data_ends_at_the_tilted_reference():
    reward, reference = torch.tensor([1.0, 0.2, -0.5, 0.7]).double(), torch.tensor([0.1, -1.0, 0.5, 0.3]).double()
    chance = torch.sigmoid(reward[:, None] - reward[None, :])
    for beta in (0.5, 1.0):
        found = solved(Dpo(beta=beta), chance, reference)
        torch.testing.assert_close(found, (reference + reward / beta).log_softmax(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("objective", "margin"),
    [(Ipo(beta=0.4), 1 / 0.8), (Cdpo(beta=0.4, label_smoothing=0.2), math.log(4) / 0.4)],
    ids=["ipo", "cdpo"],
)
def test_the_margin_of_one_judgement_ends_where_it_should(objective, margin):
    """IPO at 1 / (2 beta), cDPO at log((1 - e) / e) / beta: neither runs off as DPO does."""
    found = solved(objective, torch.tensor([[0.0, 1.0], [0.0, 0.0]]).double(), torch.tensor([0.3, -0.2]).double())
    assert (found[0] - found[1] - 0.5).item() == pytest.approx(margin, abs=1e-4)


def test_robust_is_unbiased():
    """Over judgements of which a fifth is flipped, its mean is the loss of DPO on right ones."""
    margin = torch.linspace(-4, 4, 9)
    robust, dpo = Robust(label_smoothing=0.2), Dpo()
    torch.testing.assert_close(0.8 * robust.of(margin) + 0.2 * robust.of(-margin), dpo.of(margin))


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"beta": 0}) for name in ALL),
        ("cdpo", {"label_smoothing": 0.5}),
        ("ld_dpo", {"alpha": 2}),
        ("dpo", {"sft": -1}),
        ("dpo", {"beta": "high"}),
        ("dpo", {"beta": [0.1]}),
        ("ipo", {"average": "perhaps"}),
    ],
)
def test_impossible_settings_are_one_line(name, options):
    with pytest.raises(UsageProblem):
        resolve(name, options)
    assert resolve("dpo", {"beta": "1e-1"}) == Dpo(beta=0.1)  # YAML reads it as text


def test_without_its_reference_there_is_no_loss():
    batch, logprob = pair(BETTER, WORSE)
    with pytest.raises(UsageProblem, match="against a reference"):
        Dpo().prepare(Said(logprob), batch, Rng(0, 0))
    assert total(Simpo(), batch, logprob) > 0
    assert Cpo().taught_by() is Orpo().taught_by() is None


@pytest.mark.parametrize("served", [{"bidirectional_prompt": True}, {"text_diffusion": {}}])
def test_a_model_that_reads_otherwise_is_one_line(served):
    with pytest.raises(UsageProblem, match="left to right"):
        Dpo().told(served)
