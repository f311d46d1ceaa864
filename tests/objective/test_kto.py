"""Thumbs: the formula, the drift z0, the balance of the kinds, and what an unbalanced crowd does to a table."""

import math
from dataclasses import replace

import pytest
import torch

from didact.data.example import Answers, Document
from didact.data.mismatched import mismatched
from didact.data.together import together
from didact.errors import DataProblem, UsageProblem
from didact.objective import resolve
from didact.objective.kto import FAIR, Kto, balanced, only
from didact.rng import Rng
from tests.objective.test_preference import Said, answers, measured, sigmoid

NAN = math.nan


def test_it_starts_at_a_half():
    batch = answers(2, 3, 2, score=[1.0, 0.0, NAN], of=[0, 0, 0])
    logprob = -torch.rand(1, batch.token.shape[1])
    terms = measured(Kto(), batch, logprob, logprob)
    assert (terms["answer"].item(), terms["z0"].item()) == (0.5, 0.0)


def test_the_loss_is_the_formula():
    """Gains 0.9 of the liked and -0.4 of the other; the drift is the mean of 0.6 and 0.2 on mismatched answers."""
    gains = torch.tensor([[0.0, 0.0, 0.5, 0.4, 0.0, -0.4, 0.0, 0.6, 0.0, 0.2]])
    batch = answers(2, 1, 1, 1, score=[1.0, 0.0, NAN, NAN], of=[0, 0, 0, 0])
    terms = measured(Kto(beta=0.5, balance=(2.0, 3.0)), batch, gains)
    liked, other = 1 - sigmoid(0.5 * (0.9 - 0.4)), 1 - sigmoid(0.5 * (0.4 + 0.4))
    assert terms["answer"].item() == pytest.approx((2 * liked + 3 * other) / 2, abs=1e-6)
    assert terms["z0"].item() == pytest.approx(0.4)
    assert (terms["chosen_logprob"].item(), terms["rejected_logprob"].item()) == pytest.approx((0.9, -0.4))
    assert terms["chosen_token"].item() == pytest.approx(0.9 / 2)


def test_the_drift_is_never_below_zero():
    gains = torch.tensor([[0.0, 0.0, 0.5, 0.0, -0.4]])
    assert measured(Kto(), answers(1, 1, score=[1.0, NAN]), gains)["z0"] == 0


def test_the_mismatched_are_read_without_a_gradient_and_left_out():
    batch = answers(2, 1, score=[1.0, NAN])
    batch = batch.with_(reference=torch.zeros_like(batch.token, dtype=torch.float32))
    model = Said(torch.zeros_like(batch.reference, requires_grad=True))
    ready = Kto().prepare(model, batch, Rng(0, 0))
    assert not ready.z0.requires_grad
    assert ready.of.tolist() == [[0, -1]]
    assert (ready.answer < 1).all()
    assert ready.weight["answer"].tolist() == [[1.0, 0.0]]


def test_what_is_kept_moves_together():
    batch = answers(2, 1, 2, score=[1.0, NAN, 0.0]).with_(said=torch.ones(1, 9), reference=torch.ones(1, 9))
    kept = only(batch, torch.tensor([[True, False, True]]))
    assert kept.token.tolist() == [[0, 1, 2, 3, 6, 7, 8]]
    assert kept.answer.tolist() == [[-1, 0, 0, 0, 2, 2, 2]]
    assert (kept.doc >= 0).all()


def test_the_drift_is_of_all_processes():
    class Two(Said):
        def gather(self, rows):  # the other process has three mismatched answers that gained 2 together
            return torch.cat([rows, torch.tensor([[2.0, 3.0]])])

    gains = torch.tensor([[0.0, 0.0, 0.5, 0.0, 1.0]])
    batch = answers(1, 1, score=[1.0, NAN]).with_(reference=torch.zeros(1, 5))
    assert Kto().prepare(Two(gains), batch, Rng(0, 0)).z0.item() == pytest.approx(3.0 / 4)


# --- balance -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("liked", "others", "given", "wanted"),
    [
        (100, 100, (None, None), (1.0, 1.0)),
        (125, 100, (None, None), (1.0, 1.0)),
        (100, 900, (None, None), (9.0, 1.0)),
        (900, 100, (None, None), (1.0, 6.75)),
        (100, 900, (None, 0.5), (4.5, 0.5)),
        (100, 900, (2.0, None), (2.0, 2 / 9)),
        (100, 900, (1.0, 1.0), (1.0, 1.0)),
        (100, 0, (None, None), (1.0, 1.0)),
    ],
)
def test_the_rarer_kind_counts_more(liked, others, given, wanted):
    found = balanced(liked, others, *given)
    assert found == pytest.approx(wanted)
    if None in given and others:
        assert FAIR[0] - 1e-9 <= found[0] * liked / (found[1] * others) <= FAIR[1] + 1e-9


