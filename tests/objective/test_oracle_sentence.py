"""Law 7: contrastive losses and gradients are those of sentence-transformers, from the same texts."""

import os

import pytest
import torch

from didact.audit.laws import gradient
from didact.data.corpus import in_memory
from didact.data.example import Texts
from didact.data.pieces import cut
from didact.data.stream import TokenStream
from didact.engine.mesh import Mesh
from didact.engine.step import Task, take_step
from didact.model.load import load
from didact.model.model import Model
from didact.model.save import save_model
from didact.objective.contrast import Contrast
from didact.rng import Rng
from didact.text import tokenizer as tokenizers
from didact.text.render import Renderer
from tests.model.folders import tiny, tiny_tokenizer

os.environ["HF_HUB_OFFLINE"] = "1"
peer = pytest.importorskip("sentence_transformers")
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
pytestmark = pytest.mark.slow

WORDS = ("cat", "sat", "mat", "fox", "jumps", "over", "lazy", "dog", "rain", "falls", "on", "quiet", "hills", "river")
BOTH = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
CASES = {
    "softmax": (Contrast(temperature=0.02), 2, lambda m: losses.MultipleNegativesRankingLoss(m, scale=50)),
    "hard negatives": (Contrast(), 4, lambda m: losses.MultipleNegativesRankingLoss(m, scale=20)),
    "cached": (
        Contrast(),
        3,
        lambda m: losses.CachedMultipleNegativesRankingLoss(m, scale=20, mini_batch_size=2, show_progress_bar=False),
    ),
    "symmetric": (
        Contrast(symmetric=True),
        2,
        lambda m: losses.MultipleNegativesRankingLoss(m, scale=20, **BOTH),
    ),
    "triplet": (Contrast(form="triplet", margin=1.0), 3, lambda m: losses.TripletLoss(m, triplet_margin=1.0)),
    "matryoshka": (
        Contrast(dimensions=[32, 16, 8], weights=[1.0, 0.5, 0.25]),
        2,
        lambda m: losses.MatryoshkaLoss(m, losses.MultipleNegativesRankingLoss(m), [32, 16, 8], [1.0, 0.5, 0.25]),
    ),
    "cosent": (Contrast(form="cosent"), 0, lambda m: losses.CoSENTLoss(m, scale=20)),
    "cosine": (Contrast(form="cosine"), 0, lambda m: losses.CosineSimilarityLoss(m)),
}


def examples(texts: int) -> list[Texts]:
    """Seven examples of so many texts; of two with a score where none is asked for."""
    draw = torch.Generator().manual_seed(0)

    def text() -> str:
        count = int(torch.randint(2, 9, (1,), generator=draw))
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (count,), generator=draw).tolist())

    made = []
    for number in range(7):
        if texts:
            roles = ("query", *["document"] * (texts - 1))
            made.append(Texts(f"{number}", tuple(text() for _ in roles), roles))
        else:
            made.append(Texts(f"{number}", (text(), text()), ("document", "document"), (number % 4) / 3))
    return made


def ours(folder, objective, data) -> tuple[float, dict[str, torch.Tensor]]:
    model = Model(load(folder, torch.float32)).train()
    renderer = Renderer(tokenizers.load(folder)).embedding(objective.served())
    stream = TokenStream(cut([in_memory(data, renderer)], 64, "window")[0], 64, len(data), seed=0)
    tasks = [Task("contrast", objective, stream.start(0))]
    step = take_step(model, tasks, Mesh(torch.device("cpu")), Rng(0, 0), micro_rows=2)
    return step.total(tasks), {name.split("model.")[-1]: value for name, value in gradient(model).items()}


def theirs(folder, loss, data) -> tuple[float, dict[str, torch.Tensor]]:
    model = peer.SentenceTransformer(str(folder), device="cpu").train()
    columns = [model.preprocess([one.texts[i] for one in data]) for i in range(len(data[0].texts))]
    value = loss(model)(columns, torch.tensor([one.value for one in data]))
    value.backward()
    return value.item(), {name.split("model.")[-1]: value for name, value in gradient(model).items()}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_sentence_transformers(name, tmp_path):
    objective, texts, loss = CASES[name]
    net = tiny("llama")
    net.config.didact = objective.served()
    save_model(net, tiny_tokenizer(), tmp_path / "model")
    data = examples(texts)
    value, found = ours(tmp_path / "model", objective, data)
    expected, gradients = theirs(tmp_path / "model", loss, data)
    assert value == pytest.approx(expected, abs=1e-5)
    assert found.keys() == gradients.keys()
    for name, each in found.items():
        torch.testing.assert_close(each, gradients[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
