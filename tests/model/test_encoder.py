"""Encoders: heads, positions and kinds of BERT and its relatives, packed as alone, saved as trained."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

from didact.audit import laws
from didact.batch import Batch
from didact.engine.evaluate import scorer
from didact.errors import UsageProblem
from didact.model import attention, encoder, lora
from didact.model.encoder import kind_of, positions
from didact.model.load import load
from didact.model.model import Model
from didact.model.save import save_model
from didact.model.scratch import build
from didact.model.settings import Lora, Scratch, Tune
from didact.model.tune import apply
from didact.objective.masked import Masked
from didact.objective.tokens import Causal, whole_reach
from didact.rng import Rng
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.text import tokenizer as tokenizers
from tests.model.folders import VOCABULARY, jolt, tiny_tokenizer
from tests.toy import toy_stream, toy_vocabulary

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "initializer_range": 0.2}
SMALL |= {"bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 1, "sep_token_id": 1, "pad_token_id": 2}
SMALL |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
OWN = {
    "bert": {},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8},
    "roberta": {},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "dropout": 0.0, "attention_dropout": 0.0},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "eurobert": {"num_key_value_heads": 2, "mask_token_id": 5},
}
every = pytest.mark.parametrize("architecture", OWN)


def config(architecture: str):
    known = AutoConfig.for_model(architecture)
    fields = {k: v for k, v in SMALL.items() if k in known.to_dict() or k in known.attribute_map}
    return AutoConfig.for_model(architecture, **fields | OWN[architecture])


def network(architecture: str, auto=AutoModelForMaskedLM):
    attention.register()
    torch.manual_seed(0)
    net = auto.from_config(config(architecture), attn_implementation="reach").eval()
    jolt(net, 0.1)  # away from the zeros and ones an architecture begins with
    return net


def packed() -> Batch:
    """Rows of several documents, without the padding's own token."""
    batch = next(toy_stream(context=64, batch_size=2).start(0))[0]
    assert (batch.doc.max(1).values > 0).all()
    return batch.with_(token=batch.token.clamp(min=3), reach=whole_reach(batch))


@every
@torch.no_grad()
def test_packed_logits_are_the_networks_own_for_each_document(architecture):
    model, batch = Model(network(architecture)), packed()
    model.check()
    target = batch.token.roll(3, 1)
    where = (target % 3 == 0).float()
    hidden = model.hidden(batch)
    found, logits = model.logprob(hidden, target, where), model.logits(hidden)
    assert (found[where == 0] == 0).all()
    model.net.set_attn_implementation("eager")
    for row, number in [(r, n) for r in range(2) for n in range(int(batch.doc[r].max()) + 1)]:
        inside = batch.doc[row] == number
        theirs = model.net(input_ids=batch.token[row][inside][None]).logits[0]
        torch.testing.assert_close(logits[row][inside], theirs, rtol=1e-4, atol=1e-4)
        alone = theirs.log_softmax(-1).gather(-1, target[row][inside][:, None])[:, 0] * where[row][inside]
        torch.testing.assert_close(found[row][inside], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "roberta"])
def test_laws_of_masked_training(architecture):
    model, objective = Model(network(architecture)), Masked(rate=0.3).bind(toy_vocabulary())
    rows = next(toy_stream(batch_size=4).start(0))[0]
    assert laws.micro_batches(model, objective, rows) < 1e-5
    assert laws.packing(model, objective, rows) < 1e-5
    assert laws.weight_zero(model, objective, next(toy_stream(batch_size=4, pack=False).start(0))[0]) < 1e-5


def test_the_gradient_reaches_what_stands_between():
    model = Model(network("bert"))
    ready = Masked().bind(toy_vocabulary()).prepare(model, packed(), Rng(0, 0))
    Masked().loss(model, ready)["token"].sum().backward()
    assert model.net.cls.predictions.transform.dense.weight.grad.abs().sum() > 0
    assert model.net.cls.predictions.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "roberta"])
def test_check_finds_a_head_left_out(architecture, monkeypatch):
    monkeypatch.setattr(encoder, "between", lambda net: None)
    with pytest.raises(UsageProblem, match="between hidden states and logits"):
        Model(network(architecture)).check()


def test_check_finds_positions_off_by_the_padding(monkeypatch):
    monkeypatch.setattr(encoder, "AFTER_PADDING", ())
    with pytest.raises(UsageProblem, match="differ by"):
        Model(network("roberta")).check()


def test_check_finds_attention_that_is_not_ours():
    """MPNet computes its own: alone it agrees, but packed documents would see each other."""
    small = {k: v for k, v in SMALL.items() if k not in ("cls_token_id", "sep_token_id")}
    net = AutoModelForMaskedLM.from_config(AutoConfig.for_model("mpnet", **small)).eval()
    jolt(net, 0.1)
    with pytest.raises(UsageProblem, match="differ by"):
        Model(net).check()


