import pytest
import torch

from didact.errors import UsageProblem
from didact.model.model import Model
from didact.model.scratch import build
from didact.model.settings import Scratch
from didact.settings import count
from tests.model.folders import tiny_tokenizer

SMALL = {"hidden_size": 64, "num_hidden_layers": 1}


def make(architecture="llama", size="500k", seed=0, dtype=torch.float32, **config):
    return build(Scratch(architecture=architecture, size=size, config=config), tiny_tokenizer(), 64, seed, dtype)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gemma3_text", "mistral", "olmo2"])
@pytest.mark.parametrize("size", ["300k", "1M", "3M"])
def test_the_size_is_about_what_was_asked(architecture, size):
    model = make(architecture, size)
    assert model.num_parameters() == pytest.approx(count(size), rel=0.2)
    config = model.config
    assert config.hidden_size % 64 == 0
    assert config.hidden_size // config.num_attention_heads == 64
    assert config.num_attention_heads % getattr(config, "num_key_value_heads", 1) == 0


def test_the_tokenizer_and_context_decide_their_fields():
    tokenizer, config = tiny_tokenizer(), make(**SMALL).config
    assert config.vocab_size == len(tokenizer)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 1, 2)
    assert config.max_position_embeddings == 64
    assert config.tie_word_embeddings
    assert not make("gpt2").config.attn_pdrop


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gemma3_text"])
def test_it_computes_as_the_engine_needs(architecture):
    Model(make(architecture, "300k", initializer_range=0.1)).check()


def test_the_seed_decides_every_weight_and_leaves_torch_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (make(seed=seed, **SMALL).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_another_type_rounds_the_weights_and_not_the_constants():
    fine, coarse = make(**SMALL), make(dtype=torch.bfloat16, **SMALL)
    assert coarse.dtype == torch.bfloat16
    assert coarse.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(coarse.model.embed_tokens.weight, fine.model.embed_tokens.weight.bfloat16())


def test_the_recipe_overrides_single_fields():
    model = make(num_hidden_layers=3, hidden_size=96, num_attention_heads=3, num_key_value_heads=1, rope_theta=500.0)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_key_value_heads) == (3, 96, 1)
    assert config.rope_parameters["rope_theta"] == 500.0
    assert make("gpt2", n_layer=2, n_embd=64).config.num_hidden_layers == 2
    assert make(num_hidden_layers=6).config.num_hidden_layers == 6


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"architecture": "qwem3"}, "'qwem3'.*qwen3"),
        ({"architecture": "bert-large"}, "bert"),
        ({"num_hidden_layer": 3}, "no field 'num_hidden_layer'.*num_hidden_layers"),
        ({"hidden_size": "wide"}, "above zero"),
        ({"num_hidden_layers": 0}, "above zero"),
        ({"hidden_size": 64, "num_attention_heads": 7}, "no llama model"),
        ({"hidden_act": "zz"}, "no llama model"),
        ({"vocab_size": 10}, "less than the tokenizer's 259"),
        ({"vocab_size": "many"}, "no llama model"),
        ({"size": "1k"}, "nearest has"),
    ],
)
def test_a_wrong_recipe_gets_one_line(spec, says):
    with pytest.raises(UsageProblem, match=says) as caught:
        make(**spec)
    assert "\n" not in str(caught.value)
