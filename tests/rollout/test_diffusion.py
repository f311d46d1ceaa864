"""Unmasking: what it keeps, what it draws, what it costs, and that it reads the model as it was trained."""

import math
from itertools import pairwise, product

import pytest
import torch

from didact.audit.laws import unmasked_as_trained
from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective.diffusion import Diffusion
from didact.rollout.diffusion import VEIL, Draft, Unmasker, schedule, shares, sketch, stretches, truncated, writer
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from tests.rollout.models import letters
from tests.toy import VOCABULARY, toy_model, toy_vocabulary

MASK, STOP = 1, 2
GREEDY = Sampling(temperature=0, max_new_tokens=10)
WARM = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=10)
WAYS = [{}, {"block": 4}, {"shift": True}, {"block": 1}]


def objective(**options) -> Diffusion:
    return Diffusion(**options, vocabulary=toy_vocabulary())


def model(**options):
    made = toy_model()
    made.served = objective(**options).served()
    return made


def drafts(net, prompt, way, stops=()) -> list[Draft]:
    """Every stage of one answer."""
    unmasker = Unmasker(net, letters, stops)
    return [Draft(**{**vars(out), "canvas": list(out.canvas)}) for out in unmasker.stream([prompt], way)]


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("sampling", [GREEDY, WARM, WARM.model_copy(update={"guidance": 1.5, "remasking": "random"})])
def test_one_token_a_pass_and_none_ever_changes(options, sampling):
    found = drafts(model(**options), [5, 6, 7, 8, 9], sampling)
    assert len(found) == found[-1].passes == 10
    for n, out in enumerate(found):
        assert sum(token != MASK for token in out.canvas) == n + 1
    for one, other in pairwise(found):
        assert all(a in (MASK, b) for a, b in zip(one.canvas, other.canvas, strict=True))
        assert other.text.startswith(one.text)
    assert found[-1].tokens == found[-1].canvas
    assert found[-1].reason == "length"


@pytest.mark.parametrize("options", WAYS[:3])
def test_fewer_passes(options):
    for asked in (1, 3, 4, 10, 50):
        found = drafts(model(**options), [5, 6, 7, 8, 9], GREEDY.model_copy(update={"steps": asked}))
        least = len(stretches(5, 15, 4, True)) if "block" in options else 1
        assert found[-1].passes == min(10, max(least, asked))
        assert MASK not in found[-1].tokens


def test_schedule_keeps_everything_once():
    for masked, passes in product(range(1, 20), range(1, 20)):
        counts = schedule(masked, min(passes, masked))
        assert sum(counts) == masked
        assert counts == sorted(counts, reverse=True)
        assert counts[0] - counts[-1] <= 1


def test_stretches_and_their_passes():
    assert stretches(5, 15, 0, False) == [(5, 15)]
    assert stretches(5, 15, 4, False) == [(5, 9), (9, 13), (13, 15)]
    assert stretches(5, 15, 4, True) == [(5, 8), (8, 12), (12, 15)]
    assert stretches(8, 12, 4, True) == [(8, 12)]
    for count in range(15):
        found = shares([3, 4, 3], count)
        assert sum(found) == max(3, min(count or 10, 10))
        assert all(1 <= n <= size for n, size in zip(found, [3, 4, 3], strict=True))
    assert shares([4, 4, 4], 6) == [2, 2, 2]


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("passes", [0, 3])
def test_read_as_trained(options, passes):
    """Law 5: each token's log-probability is the training path's, on what was known when it was kept."""
    net, prompt = model(**options), [5, 6, 7, 8, 9]
    found = drafts(net, prompt, WARM.model_copy(update={"steps": passes}))
    assert len(found[-1].logprobs) == 10
    assert unmasked_as_trained(net, objective(**options), prompt, found, 10) < 1e-4
    found[-1].logprobs[3] += 0.01
    assert unmasked_as_trained(net, objective(**options), prompt, found, 10) > 9e-3


def test_what_is_beside_changes_nothing():
    net = model(block=4)
    prompts = [[5, 6], [7] * 9, [8, 9, 10]]
    together = Unmasker(net, letters, [STOP]).generate(prompts, WARM)
    for n, out in enumerate(together):
        alone = Unmasker(net, letters, [STOP]).generate([prompts[n]], WARM.model_copy(update={"seed": n}))[0]
        assert (out.tokens, out.text, out.reason) == (alone.tokens, alone.text, alone.reason)
    assert len({tuple(out.tokens) for out in together}) == 3


@pytest.mark.parametrize("options", WAYS[:3])
def test_a_stop_ends_the_answer_once_nothing_before_it_is_masked(options):
    net = model(**options)
    free = drafts(net, [5, 6, 7], GREEDY)[-1]
    stop = free.tokens[4]
    found = drafts(net, [5, 6, 7], GREEDY, [stop])
    first = free.tokens.index(stop)
    assert found[-1].tokens == free.tokens[: first + 1]
    assert found[-1].reason == "stop"
    assert found[-1].text == letters(free.tokens[:first])
    assert len(found[-1].logprobs) == first + 1
    cut = drafts(net, [5, 6, 7], GREEDY.model_copy(update={"stop": (free.text[2:4],)}))[-1]
    assert cut.text == free.text[: free.text.find(free.text[2:4])]
    assert cut.reason == "stop"


