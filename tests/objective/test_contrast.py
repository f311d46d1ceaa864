"""The contrastive losses by hand, what is no negative, and memory-bounded batches."""

import math

import pytest
import torch

from didact.audit.laws import distance, gradient, step_gradient
from didact.errors import DataProblem, UsageProblem
from didact.objective import contrast as module
from didact.objective import resolve
from didact.objective.contrast import Contrast, keys
from didact.rng import Rng
from tests.toy import toy_model, toy_pairs, toy_stream


def batch(**given):
    return next(toy_pairs(**{"batch_size": 6, **given}).start(0))[0]


def losses(objective: Contrast, given, model=None) -> torch.Tensor:
    model = model or toy_model()
    ready = objective.prepare(model, given, Rng(0, 0))
    return objective.loss(model, ready)["pair"]


@torch.no_grad()
def vectors(given, model=None) -> torch.Tensor:
    model = model or toy_model()
    objective = Contrast()
    return objective.vectors(model, objective.prepare(model, given, Rng(0, 0)))


def test_softmax_by_hand():
    given = batch(negatives=2)
    v, key = vectors(given), keys(given, int(given.doc.max()) + 1)
    for row, loss in enumerate(losses(Contrast(temperature=0.1), given)):
        others = [
            float(v[row, 0] @ v[i, j]) / 0.1
            for i in range(len(v))
            for j in range(1, v.shape[1])
            if key[i, j] != 0 and (i, j) != (row, 1)
        ]
        right = float(v[row, 0] @ v[row, 1]) / 0.1
        assert loss.item() == pytest.approx(math.log(sum(math.exp(s - right) for s in [right, *others])), abs=1e-5)


def test_symmetric_is_the_mean_of_both_directions():
    given = batch()
    swapped = given.with_(doc=torch.where(given.doc >= 0, 1 - given.doc, -1))
    one, other = (losses(Contrast(), each) for each in (given, swapped))
    torch.testing.assert_close(losses(Contrast(symmetric=True), given), (one + other) / 2)


def test_triplet_by_hand():
    given = batch(negatives=2)
    v, key = vectors(given), keys(given, int(given.doc.max()) + 1)
    for row, loss in enumerate(losses(Contrast(form="triplet", margin=0.4), given)):
        near = float((v[row, 0] - v[row, 1]).norm())
        each = [
            max(near - float((v[row, 0] - v[row, j]).norm()) + 0.4, 0) for j in range(2, v.shape[1]) if key[row, j] != 0
        ]
        assert loss.item() == pytest.approx(sum(each) / max(len(each), 1), abs=1e-6)


def test_cosent_by_hand():
    given = batch(scored=True)
    v = vectors(given.with_(value=torch.full_like(given.value, math.nan)))
    alike, score = (v[:, 0] * v[:, 1]).sum(-1).tolist(), given.value.tolist()
    total = 1.0
    for i in range(6):
        for j in range(6):
            if score[i] < score[j]:
                total += math.exp((alike[i] - alike[j]) / 0.05)
    torch.testing.assert_close(losses(Contrast(form="cosent"), given), torch.full((6,), math.log(total)))


def test_matryoshka_is_a_sum_over_shorter_vectors():
    given, model = batch(), toy_model()
    found = losses(Contrast(dimensions=[32, 8], weights=[1.0, 0.5]), given, model)
    v = vectors(given)[..., :8]
    v = v / v.norm(dim=-1, keepdim=True)
    ready = Contrast().prepare(model, given, Rng(0, 0))
    torch.testing.assert_close(found, losses(Contrast(), given) + 0.5 * module.softmax(Contrast(), model, v, ready))


def test_a_positive_that_stands_twice_is_no_negative():
    given = batch(batch_size=3)
    twice = given.rows(torch.tensor([0, 1, 2, 1]))
    alone, beside = losses(Contrast(), given), losses(Contrast(), twice)
    torch.testing.assert_close(beside[1], alone[1])
    torch.testing.assert_close(beside[3], alone[1])
    assert beside[0] > alone[0]


