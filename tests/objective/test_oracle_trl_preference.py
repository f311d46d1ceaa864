"""Law 7: losses and gradients of the DPO family and KTO are those of TRL, from the same tokens.

TRL gets its own rows, one answer a row behind its prompt; ours share the prompt and are packed.
"""

import os
from collections import defaultdict
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from didact.audit.toy import toy_teacher
from didact.data.pieces import cut
from didact.data.stream import TokenStream
from didact.engine.mesh import Mesh
from didact.engine.step import Task, take_step
from didact.objective import resolve
from didact.rng import Rng
from tests.toy import VOCABULARY, toy_judged, toy_model

os.environ["HF_HUB_OFFLINE"] = "1"
trl = pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PAIRS = 6


def corpus(kto: bool):
    """Prompts with a better and a worse answer, or for KTO with a judged one and one that is another prompt's."""
    found = toy_judged(PAIRS, answers=(2, 2), levels=2)
    judged = found.judged
    for one in range(PAIRS):
        judged.score[2 * one : 2 * one + 2] = [float(one % 2), float("nan")] if kto else [1.0, 0.0]
    return toy_teacher(found, 0, VOCABULARY)


def ours(objective, found, model):
    stream = TokenStream(cut([found], 64, "drop")[0], 64, 1, seed=0)
    rows = len(stream.epoch(0))
    assert 1 < rows < PAIRS, "nothing is packed, or everything in one row: a weaker test than it says"
    tasks = [Task("t", objective, TokenStream(stream.parts, 64, rows, seed=0).start(0))]
    step = take_step(model, tasks, Mesh(torch.device("cpu")), Rng(0, 0), micro_rows=1)
    return step.total(tasks), {name: p.grad for name, p in model.net.named_parameters()}


def rows(found, branch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each prompt with its answer of that number: tokens, attention, what is the answer's, and the reference's sum."""
    texts = []
    for i in range(PAIRS):
        span = slice(found.bound[i], found.bound[i + 1])
        part = found.judged.branch[span]
        keep = (part == 0) | (part == branch)
        log_p = found.taught.columns(found.trained[span], span)["reference"]
        texts.append((found.token[span][keep], found.trained[span][keep], float(log_p[keep].sum())))
    width = max(len(token) for token, _, _ in texts)

    def padded(column):
        return torch.tensor([[*map(int, one), *[0] * (width - len(one))] for one in column])

    token, said = padded([t for t, _, _ in texts]), padded([s for _, s, _ in texts])
    there = padded([[1] * len(t) for t, _, _ in texts])
    return token, there, said, torch.tensor([r for _, _, r in texts])


def merged(one, other) -> list[torch.Tensor]:
    """Rows of two batches, of one width."""
    width = max(one[0].shape[1], other[0].shape[1])
    pad = torch.nn.functional.pad
    both = zip(one, other, strict=True)
    return [torch.cat([pad(a, (0, width - a.shape[1])), pad(b, (0, width - b.shape[1]))]) for a, b in both]


class Network(torch.nn.Module):
    """The network as TRL's loss asks it: log-probabilities of the labels, one place earlier."""

    def __init__(self, model):
        super().__init__()
        from transformers import AutoModelForCausalLM

        config = deepcopy(model.net.config)  # which remembers how its network attends
        self.net = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        self.net.load_state_dict(model.net.state_dict())

    def forward(self, labels, input_ids, attention_mask, **_):
        logits = self.net(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1]
        said, target = labels[:, 1:] != -100, labels[:, 1:].clamp(min=0)
        found = logits.log_softmax(-1).gather(-1, target[..., None])[..., 0] * said
        unread = torch.zeros_like(found)
        measured = dict.fromkeys(("entropy", "mean_logits", "log_sum_sq_probs"), unread) | {"is_top1": said}
        return SimpleNamespace(log_probs=found, **measured)


def theirs(kind, network, inputs, **fields) -> torch.Tensor:
    """What a trainer's own loss is, with nothing of the trainer around it."""
    one = kind.__new__(kind)
    mesh = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x)
    usual = {"aux_loss_enabled": False, "use_weighting": False, "ld_alpha": None, "precompute_ref_logps": True}
    usual |= {"f_divergence_type": "reverse_kl", "label_smoothing": 0.0, "calculate_KL": True, "loss_weights": [1.0]}
    usual |= {"accelerator": mesh, "model": network, "_total_train_tokens": 0, "_tp_size": 1}
    usual["_metrics"] = {"train": defaultdict(list), "eval": defaultdict(list)}
    for name, value in (usual | fields).items():
        setattr(one, name, value)
    return one._compute_loss(network, inputs, False)