@every
def test_saved_as_a_masked_model_and_found_to_be_one(architecture, tmp_path):
    tokenizer = tokenizers.with_mask(tiny_tokenizer())
    net = network(architecture)
    save_model(net, tokenizer, tmp_path / "out")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert type(again) is type(net)
    ours = load(tmp_path / "out", torch.float32)
    assert type(ours) is type(net)
    assert kind_of(ours) == "masked"
    Model(ours).check()
    assert not (tmp_path / "out" / "generation_config.json").exists()
    assert tokenizers.load(tmp_path / "out").model_max_length == positions(net.config)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "roberta", "llama"])
def test_a_model_without_a_head(architecture, tmp_path):
    if architecture == "llama":
        from transformers import LlamaModel

        from tests.model.folders import tiny

        net = LlamaModel(tiny().config)
        net.load_state_dict(tiny().model.state_dict())
    else:
        net = network(architecture, AutoModel)
    net.set_attn_implementation("reach")
    save_model(net, tiny_tokenizer(), tmp_path / "out")
    model = Model(load(tmp_path / "out", torch.float32))
    assert kind_of(model.net) == "base"
    assert type(model.net) is type(net)
    assert model.encoder == (architecture != "llama")
    model.check()
    batch = packed()
    hidden = model.hidden(batch)
    with pytest.raises(UsageProblem, match="no head that predicts tokens"):
        model.logprob(hidden, batch.token, torch.ones_like(hidden[..., 0]))
    with pytest.raises(UsageProblem, match="so it cannot write"):
        Sampler(model, str, [1]).generate([[3, 4]], Sampling())
    assert {id(p) for p in model.outer()} == {
        id(m.weight) for m in model.net.modules() if isinstance(m, torch.nn.Embedding)
    }


def test_what_bert_learned_beside_masked_tokens_is_left_over(tmp_path):
    net = network("bert", AutoModelForPreTraining)
    net.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    ours = load(tmp_path, torch.float32)
    assert type(ours).__name__ == "BertForMaskedLM"
    torch.testing.assert_close(ours.cls.predictions.decoder.weight, net.cls.predictions.decoder.weight)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_a_lora_on_an_encoder_saved_as_trained(architecture, tmp_path):
    net = network(architecture)
    apply(net, Tune(what="lora", lora=Lora(rank=2)))
    jolt(net, 0.05)
    assert lora.adapted(net)
    Model(net).check()
    save_model(net, tiny_tokenizer(), tmp_path / "out")
    batch = packed()
    with torch.no_grad():
        one, two = (Model(n).logits(Model(n).hidden(batch)) for n in (net, load(tmp_path / "out", torch.float32)))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("what", [Tune(what="head"), Tune(what="tokens", tokens=("<new>",))])
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMaskedLM])
def test_rows_that_cannot_be_tuned_are_refused_and_others_are(what, auto, tmp_path):
    net, tokenizer = network("bert", auto), tiny_tokenizer()
    if auto is AutoModelForMaskedLM and what.what == "head":
        apply(net, what, tokenizer)
        assert net.cls.predictions.decoder.weight.requires_grad
        return
    with pytest.raises(UsageProblem, match="no head" if auto is AutoModel else "a bias outside its head"):
        apply(net, what, tokenizer)
    assert "<new>" not in tokenizer.get_vocab()


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "roberta", "electra"])
def test_from_scratch(architecture):
    net = build(Scratch(architecture=architecture, size="1M"), tokenizers.with_mask(tiny_tokenizer()), 48, 0)
    assert kind_of(net) == "masked"
    assert net.num_parameters() == pytest.approx(1_000_000, rel=0.25)
    assert positions(net.config) == 48
    jolt(net, 0.05)
    model = Model(net)
    model.check()
    index = torch.arange(48)[None]
    whole = Batch({"token": index + 3, "position": index, "doc": index * 0, "reach": index * 0 + 47})
    assert torch.isfinite(model.hidden(whole)).all()


def test_a_bert_made_a_decoder_is_causal():
    net = build(Scratch(architecture="bert", size="1M", config={"is_decoder": True}), tiny_tokenizer(), 48, 0)
    jolt(net, 0.05)
    model = Model(net)
    assert not model.encoder
    assert kind_of(net) == "causal"


def test_an_encoder_neither_writes_nor_gives_text_a_probability():
    model = Model(network("bert"))
    with pytest.raises(UsageProblem, match="both directions, so it cannot write"):
        Sampler(model, str, [1]).generate([[3, 4]], Sampling())
    with pytest.raises(UsageProblem, match="bits per byte") as caught:
        scorer(model)
    assert "objective: masked" in str(caught.value.remedy)


def test_causal_training_of_an_encoder_sees_no_future():
    """Causal first, then masked: an encoder also learns with a causal reach."""
    model, batch = Model(network("bert")), next(toy_stream(batch_size=2).start(0))[0]
    ready = Causal().prepare(model, batch, Rng(0, 0))
    other = ready.with_(token=ready.token.clone())
    other["token"][:, -1] = 5
    with torch.no_grad():
        one, two = (model.hidden(one)[:, :-1] for one in (ready, other))
    torch.testing.assert_close(one, two)