@pytest.mark.parametrize("form", ["softmax", "triplet"])
def test_an_absent_negative_changes_nothing(form):
    given = batch(negatives=2)
    row = int(given.doc.max(1).values.argmax())
    muted = given.with_(trained=given.trained.clone())
    muted["trained"][row, given.doc[row] == 2] = False
    other = muted.with_(token=given.token.clone())
    other["token"][row, given.doc[row] == 2] += 1
    one, two = (step_gradient(toy_model(), Contrast(form=form), each, 6) for each in (muted, other))
    assert distance(one, two) < 1e-6
    assert distance(one, step_gradient(toy_model(), Contrast(form=form), given, 6)) > 1e-4


def test_checkpointed_chunks_are_the_whole_batch_with_dropout_on():
    """GradCache (arXiv:2101.06983): the same gradient, whose memory is that of a chunk."""
    model = toy_model(attention_dropout=0.3).train()
    objective, given = Contrast(), batch(batch_size=8, negatives=2)
    ready = objective.split(objective.prepare(model, given, Rng(0, 0)), 2)[0]

    def found() -> dict:
        torch.manual_seed(1)
        objective.loss(model, ready)["pair"].mean().backward()
        return gradient(model)

    cached, held = found(), []
    kept, module.checkpoint = module.checkpoint, lambda function, *given, use_reentrant: function(*given)
    try:
        held = found()
    finally:
        module.checkpoint = kept
    assert distance(cached, held) < 1e-7
    model.eval()
    assert distance(cached, found()) > 1e-3, "dropout was off"


def test_chunks_hold_no_padding():
    seen = []
    model, given = toy_model(), batch(batch_size=6, negatives=2)
    hidden = model.hidden
    model.hidden = lambda packed: (seen.append(packed), hidden(packed))[1]
    step_gradient(model, Contrast(), given, 2)
    assert all((packed.doc >= 0).all() for packed in seen)
    assert sum(packed.token.numel() for packed in seen[:3]) == (given.doc >= 0).sum()


def test_keys_tell_texts_apart_by_their_words():
    given = batch()
    both = given.with_(token=given.token.clone())
    both["token"][0] = both["token"][0].flip(0)
    one, other = keys(given, 3), keys(both, 3)
    assert (one[1:] == other[1:]).all()
    assert (one[0, :2] != other[0, :2]).all()
    assert (one[:, 2] == 0).all()
    assert len(set(one[:, :2].flatten().tolist())) == 12


def test_reads_as_the_model_it_starts_from():
    known = {"embedding": {"pool": "cls", "bidirectional": False, "prompts": {"query": "q: "}, "pool_prompts": True}}
    assert Contrast().told(known).served() == known
    assert Contrast(pool="last", bidirectional=True).told(known).served()["embedding"]["pool"] == "last"
    plain = {"pool": "mean", "bidirectional": True, "prompts": {}, "pool_prompts": False}
    assert Contrast().told({}).served() == {"embedding": plain}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "soft"}, "no form 'soft'"),
        ({"pool": "max"}, "no pool 'max'"),
        ({"temperature": 0}, "temperature is 0"),
        ({"dimensions": [8], "weights": [1, 2]}, "as many weights"),
        ({"prompts": {"passage": ""}}, "no role 'passage'"),
    ],
)
def test_wrong_options_are_said(options, said):
    with pytest.raises(UsageProblem, match=said):
        resolve("contrast", options)


def test_wrong_data_is_said():
    with pytest.raises(DataProblem, match="one each"):
        losses(Contrast(), next(toy_stream().start(0))[0])
    with pytest.raises(DataProblem, match="have no score"):
        losses(Contrast(form="cosent"), batch())
    with pytest.raises(DataProblem, match="have a score"):
        losses(Contrast(), batch(scored=True))