def same(ours_, wanted: torch.Tensor, network) -> None:
    loss, gradient = ours_
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    wanted.backward()
    for name, p in network.net.named_parameters():
        torch.testing.assert_close(gradient[name], p.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["dpo", "ipo", "hinge", "robust"])
def test_pairs_are_trls(name):
    options = {"beta": 0.3} | {"ipo": {"average": True}, "robust": {"label_smoothing": 0.2}}.get(name, {})
    found, model = corpus(kto=False), toy_model().train()
    chosen, rejected = rows(found, 1), rows(found, 2)
    token, there, said = merged(chosen[:3], rejected[:3])
    inputs = {"input_ids": token, "attention_mask": there, "completion_mask": said}
    inputs |= {"ref_chosen_logps": chosen[3], "ref_rejected_logps": rejected[3]}
    network = Network(model)
    kind = {"dpo": "sigmoid"}.get(name, name)
    wanted = theirs(trl.DPOTrainer, network, inputs, beta=0.3, loss_types=[kind], label_smoothing=0.2)
    same(ours(resolve(name, options), found, model), wanted, network)


def test_a_tail_that_counts_less_is_trls():
    """The reference, which TRL wants as sums, says the same of every token, so that its tail can be reckoned."""
    found, model = corpus(kto=False), toy_model().train()
    found.taught.made["reference"][:] = -3.0
    chosen, rejected = rows(found, 1), rows(found, 2)
    token, there, said = merged(chosen[:3], rejected[:3])
    size = [batch[2].sum(1) for batch in (chosen, rejected)]
    shared = torch.minimum(*size)
    summed = [-3.0 * (shared + 0.4 * (n - shared)) for n in size]
    inputs = {"input_ids": token, "attention_mask": there, "completion_mask": said}
    inputs |= {"ref_chosen_logps": summed[0], "ref_rejected_logps": summed[1]}
    network = Network(model)
    wanted = theirs(trl.DPOTrainer, network, inputs, beta=0.3, loss_types=["sigmoid"], ld_alpha=0.4)
    same(ours(resolve("ld_dpo", {"beta": 0.3, "alpha": 0.4}), found, model), wanted, network)


def test_thumbs_are_trls():
    found, model = corpus(kto=True), toy_model().train()
    own, lent = rows(found, 1), rows(found, 2)
    inputs = {"input_ids": own[0], "attention_mask": own[1], "completion_mask": own[2], "ref_logps": own[3]}
    inputs |= {"KL_input_ids": lent[0], "KL_attention_mask": lent[1], "KL_completion_mask": lent[2]}
    inputs |= {"ref_KL_logps": lent[3], "label": [bool(one % 2) for one in range(PAIRS)]}
    network = Network(model)
    weights = {"desirable_weight": 2.0, "undesirable_weight": 0.5}
    inputs["label"] = torch.tensor(inputs["label"])
    wanted = theirs(trl.KTOTrainer, network, inputs, beta=0.3, loss_type="kto", **weights)
    objective = replace(resolve("kto", {"beta": 0.3}), balance=(2.0, 0.5))
    same(ours(objective, found, model), wanted, network)


@pytest.mark.parametrize("name", ["simpo", "cpo", "orpo"])
def test_margins_without_a_reference_are_trls(name):
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    found, model = corpus(kto=False), toy_model().train()
    chosen, rejected = rows(found, 1), rows(found, 2)
    network = Network(model)
    sums = [network(s * t + (s - 1) * 100, t, m).log_probs.sum(1) for t, m, s, _ in (chosen, rejected)]
    if name != "cpo":
        sums = [total / batch[2].sum(1) for total, batch in zip(sums, (chosen, rejected), strict=True)]
    kind = ORPOTrainer if name == "orpo" else CPOTrainer
    one = kind.__new__(kind)
    fields = {"beta": 0.3, "alpha": 0.0, "label_smoothing": 0.0, "simpo_gamma": 0.5}
    fields |= {"loss_type": "simpo" if name == "simpo" else "sigmoid"}
    for field, value in (fields | {"accelerator": SimpleNamespace(device=torch.device("cpu"))}).items():
        setattr(one, field, value)
    wanted = -one.odds_ratio_loss(*sums)[0].mean() if name == "orpo" else one.cpo_loss(*sums)[0].mean()
    options = {"beta": 0.3, "sft": 0.0} | ({"gamma": 0.5} if name == "simpo" else {})
    same(ours(resolve(name, options), found, model), wanted, network)