def test_what_is_given_and_unfair_is_said():
    told, line = Kto(desirable=1.0, undesirable=1.0).counted(100, 900)
    assert told.balance == (1.0, 1.0)
    assert "0.11 times the others, where 1 to 1.33 is advised" in line
    told, line = Kto().counted(100, 900)
    assert told.balance == (9.0, 1.0)
    assert "advised" not in line


def on_a_table(objective: Kto, liked: int, others: int, steps: int = 300) -> torch.Tensor:
    """Log-probabilities of four answers to one prompt, of which the first two are liked, after so many steps.

    The reference gives each a quarter; z0 is the mean gain over the data's own answers, as all prompts are alike.
    """
    logits = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    answer = torch.tensor([0, 1] * liked + [2, 3] * others)
    good = answer < 2
    for _ in range(steps):
        gain = (logits.log_softmax(0) - math.log(0.25))[answer]
        z0 = gain.detach().mean().clamp(min=0)
        away = torch.where(good, gain - z0, z0 - gain)
        factor = torch.where(good, *objective.balance)
        optimizer.zero_grad()
        (factor * (1 - torch.sigmoid(objective.beta * away))).mean().backward()
        optimizer.step()
    return logits.detach().log_softmax(0)


def test_a_crowd_of_one_thumb_up_in_ten_does_not_collapse_it():
    """The liked end with nearly all probability, split evenly, and neither of them is lost."""
    found = on_a_table(Kto(beta=1.0).counted(1, 9)[0], 1, 9).exp()
    assert found[:2].sum() > 0.9
    assert found[0].item() == pytest.approx(found[1].item(), abs=1e-3)


# --- data --------------------------------------------------------------------------------------------------


def thumb(number: int, prompt: str, good: bool = True) -> Answers:
    return Answers(f"t.jsonl:{number}", prompt, (f"answer {number}",), (float(good),))


def test_every_prompt_gets_an_answer_to_another():
    given = [thumb(n, f"prompt {n // 2}", n % 2 == 0) for n in range(10)]
    found = list(mismatched(given))
    assert [one.answers[0] for one in found] == [one.answers[0] for one in given]
    assert all(
        math.isnan(one.values[-1]) and one.values[0] == old.values[0] for one, old in zip(found, given, strict=True)
    )
    prompt_of = {one.answers[0]: one.prompt for one in given}
    assert all(prompt_of[one.answers[1]] != one.prompt for one in found)
    assert len({one.answers[1] for one in found}) >= 8


def test_a_file_of_all_liked_and_then_all_others_is_no_trap():
    """Half the data away stands the same prompt, so the next is taken."""
    found = list(mismatched([thumb(n, f"prompt {n % 5}") for n in range(10)]))
    assert all(one.answers[1] != f"answer {(n + 5) % 10}" for n, one in enumerate(found))


def test_one_prompt_has_no_other():
    with pytest.raises(DataProblem, match=r"t.jsonl:0: all answers are to one prompt"):
        list(mismatched([thumb(0, "same"), thumb(1, "same")]))
    assert list(mismatched([Document("a", "b")])) == [Document("a", "b")]


def test_who_was_not_judged_lends_nothing():
    lost = math.nan
    given = [
        Answers("a", "p", ("x", "y"), (lost, lost)),
        Answers("b", "q", ("z",), (1.0,)),
        Answers("c", "r", ("w",), (0.0,)),
    ]
    found = list(mismatched(given))
    assert [one.answers for one in found] == [("z", "w"), ("w", "z")]
    with pytest.raises(DataProblem, match="b: kto learns from thumbs"):
        list(mismatched([given[2], replace(given[1], values=(3.0,))]))


def test_a_prompt_is_the_same_whatever_the_order_of_its_fields():
    one, other = {"role": "user", "content": "x"}, {"content": "x", "role": "user"}
    joined = list(together([Answers("a", (one,), ("x",), (1.0,)), Answers("b", (other,), ("y",), (0.0,))]))
    assert [said.answers for said in joined] == [("x", "y")]


def test_ratings_are_no_thumbs():
    batch = answers(1, 1, score=[4.0, NAN]).with_(reference=torch.zeros(1, 5))
    with pytest.raises(DataProblem, match="these are ratings or rankings"):
        Kto().prepare(Said(torch.zeros(1, 5)), batch, Rng(0, 0))
    with pytest.raises(UsageProblem):
        resolve("kto", {"desirable": 0})
