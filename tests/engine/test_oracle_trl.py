"""Law 7: loss and gradient of fine-tuning are those of TRL, from the same conversations as text.

Both sides render, mask and batch for themselves; ours packs what TRL pads or flattens.
"""

import os

import numpy as np
import pytest
import torch

from didact.data.corpus import Corpus
from didact.data.pieces import cut
from didact.data.stream import TokenStream
from didact.engine.mesh import Mesh
from didact.engine.step import Task, take_step
from didact.objective.tokens import Causal
from didact.rng import Rng
from tests.text.styles import assistant, styled, system, user
from tests.toy import toy_model

os.environ["HF_HUB_OFFLINE"] = "1"
trl = pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONTEXT = 240
QUESTIONS = ("What is a cat?", "And a mat?", "def f(x):\n    return x + 1", "日本語 " * 9, "Why? " * 20)
ANSWERS = ("An animal.", "The cat sat on the mat. " * 4, "f", "Ünïcode and 😀. " * 5, "Because x = 1\n\nand so on")
FORMS = {"assistant": "chatml with generation marks", "completion": "llama3"}


def conversations(turns: int) -> list[list[dict]]:
    """Ragged conversations of one to ``turns`` exchanges, some opened by a system message."""
    made = []
    for number in range(7):
        exchanges = [
            turn
            for i in range(1 + number % turns)
            for turn in (user(QUESTIONS[(number + i) % 5]), assistant(ANSWERS[(2 * number + i) % 5]))
        ]
        made.append([system("Be short."), *exchanges] if number % 3 == 0 else exchanges)
    return made


def records(form: str) -> list[dict]:
    """As TRL wants them: whole conversations, or a prompt and its completion."""
    if form == "assistant":
        return [{"messages": messages} for messages in conversations(turns=3)]
    return [{"prompt": messages[:-1], "completion": messages[-1:]} for messages in conversations(turns=1)]


def ours(model, renderer, form: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step over packed rows, in micro-batches of one row."""
    whole = [one.get("messages") or one["prompt"] + one["completion"] for one in records(form)]
    rendered = [renderer.conversation(messages) for messages in whole]
    lengths = [len(one.tokens) for one in rendered]
    assert max(lengths) <= CONTEXT, "a conversation would be cut, which TRL does not do here"
    corpus = Corpus(
        np.concatenate([one.tokens for one in rendered]).astype(np.int32),
        np.concatenate([one.trained for one in rendered]),
        np.cumsum([0, *lengths]),
        np.array(lengths),
    )
    parts = cut([corpus], CONTEXT, "window")[0]
    rows = len(TokenStream(parts, CONTEXT, 1, seed=0).epoch(0))
    assert 1 < rows < len(lengths), "nothing is packed, or everything in one row: a weaker test than it says"
    stream = TokenStream(parts, CONTEXT, rows, seed=0)
    tasks = [Task("sft", Causal(), stream.start(0))]
    step = take_step(model, tasks, Mesh(torch.device("cpu")), Rng(0, 0), micro_rows=1)
    return step.total(tasks), {name: p.grad for name, p in model.net.named_parameters()}


def theirs(model, renderer, form: str, folder, **settings) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one training step of SFTTrainer on all records."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_config(model.net.config, dtype=torch.float32, attn_implementation="sdpa")
    net.load_state_dict(model.net.state_dict())
    data = records(form)
    trainer = trl.SFTTrainer(
        net,
        trl.SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=len(data),
            assistant_only_loss=form == "assistant",
            gradient_checkpointing=False,
            max_length=None,
            bf16=False,
            use_cpu=True,
            report_to="none",
            **settings,
        ),
        train_dataset=Dataset.from_list(data),
        processing_class=renderer.tokenizer,
    )
    trainer.create_optimizer()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.training_step(trainer.model, batch, (batch["labels"] != -100).sum())
    return float(loss), {name: p.grad for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding-free"])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_loss_and_gradient_are_those_of_trl(form, padding_free, tmp_path):
    renderer = styled(FORMS[form])
    vocabulary = max(renderer.tokenizer.get_vocab().values()) + 1
    model = toy_model(vocab_size=vocabulary, pad_token_id=None).train()
    loss, gradient = ours(model, renderer, form)
    expected, expected_gradient = theirs(model, renderer, form, tmp_path, padding_free=padding_free)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert gradient.keys() == expected_gradient.keys()
    for name, value in gradient.items():
        torch.testing.assert_close(
            value, expected_gradient[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
