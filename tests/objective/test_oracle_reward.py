"""Law 7: loss and gradient of the reward model are those of TRL's RewardTrainer, with margins and centering."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForSequenceClassification

from didact.audit import laws
from didact.batch import Batch
from didact.objective.reward import Reward
from tests.toy import toy_model

trl = pytest.importorskip("trl")

CENTER = 0.05


class Silent:
    """Metrics that nobody reads, on one process."""

    def __getattr__(self, name):
        return lambda x: x


def pairs() -> tuple[list[list[int]], list[list[int]], list[float]]:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randint(2, 60, (2, 9), generator=generator).tolist() for _ in range(5)]
    return (
        [one[0][: 4 + i] for i, one in enumerate(draw)],
        [one[1][: 9 - i] for i, one in enumerate(draw)],
        [1, 2, 0.5, 1, 3],
    )


def ours(model, margin: float) -> tuple[float, list[torch.Tensor]]:
    """Each pair a row, in which the two answers are documents of their own."""
    better, worse, apart = pairs()
    rows = []
    for good, bad in zip(better, worse, strict=True):
        fill = 20 - len(good) - len(bad)
        doc = [0] * len(good) + [1] * len(bad) + [-1] * fill
        rows.append((good + bad + [0] * fill, doc, [*range(len(good)), *range(len(bad)), *[0] * fill]))
    token, doc, position = (torch.tensor([row[i] for row in rows]) for i in range(3))
    gap = torch.tensor(apart)
    batch = Batch(
        {
            "token": token,
            "doc": doc,
            "position": position,
            "answer": doc,
            "trained": doc >= 0,
            "of": torch.zeros(5, 2, dtype=torch.int64),
            "who": torch.zeros(5, 2, dtype=torch.int64),
            "score": torch.stack([gap, torch.zeros(5)], 1),
            "row": torch.arange(5),
        }
    )
    objective = Reward(center=CENTER, margin=margin)
    with torch.no_grad():
        ready = laws.prepared(model, objective, batch)
    loss = (objective.loss(model, ready)["pairs"] * ready.weight["pairs"]).sum() / ready.weight["pairs"].sum()
    loss.backward()
    names = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"]
    return loss.item(), [model.net.get_parameter(name).grad for name in names] + [model.heads["reward"].weight.grad]


def theirs(model, margin: float) -> tuple[float, list[torch.Tensor]]:
    from trl import RewardTrainer

    better, worse, apart = pairs()
    config = model.net.config
    config.num_labels, config.pad_token_id = 1, 0
    net = LlamaForSequenceClassification._from_config(config, attn_implementation="eager")
    net.load_state_dict({**model.net.state_dict(), "score.weight": model.heads["reward"].weight.data}, strict=False)
    texts = [*better, *worse]
    ids = torch.tensor([text + [0] * (9 - len(text)) for text in texts])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    if margin:
        inputs["margin"] = margin * torch.tensor(apart)
    metrics: dict = {"train": {}}
    metrics["train"] = type("Lists", (dict,), {"__missing__": lambda self, key: []})()
    trainer = SimpleNamespace(
        model=net,
        args=SimpleNamespace(center_rewards_coefficient=CENTER),
        accelerator=Silent(),
        _total_train_tokens=0,
        _tp_size=1,
        _metrics=metrics,
    )
    loss = RewardTrainer.compute_loss(trainer, net, inputs)
    loss.backward()
    names = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"]
    return loss.item(), [net.get_parameter(name).grad for name in (*names, "score.weight")]


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_loss_and_gradient_are_trls(margin):
    model = toy_model()
    model.add_heads(Reward().heads, seed=1)
    wanted, gradients = theirs(model, margin)
    found, mine = ours(model, margin)
    assert found == pytest.approx(wanted, abs=1e-6)
    for one, other in zip(mine, gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-4)
