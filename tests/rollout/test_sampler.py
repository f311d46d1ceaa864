"""The sampler against transformers' own generation, and against itself alone."""

import copy
import gc
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.objective.tokens import Prefix
from didact.rng import Rng
from didact.rollout.cache import SlotCache
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from tests.rollout.models import ARCHITECTURES, VOCABULARY, letters, model

GREEDY = Sampling(temperature=0, max_new_tokens=20)
WARM = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=12)


def prompts(count, longest=14, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(2, VOCABULARY) for _ in range(rng.randrange(1, longest))] for _ in range(count)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_transformers(architecture):
    ours = model(architecture)
    theirs = type(ours.net)(copy.deepcopy(ours.net.config)).eval()
    theirs.load_state_dict(ours.net.state_dict())
    theirs.set_attn_implementation("eager")
    asked = [[7] * 9 + [3, 4], [5], *prompts(4)]
    for prompt, out in zip(asked, Sampler(ours, letters, [1], slots=3).generate(asked, GREEDY), strict=True):
        whole = theirs.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=20, eos_token_id=1, pad_token_id=0, use_cache=True
        )
        assert out.tokens == whole[0, len(prompt) :].tolist()


def test_the_completions_differ():
    """Else the equalities here would prove little."""
    outs = Sampler(model(), letters, [1]).generate(prompts(6), GREEDY)
    assert len({tuple(out.tokens) for out in outs}) == 6
    assert len(set(outs[0].tokens)) > 3


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=7),
    st.integers(1, 4),
)
def test_each_completion_is_what_it_is_alone(asked, slots):
    net = model("mistral")
    rng = random.Random(len(asked))
    texts = [[rng.randrange(2, VOCABULARY) for _ in range(length)] for length, _, _ in asked]
    ways = [WARM.model_copy(update={"max_new_tokens": new, "seed": seed}) for _, new, seed in asked]
    together = Sampler(net, letters, [1, 2, 3], slots=slots).generate(texts, ways)
    for i, out in enumerate(together):
        alone = Sampler(net, letters, [1, 2, 3]).generate([texts[i]], ways[i])[0]
        assert (out.tokens, out.text, out.reason) == (alone.tokens, alone.text, alone.reason)
        assert torch.tensor(out.logprobs).allclose(torch.tensor(alone.logprobs), atol=1e-5)


def test_one_setting_for_all_gives_each_prompt_its_own_seed():
    same = [[5, 6, 7]] * 3
    outs = Sampler(model(), letters, [1]).generate(same, WARM)
    assert len({tuple(out.tokens) for out in outs}) == 3
    again = Sampler(model(), letters, [1]).generate(same[:1], WARM.model_copy(update={"seed": 2}))
    assert again[0].tokens == outs[2].tokens


def test_logprobs_are_the_models_own_before_temperature():
    net = model()
    out = Sampler(net, letters, [1]).generate([[5, 6]], WARM.model_copy(update={"temperature": 3.0, "top_k": 7}))[0]
    net.net.set_attn_implementation("eager")
    whole = torch.tensor([[5, 6, *out.tokens]])
    wanted = net.net(whole, use_cache=False).logits.log_softmax(-1)[0, 1:-1].gather(1, whole[0, 2:, None])[:, 0]
    assert torch.tensor(out.logprobs).allclose(wanted, atol=1e-5)


def test_a_stop_token_is_kept_and_not_spoken():
    net = model()
    free = Sampler(net, letters, []).generate([[5, 6]], GREEDY)[0]
    stop = next(token for place, token in enumerate(free.tokens) if place >= 3 and token not in free.tokens[:place])
    place = free.tokens.index(stop)
    out = Sampler(net, letters, [stop]).generate([[5, 6]], GREEDY)[0]
    assert out.reason == "stop"
    assert out.tokens == free.tokens[: place + 1]
    assert len(out.logprobs) == place + 1
    assert out.text == letters(free.tokens[:place])


