import pytest
import torch

from didact.errors import UsageProblem
from didact.model.extend import ExtendedEmbedding, ExtendedHead
from didact.model.load import load
from didact.model.save import save_model
from didact.model.settings import Tune
from didact.model.tune import apply
from tests.model.folders import ARCHITECTURES, VOCABULARY, jolt, logits, tiny, tiny_tokenizer


def tune(model, value, tokenizer=None, seed=0):
    return apply(model, Tune.model_validate(value), tokenizer, seed)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_is_everything(architecture):
    model = tiny(architecture)
    found = tune(model, "all")
    assert found.count == found.total == model.num_parameters()
    assert found.share == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_head_is_the_head(architecture):
    model = tiny(architecture)
    found = tune(model, "head")
    assert found.count == 32 * VOCABULARY
    assert bool(found.note) == (architecture != "qwen3")
    assert [p is model.get_output_embeddings().weight for p in model.parameters() if p.requires_grad] == [True]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_last_is_the_last_layers_and_the_final_norm(architecture):
    model = tiny(architecture)
    names = tune(model, {"last": 1}).names
    layers, norm = ("transformer.h", "transformer.ln_f") if architecture == "gpt2" else ("model.layers", "model.norm")
    assert {name for name in names if not name.startswith(f"{layers}.1.")} <= {f"{norm}.weight", f"{norm}.bias"}
    assert f"{norm}.weight" in names
    assert sum(name.startswith(f"{layers}.1.") for name in names) == sum(
        name.startswith(f"{layers}.1.") for name, _ in model.named_parameters()
    )


def test_lora_counts_its_matrices():
    found = tune(tiny(), {"lora": {"rank": 2, "targets": ["q_proj"]}})
    assert found.count == 2 * 2 * (32 + 32)
    assert found.total == tiny().num_parameters() + found.count


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("spare", [0, 1, 21])
def test_tokens_are_rows_of_their_own(architecture, spare):
    """Whether the model has ``spare`` rows beyond its tokenizer or not, new rows learn and old ones do not move."""
    model, tokenizer = tiny(architecture, vocab_size=259 + spare), tiny_tokenizer()
    old_logits, old = logits(model), model.get_input_embeddings().weight.clone()
    found = tune(model, {"tokens": ["<a>", "<b>"]}, tokenizer)
    size = max(259 + spare, 261)
    assert tokenizer.encode("x<b>")[-1] == 260
    assert model.config.vocab_size == size
    assert found.count == 2 * 32 * (2 if architecture == "qwen3" else 1)
    assert torch.allclose(logits(model)[..., :259], old_logits[..., :259], atol=1e-5)
    ids = torch.tensor([[5, 259, 7, 260, 259]])
    out = model(input_ids=ids, use_cache=False).logits
    assert out.shape == (1, 5, size)
    out.square().sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(found.names)
    jolt(model)
    embedding = model.get_input_embeddings()
    assert torch.equal(embedding.weight[:259], old[:259])
    assert embedding.weight.shape == model.get_output_embeddings().weight.shape == (size, 32)


def test_new_rows_start_at_the_mean_of_their_pieces():
    model, tokenizer = tiny(tie_word_embeddings=False), tiny_tokenizer()
    table = model.get_input_embeddings().weight.clone()
    mean = table[tokenizer.encode("<a>")].mean(0)
    tune(model, {"tokens": ["<a>"]}, tokenizer)
    row = model.get_input_embeddings().rows.weight[0]
    assert 0 < (row - mean).abs().max() < 0.1 * table.std()


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("tokens", [["<a>"], {"<a>": "a word for it"}])
@pytest.mark.parametrize("spare", [0, 21])
def test_new_tokens_beside_everything(tie, tokens, spare):
    """They stand in the tables themselves, which train whole; where described, they start at what is said of them."""
    model, tokenizer = tiny(vocab_size=259 + spare, tie_word_embeddings=tie), tiny_tokenizer()
    old, means = model.get_input_embeddings().weight.clone(), []
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        said = tokenizer.encode("a word for it" if isinstance(tokens, dict) else "<a>")
        means.append(table.weight[said].mean(0))
    found = tune(model, {"what": "all", "tokens": tokens}, tokenizer)
    assert found.count == found.total == model.num_parameters()
    assert tokenizer.encode("x<a>")[-1] == 259
    for table, mean in zip((model.get_input_embeddings(), model.get_output_embeddings()), means, strict=True):
        assert table.weight.shape[0] == max(259 + spare, 260) == model.config.vocab_size
        assert (table.weight[259] - mean).abs().max() < 0.1 * old.std()
    assert torch.equal(model.get_input_embeddings().weight[:259], old[:259])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("beside", [{"lora": {"rank": 2}}, {"last": 1}])
def test_new_tokens_beside_a_part(architecture, beside, tmp_path):
    """Their rows train with the LoRA or the last layers, the tables do not, and all is saved as it was trained."""
    model, tokenizer = tiny(architecture), tiny_tokenizer()
    alone = tune(tiny(architecture), beside).names
    table = model.get_input_embeddings().weight.clone()
    names = set(tune(model, {**beside, "tokens": {"<a>": "a word"}}, tokenizer).names)
    assert set(alone) < names
    assert all(".rows." in name for name in names - set(alone))
    assert torch.equal(model.get_input_embeddings().weight[:259], table[:259])
    jolt(model)
    save_model(model, tokenizer, tmp_path / "saved")  # which compares logits
    again = load(tmp_path / "saved", torch.float32)
    assert torch.equal(again.get_input_embeddings().weight[:259], table[:259])


def test_extended_modules_equal_the_standard_ones():
    table, rows = torch.nn.Embedding(7, 4), torch.nn.Embedding(3, 4)
    for start in (4, 6, 7):
        embedding = ExtendedEmbedding(table, rows, start)
        ids = torch.arange(max(7, start + 3)).view(1, -1)
        assert torch.equal(embedding(ids)[0], embedding.weight)
        head = ExtendedHead(torch.nn.Linear(4, 7), rows, start)
        hidden = torch.randn(5, 4)
        standard = torch.nn.functional.linear(hidden, head.weight, head.bias)
        assert torch.equal(head(hidden), standard)
        assert head.bias[start:].abs().sum() == (0 if start >= 4 else None)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"last": 3}, "2 layers, not 3"),
        ({"tokens": ["<bos>"]}, "token already"),
        ({"tokens": ["<a>", "<a>"]}, "token already"),
        ({"tokens": {"<a>": ""}}, "nothing is said of '<a>'"),
        ({"lora": {"targets": ["zzz"]}}, "zzz"),
    ],
)
def test_a_choice_the_model_lacks_gets_one_line(value, says):
    with pytest.raises(UsageProblem, match=says):
        tune(tiny(), value, tiny_tokenizer())


def test_tokens_need_the_models_own_tokenizer():
    with pytest.raises(UsageProblem, match="tokenizer"):
        tune(tiny(), {"tokens": ["<a>"]})
    with pytest.raises(UsageProblem, match="259 tokens, the model 100"):
        tune(tiny(vocab_size=100), {"tokens": ["<a>"]}, tiny_tokenizer())