# --- a distribution small enough to know everything of -------------------------------------------------------

LETTERS, LENGTH = 3, 3
TABLE = torch.rand(*[LETTERS] * LENGTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64) ** 2
TABLE /= TABLE.sum()


class Exact(torch.nn.Module):
    """Knows p(x[i] | what is not masked), of letters 2, 3, 4 after a prompt of one token."""

    def __init__(self, **options):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.zeros(()))
        self.served, self.net, self.known = objective(**options).served(), toy_model().net, {}

    def hidden(self, batch):
        return torch.stack([self.of(tuple(batch.token[0, 1:].tolist()))], 0)

    def of(self, seen):
        if seen not in self.known:
            part = TABLE
            for axis, token in enumerate(seen):
                part = part if token == MASK else part.index_select(axis, torch.tensor([token - 2]))
            rows = [part.sum([i for i in range(LENGTH) if i != axis]) for axis in range(LENGTH)]
            table = torch.full((LENGTH + 1, 6), -math.inf)
            for axis, row in enumerate(rows):
                if seen[axis] == MASK:
                    table[axis + 1, 2:5] = row.log().float()
            self.known[seen] = table
        return self.known[seen]

    def logits(self, hidden):
        return hidden


@pytest.mark.parametrize(
    "way", [{"remasking": "random"}, {"block": 1}, {"block": 2, "remasking": "random"}], ids=["any", "left", "both"]
)
def test_an_exact_model_is_drawn_from_exactly(way):
    """Chi-square over all 27 texts, one token a pass; the surest first would favour likely texts."""
    count = 1500
    sampling = WARM.model_copy(update={"max_new_tokens": LENGTH, **way})
    seen = torch.zeros(*[LETTERS] * LENGTH)
    for out in Unmasker(Exact(), str, []).generate([[0]] * count, sampling):
        seen[tuple(token - 2 for token in out.tokens)] += 1
    expected = TABLE * count
    assert float(((seen - expected).square() / expected).sum()) < 54.1  # 26 degrees of freedom, p = 0.001


def test_the_surest_are_kept_first():
    net = Exact()
    start = net.of((MASK,) * LENGTH)[1:].softmax(-1).amax(-1)
    first = next(iter(drafts(net, [0], GREEDY.model_copy(update={"max_new_tokens": LENGTH}))))
    assert first.canvas[int(start.argmax())] != MASK


# --- single parts ---------------------------------------------------------------------------------------------


def test_guidance_leads_away_from_no_prompt():
    net, prompt = model(), [5, 6, 7]
    way = GREEDY.model_copy(update={"max_new_tokens": 1, "guidance": 2.0})
    out = drafts(net, prompt, way)[-1]
    index = torch.arange(4)[None]
    asked = ([*prompt, MASK], [MASK] * 4)
    rows = {"position": index, "doc": torch.zeros_like(index), "reach": torch.full_like(index, 3)}
    with torch.no_grad():
        c, u = (net.logits(net.hidden(Batch({"token": torch.tensor([ids]), **rows})))[0, 3] for ids in asked)
    mixed = u + 3 * (c - u)
    mixed[MASK] = -math.inf
    assert out.tokens == [int(mixed.argmax())]
    c[MASK] = -math.inf
    assert out.logprobs[0] == pytest.approx(float(c.log_softmax(-1)[out.tokens[0]]), abs=1e-5)


def test_truncation_is_that_of_the_other_sampler():
    from didact.rollout.choose import candidates

    logits = torch.randn(7, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 2
    for way in ({"top_p": 0.6}, {"top_k": 5, "top_p": 1.0}, {"top_k": 9, "top_p": 0.5}, {"min_p": 0.2, "top_p": 1.0}):
        sampling = Sampling(**way)
        kept = truncated(logits, sampling).isfinite()
        for row, mine in zip(logits, kept, strict=True):
            assert set(mine.nonzero()[:, 0].tolist()) == set(candidates(row.softmax(-1), sampling)[1].tolist())


def test_room_and_refusals():
    net = model(block=4)
    assert len(Unmasker(net, letters, [], longest=12).generate([[5] * 6], GREEDY)[0].tokens) == 6
    with pytest.raises(UsageProblem, match="12 tokens"):
        Unmasker(net, letters, [], longest=12).generate([[5] * 12], GREEDY)
    with pytest.raises(UsageProblem, match="0 tokens"):
        Unmasker(net, letters, []).generate([[]], GREEDY)
    with pytest.raises(UsageProblem, match="blocks of 4"):
        Unmasker(net, letters, []).generate([[5]], GREEDY.model_copy(update={"block": 3}))


def test_a_model_is_written_with_as_it_says():
    assert isinstance(writer(model(), letters, []), Unmasker)
    assert isinstance(writer(toy_model(), letters, []), Sampler)


def test_a_sketch_veils_what_is_masked():
    draft = Draft(0, canvas=[40, MASK, MASK, 41, STOP, MASK])
    assert sketch(draft, letters, MASK, [STOP]) == letters([40]) + 2 * VEIL + letters([41])