def test_a_stop_string_may_run_across_tokens_and_is_never_shown():
    net = model()
    free = Sampler(net, letters, []).generate([[5, 6]], GREEDY)[0].text
    stop = free[4:7]
    shown = []
    for out in Sampler(net, letters, []).stream([[5, 6]], GREEDY.model_copy(update={"stop": ("never", stop)})):
        shown.append(out.text)
    assert out.reason == "stop"
    assert out.text == free[: free.index(stop)]
    assert all(out.text.startswith(text) for text in shown)


def test_what_might_have_become_a_stop_string_is_said_in_the_end():
    net = model()
    free = Sampler(net, letters, []).generate([[5, 6]], GREEDY)[0].text
    way = GREEDY.model_copy(update={"stop": (free[-2:] + "never",)})
    assert Sampler(net, letters, []).generate([[5, 6]], way)[0].text == free


def test_stream_yields_after_every_token_and_ends_each_with_a_reason():
    asked = prompts(5)
    counts, done = [0] * 5, []
    for out in Sampler(model(), letters, [1], slots=2).stream(asked, GREEDY):
        counts[out.prompt] += 1
        assert len(out.tokens) == counts[out.prompt]
        assert out.prompt not in done
        if out.reason:
            done.append(out.prompt)
    assert sorted(done) == list(range(5))


def test_the_context_bounds_a_completion():
    out = Sampler(model(), letters, [], longest=10).generate([[5] * 6], GREEDY)[0]
    assert out.reason == "length"
    assert len(out.tokens) == 4
    assert Sampler(model(), letters, []).longest == 128


@pytest.mark.parametrize("prompt", [[], [5] * 10])
def test_a_prompt_that_is_empty_or_too_long_is_refused(prompt):
    with pytest.raises(UsageProblem, match="prompt 1 has"):
        Sampler(model(), letters, [], longest=10).generate([[5], prompt], GREEDY)


def test_no_prompts_no_completions():
    assert Sampler(model(), letters, []).generate([], GREEDY) == []


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_is_as_it_was(training):
    net = model().train(training)
    sampler = Sampler(net, letters, [])
    sampler.generate([[5]], GREEDY)
    assert net.training == training
    midway = sampler.stream([[5]], GREEDY)
    next(midway)
    assert not net.training
    midway.close()
    assert net.training == training


def test_closing_midway_frees_the_cache():
    def caches():
        return [thing for thing in gc.get_objects() if type(thing) is SlotCache]

    others = caches()  # whatever an earlier test in this process has not let go of
    midway = Sampler(model(), letters, []).stream([[5], [6]], GREEDY)
    next(midway)
    assert len(caches()) == len(others) + 1
    midway.close()
    del midway
    gc.collect()
    assert len(caches()) == len(others)


def test_gradients_flow_after_sampling():
    """Inference mode must leave nothing behind that training would trip over."""
    net = model()
    Sampler(net, letters, []).generate([[5]], GREEDY)
    net.net.set_attn_implementation("eager")
    net.net(torch.tensor([[5, 6]])).logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_prefix_models_opening_is_read_in_both_directions_and_the_answers_after_it_are_not():
    net = model()
    net.served = Prefix().served()
    prompt, opening = [5, 6, 7, 8, 9, 10], 4
    beside = ([11, 12, 13], 3)  # packed in the same row of the prefill
    outs = Sampler(net, letters, [1]).generate([beside[0], prompt], WARM, [beside[1], opening])
    token = torch.tensor([[*prompt, *outs[1].tokens]])
    index = torch.arange(token.shape[1])[None]
    columns = {"token": token, "doc": torch.zeros_like(index), "position": index}
    more = {"trained": index >= opening, "row": torch.tensor([0])}
    batch = Prefix().prepare(net, Batch({**columns, **more}), Rng(0, 0))
    with torch.no_grad():
        found = net.logprob(net.hidden(batch), token.roll(-1, 1), torch.ones_like(index, dtype=torch.float32))
    assert outs[1].logprobs == pytest.approx(found[0, len(prompt) - 1 : -1].tolist(), abs=1e-5)
    whole = Sampler(net, letters, [1]).generate([prompt], WARM)[0]  # without openings the whole prompt is one
    assert whole.logprobs[0] != pytest.approx(outs[1].logprobs[0], abs=1e-4)
