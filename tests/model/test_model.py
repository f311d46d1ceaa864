import pytest
import torch

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.model.model import Model
from tests.toy import toy_model


def batch(tokens=10):
    index = torch.arange(tokens)[None]
    return Batch({"token": index % 61, "position": index, "doc": torch.zeros_like(index), "reach": index})


def test_logprob_and_logits_equal_the_networks_own():
    model = toy_model()
    target = torch.randint(0, 61, (1, 10), generator=torch.Generator().manual_seed(0))
    where = torch.tensor([[1.0, 0, 1, 1, 0, 1, 1, 1, 0, 1]])
    hidden = model.hidden(batch())
    ours = model.logprob(hidden, target, where)
    model.net.set_attn_implementation("eager")
    theirs = model.net(input_ids=batch().token).logits
    expected = theirs.log_softmax(-1).gather(-1, target[..., None])[..., 0] * where
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.logits(hidden), theirs, rtol=1e-5, atol=1e-5)


def test_check_accepts_what_it_reproduces_and_leaves_the_model_as_it_was():
    model = toy_model()
    model.train()
    model.check()
    assert model.net.training
    assert model.net.config._attn_implementation == "reach"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_check_refuses_a_head_that_does_more(dtype):
    class Scaled(torch.nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden) * 3

    model = toy_model(dtype=dtype, tie_word_embeddings=False)
    head = model.net.lm_head
    model.net.lm_head = Scaled(head.in_features, head.out_features, bias=False, dtype=dtype)
    model.net.lm_head.weight = head.weight
    with pytest.raises(UsageProblem, match="does more between hidden states and logits"):
        model.check()


def test_outer_lists_tied_tables_once():
    assert [tuple(p.shape) for p in toy_model().outer()] == [(61, 32)]
    assert len(toy_model(tie_word_embeddings=False).outer()) == 2


def test_layers_are_the_longest_list():
    model: Model = toy_model()
    assert len(model.layers) == 2
