"""Documents read once: what follows them is as if they had been read with it, where it must be."""

import random

import pytest
import torch

from didact.batch import Batch
from didact.errors import DataProblem, UsageProblem
from didact.objective.tokens import Prefix
from didact.rollout.document import DocumentCache
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from tests.rollout.models import ARCHITECTURES, VOCABULARY, letters, model

WARM = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=12)


def texts(*lengths, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(2, VOCABULARY) for _ in range(length)] for length in lengths]


def apart(one, other):
    """The largest difference of log-probabilities of the same tokens."""
    assert one.tokens == other.tokens
    return max(abs(a - b) for a, b in zip(one.logprobs, other.logprobs, strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_document_read_causally_before_is_as_one_read_with_its_question(architecture):
    net = model(architecture)
    document, *questions = texts(23, 4, 9, 1, 6)
    other = texts(7, seed=1)[0]
    first, second = DocumentCache.read(net, [document, other], bidirectional=False)
    before = [first, None, second, first]
    sampler = Sampler(net, letters, [1], slots=3)
    found = sampler.generate(questions, WARM, documents=before)
    whole = [[*(known.tokens if known else ()), *asked] for known, asked in zip(before, questions, strict=True)]
    for one, wanted in zip(found, sampler.generate(whole, WARM), strict=True):
        assert (one.text, one.reason) == (wanted.text, wanted.reason)
        assert apart(one, wanted) < 1e-5


def test_a_document_read_in_both_directions_is_not():
    """GRIT's bbcc: else the identity above would prove little."""
    net = model()
    document, question = texts(23, 5)
    greedy = WARM.model_copy(update={"max_new_tokens": 1})
    known = DocumentCache.of(net, document, bidirectional=True)
    sampler = Sampler(net, letters, [])
    one = sampler.generate([question], greedy, documents=[known])[0]
    wanted = sampler.generate([[*document, *question]], greedy)[0]
    assert one.tokens != wanted.tokens or apart(one, wanted) > 1e-2


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_a_document_read_in_both_directions_is_as_an_opening_so_read(architecture):
    """The question's tokens see all of the document, whose keys know all of it: a prefix model's way to read."""
    net = model(architecture).eval()
    document, question = texts(23, 5)
    known = DocumentCache.of(net, document, bidirectional=True)
    out = Sampler(net, letters, [1]).generate([question], WARM, documents=[known])[0]
    token = torch.tensor([[*document, *question, *out.tokens]])
    index = torch.arange(token.shape[1])[None]
    reach = torch.where(index < len(document), len(document) - 1, index)
    batch = Batch({"token": token, "doc": index * 0, "position": index, "reach": reach})
    with torch.no_grad():
        found = net.logprob(net.hidden(batch), token.roll(-1, 1), torch.ones(token.shape))
    assert out.logprobs == pytest.approx(found[0, -len(out.tokens) - 1 : -1].tolist(), abs=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_hidden_states_are_those_of_the_embedding_pass(bidirectional):
    net, documents = model(), texts(11, 17)
    for document, known in zip(documents, DocumentCache.read(net, documents, bidirectional), strict=True):
        index = torch.arange(len(document))[None]
        reach = torch.full_like(index, len(document) - 1) if bidirectional else index
        batch = Batch({"token": torch.tensor([document]), "doc": index * 0, "position": index, "reach": reach})
        with torch.no_grad():
            assert torch.allclose(known.hidden, net.hidden(batch)[0], atol=1e-5)


def test_a_stored_document_is_the_same(tmp_path):
    net = model()
    document, question = texts(23, 5)
    known = DocumentCache.of(net, document, bidirectional=True)
    known.save(tmp_path / "a.safetensors")
    again = DocumentCache.load(tmp_path / "a.safetensors")
    assert (again.tokens, again.reader) == (known.tokens, known.reader)
    sampler = Sampler(net, letters, [])
    one, other = sampler.generate([question] * 2, [WARM, WARM], documents=[known, again])
    assert (one.tokens, one.logprobs) == (other.tokens, other.logprobs)


def test_repeated_tokens_of_the_document_are_penalised_too():
    net = model()
    document, question = texts(23, 5)
    known = DocumentCache.of(net, document, bidirectional=False)
    way = WARM.model_copy(update={"repetition_penalty": 3.0})
    sampler = Sampler(net, letters, [])
    assert (
        apart(
            sampler.generate([question], way, documents=[known])[0], sampler.generate([[*document, *question]], way)[0]
        )
        < 1e-5
    )


def test_what_another_model_has_read_is_refused():
    document, question = texts(23, 5)
    known = DocumentCache.of(model(seed=1), document, bidirectional=False)
    with pytest.raises(UsageProblem, match="read by another model"):
        Sampler(model(), letters, []).generate([question], WARM, documents=[known])


def test_a_prefix_model_takes_no_document():
    net = model()
    net.served = Prefix().served()
    document, question = texts(23, 5)
    known = DocumentCache.of(net, document, bidirectional=False)
    with pytest.raises(UsageProblem, match="both directions"):
        Sampler(net, letters, []).generate([question], WARM, documents=[known])


def test_document_and_prompt_share_the_context():
    net = model()
    document, question = texts(23, 5)
    known = DocumentCache.of(net, document, bidirectional=False)
    out = Sampler(net, letters, [], longest=30).generate([question], WARM, documents=[known])[0]
    assert (out.reason, len(out.tokens)) == ("length", 2)
    for prompt in (question, []):
        with pytest.raises(UsageProblem, match="prompt 0 has"):
            Sampler(net, letters, [], longest=28).generate([prompt], WARM, documents=[known])


@pytest.mark.parametrize("content", [b"", b"no safetensors"])
def test_a_file_that_is_no_document_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataProblem, match="no stored document"):
        DocumentCache.load(path)


def test_weights_are_no_document(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(DataProblem, match="no stored document"):
        DocumentCache.load(tmp_path / "a.safetensors")
