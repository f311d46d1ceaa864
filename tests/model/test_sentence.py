"""The files of sentence-transformers: written and read back, refused where Didact computes something else."""

import json
import os

import pytest
import torch
from tokenizers import processors
from transformers import AutoModel, BertConfig

from didact.data.fetch import cache_dir
from didact.errors import DataProblem, ResourceProblem, UsageProblem
from didact.model import sentence
from didact.model.embed import Embedder, chunks
from didact.model.load import load
from didact.model.model import Model
from didact.model.save import save_model
from didact.run.life import find_model
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer
from tests.model.folders import VOCABULARY, tiny, tiny_tokenizer

TEXTS = ["A cat sat.", "On the mat", "def f(x):\n    return x + 1", "日本語", "What is a very long question? " * 4]
PROMPTS = {"query": "Instruct: find it\nQuery: ", "document": ""}
READINGS = {
    "bidirectional decoder": {"pool": "mean", "bidirectional": True, "prompts": PROMPTS},
    "causal decoder": {"pool": "last", "bidirectional": False, "prompts": {}},
    "pooled prompts": {"pool": "mean", "bidirectional": True, "prompts": PROMPTS, "pool_prompts": True},
    "encoder": {"pool": "cls", "bidirectional": True, "prompts": {}, "length": 24},
}


def encoder():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, initializer_range=0.2, **shape)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"cls_token": "<bos>", "sep_token": "<eos>"})
    around = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)])
    tokenizer.backend_tokenizer.post_processor = around
    return AutoModel.from_config(config).eval(), tokenizer


def decoder():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    return tiny("llama", max_position_embeddings=256), tokenizer


def saved(folder, reading):
    net, tokenizer = encoder() if reading == "encoder" else decoder()
    net.config.didact = {"embedding": READINGS[reading]}
    save_model(net, tokenizer, folder)
    return folder


def vectors(folder, role="document", **options):
    model = Model(load(folder, torch.float32))
    return Embedder.of(model, Renderer(tokenizers.load(folder)))(TEXTS, role, **options)


@pytest.mark.parametrize("reading", READINGS)
def test_what_is_written_is_read(reading, tmp_path):
    folder = saved(tmp_path / "model", reading)
    config = json.loads((folder / "config.json").read_text())
    own = config.pop("didact")["embedding"]
    (folder / "config.json").write_text(json.dumps(config))
    found = load(folder, torch.float32).config.didact["embedding"]
    given = {role: prompt for role, prompt in own["prompts"].items() if prompt}
    assert found == {"pool_prompts": False, "normalize": True} | own | {"prompts": given}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("role", ["query", "document"])
def test_sentence_transformers_gives_the_same_vectors(reading, role, tmp_path):
    os.environ["HF_HUB_OFFLINE"] = "1"
    peer = pytest.importorskip("sentence_transformers")
    folder = saved(tmp_path / "model", reading)
    theirs = peer.SentenceTransformer(str(folder), device="cpu")
    encode = theirs.encode_query if role == "query" else theirs.encode_document
    expected = torch.from_numpy(encode(TEXTS, batch_size=2))
    torch.testing.assert_close(vectors(folder, role), expected, rtol=0, atol=2e-6)
    alone = torch.from_numpy(encode(TEXTS[:1]))
    torch.testing.assert_close(vectors(folder, role)[:1], alone, rtol=0, atol=2e-6)


def test_a_model_that_embeds_in_both_directions_still_writes_left_to_right(tmp_path):
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(saved(tmp_path / "model", "bidirectional decoder"))
    ids = torch.arange(3, 13)[None]
    other = torch.cat([ids[:, :-1], ids[:, -1:] + 1], 1)
    with torch.no_grad():
        assert torch.equal(net(ids).logits[:, :-1], net(other).logits[:, :-1])


def test_batches_do_not_change_vectors(tmp_path):
    folder = saved(tmp_path / "model", "bidirectional decoder")
    torch.testing.assert_close(vectors(folder), vectors(folder, tokens=130), rtol=0, atol=2e-6)
    short = vectors(folder, dimensions=8)
    torch.testing.assert_close(short, torch.nn.functional.normalize(vectors(folder)[:, :8], dim=-1))


def test_chunks_are_full_and_whole():
    lengths = [5, 1, 9, 3, 4]
    made = chunks([1, 3, 4, 0, 2], lengths, 10)
    assert sorted(number for chunk in made for number in chunk) == [0, 1, 2, 3, 4]
    assert all(sum(lengths[number] for number in chunk) <= 10 for chunk in made)
    assert len(made) == 3


def test_an_encoder_cannot_be_saved_as_causal(tmp_path):
    net, tokenizer = encoder()
    net.config.didact = {"embedding": {"pool": "mean", "bidirectional": False, "prompts": {}}}
    with pytest.raises(UsageProblem, match="reads in both directions"):
        save_model(net, tokenizer, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_didact_does_not_compute_is_refused(tmp_path):
    folder = saved(tmp_path / "model", "causal decoder")
    modules = json.loads((folder / sentence.MODULES).read_text())
    pooling = json.loads((folder / sentence.POOLING).read_text())
    (folder / sentence.POOLING).write_text(json.dumps(pooling | {"pooling_mode_max_tokens": True}))
    with pytest.raises(DataProblem, match="pools by"):
        sentence.read(folder)
    modules[2]["type"] = "sentence_transformers.models.Dense"
    (folder / sentence.MODULES).write_text(json.dumps(modules))
    with pytest.raises(DataProblem, match=r"Transformer \+ Pooling \+ Dense"):
        sentence.read(folder)


def test_a_model_that_says_nothing_is_refused_or_told(tmp_path):
    model, renderer = Model(tiny("llama")), Renderer(tiny_tokenizer())
    with pytest.raises(UsageProblem, match="does not say"):
        Embedder.of(model, renderer)
    assert Embedder.of(model, renderer, READINGS["causal decoder"]).embedding["pool"] == "last"


@pytest.mark.download
def test_a_published_embedder_is_read_as_sentence_transformers_reads_it():
    peer = pytest.importorskip("sentence_transformers")
    try:
        folder = find_model("all-minilm-l6-v2", cache_dir(), lambda line: None)
    except ResourceProblem as problem:
        pytest.skip(str(problem))
    expected = torch.from_numpy(peer.SentenceTransformer(str(folder), device="cpu").encode(TEXTS))
    torch.testing.assert_close(vectors(folder), expected, rtol=0, atol=2e-6)
