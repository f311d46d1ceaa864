"""A transformers model as objectives and samplers see it: hidden states, and log-probabilities where they count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.model import attention, encoder, head
from didact.objective.base import Head
from didact.rng import mix

PROBE = (7, 5)  # tokens of the two documents on which a model is checked


class Model(nn.Module):
    """Wraps a language model of transformers; its weights stay ``net``'s, under their own names.

    ``encoder``: it was made to read text in both directions. A model without a head can be embedded and predicts
    nothing.
    """

    def __init__(self, net: PreTrainedModel):
        super().__init__()
        self.net = net
        self.encoder = encoder.encodes(net.config)
        self.first_position = encoder.first_position(net.config.model_type, net.config.pad_token_id)
        self.heads = nn.ModuleDict()  # an objective's own, by name; see ``heads``
        self.critic: Model | None = None  # a network of its own for what is expected; see ``value``
        self.everyone: Callable[[Tensor], Tensor] = _mine  # what gathers rows over processes; the engine sets it

    def add_heads(self, wanted: Mapping[str, int | Head], seed: int = 0) -> None:
        """Gives the model the linear heads it lacks, in fp32: zero at first unless a ``Head`` says otherwise."""
        body: Any = self.net.config.get_text_config()
        for name, given in wanted.items():
            if name not in self.heads:
                one = given if isinstance(given, Head) else Head(given)
                linear = nn.Linear(one.inputs or body.hidden_size, one.outputs)
                for weight in linear.parameters():
                    nn.init.zeros_(weight)
                if one.drawn:
                    generator = torch.Generator().manual_seed(mix(seed, *name.encode()))
                    nn.init.normal_(linear.weight, std=(linear.in_features + 1) ** -0.5, generator=generator)
                self.heads[name] = linear

    def head(self, name: str, hidden: Tensor) -> Tensor:
        """What the head ``name`` makes of hidden states [..., D] (or what it takes): fp32 [..., outputs].

        Raises UsageProblem where the model has no such head.
        """
        if name not in self.heads:
            raise UsageProblem(f"this model has no head {name!r}", remedy="train it with the objective that has it")
        linear = cast(nn.Linear, self.heads[name])
        return nn.functional.linear(hidden.float(), linear.weight.float(), linear.bias.float())

    def value(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """What is expected at each token, fp32 [B, T]: by the critic, or else the head ``value``.

        The head reads ``hidden``, which is made of the batch where it is not given.
        """
        if self.critic is not None:
            return self.critic.value(batch)
        return self.head("value", self.hidden(batch) if hidden is None else hidden)[..., 0]

    def add_critic(self, critic: Model) -> None:
        """Another network with a head ``value`` takes the place of this one's."""
        self.critic = critic
        if "value" in self.heads:
            del self.heads["value"]

    def gather(self, rows: Tensor) -> Tensor:
        """The rows [N, ...] of all processes, this one's first; gradients flow back to their owners."""
        return self.everyone(rows)

    @property
    def body(self) -> nn.Module:
        """The network without its head."""
        return cast(nn.Module, self.net.base_model)

    @property
    def layers(self) -> nn.ModuleList:
        """The stack of blocks: the longest module list."""
        lists = [module for module in self.body.modules() if isinstance(module, nn.ModuleList)]
        return max(lists, key=len)

    def depths(self) -> dict[str, int]:
        """How far up each parameter stands: 0 for embeddings, l in the l-th layer, one more for what is above."""
        layer = {id(p): number for number, one in enumerate(self.layers, 1) for p in one.parameters()}
        found, here = {}, 0
        for name, p in self.named_parameters():  # in the order the network applies them
            inside = layer.get(id(p), 0)
            here = inside or (len(self.layers) + 1 if here else 0)
            found[name] = here
        return found

    def outer(self) -> list[nn.Parameter]:
        """Parameters of the embeddings and the head: what Muon leaves to AdamW."""
        tables = [module for module in self.modules() if isinstance(module, nn.Embedding)]
        heads = [module.heads for module in self.modules() if isinstance(module, Model)]
        head = [cast(nn.Module, self.decoder)] if self.predicts else []
        return list({id(p): p for module in (*tables, *head, *heads) for p in module.parameters()}.values())

    @property
    def predicts(self) -> bool:
        """Whether the network has a head that predicts tokens."""
        return self.net.get_output_embeddings() is not None

    @property
    def decoder(self) -> Any:
        """The matrix (and bias) from hidden states to logits. Raises UsageProblem for a network without one."""
        if not self.predicts:
            what = f"{type(self.net).__name__} has no head that predicts tokens"
            raise UsageProblem(what, remedy="embed with it, or choose a checkpoint that was saved with its head")
        return self.net.get_output_embeddings()

    @property
    def writes(self) -> bool:
        """Whether it can write text, and its last training was to write."""
        return self.predicts and not self.encoder and self.served.get("writes", True)

    def check_writes(self) -> None:
        """Raises UsageProblem for a model that does not write text."""
        if not self.writes:
            why = "has no head that predicts tokens"
            if self.predicts:
                why = "reads text in both directions" if self.encoder else "was last trained to fill in or embed only"
            what = f"{type(self.net).__name__} {why}, so it cannot write"
            remedy = "embed or measure with it; to write, choose a causal language model, or train it as one"
            raise UsageProblem(what, remedy=remedy)

    @property
    def served(self) -> dict[str, Any]:
        """How the model is to be read, as its objectives say; kept in its ``config.json`` under ``didact``."""
        return dict(getattr(self.net.config, "didact", None) or {})

    @served.setter
    def served(self, value: Mapping[str, Any]) -> None:
        if value != self.served:
            self.net.config.didact = dict(value)

    @property
    def bidirectional_prompt(self) -> bool:
        """Whether the model was trained to read a prompt in both directions."""
        return bool(self.served.get("bidirectional_prompt"))

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states [B, T, D]; who sees whom is ``batch.doc`` and ``batch.reach``."""
        output: Any = self.body(
            input_ids=batch.token,
            position_ids=batch.position + self.first_position,
            sight=attention.Sight(batch.doc, batch.reach, batch.get("order")),
            use_cache=False,
        )
        return output.last_hidden_state

    def logprob(
        self,
        hidden: Tensor,
        target: Tensor,
        where: Tensor,
        *,
        smoothing: float = 0.0,
        z_loss: float = 0.0,
        never: int | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Log-probability of ``target`` [B, T] where ``where`` [B, T] is not zero, fp32; 0 elsewhere.

        It is that of drawing at ``temperature``. ``where`` is best the weight of the loss, which makes the head's
        gradient in the forward pass; see ``head``, also for ``smoothing`` and ``z_loss``. The id ``never`` has no
        chance.
        """
        out, between = self.decoder, encoder.between(self.net)
        softcap = getattr(self.net.config, "final_logit_softcapping", None)
        how: dict[str, Any] = {"softcap": softcap, "smoothing": smoothing, "z_loss": z_loss, "never": never}
        how["temperature"] = temperature
        score = partial(head.logprob, weight=out.weight, bias=out.bias, **how)
        if between is None:
            return score(hidden, target=target, where=where)
        index = where.flatten().nonzero()[:, 0]  # [N]
        picked = between(hidden.flatten(0, -2)[index])  # [N, D]
        found = score(picked, target=target.flatten()[index], where=where.flatten()[index])
        return found.new_zeros(where.numel()).index_copy(0, index, found).view(where.shape)

    def closeness(
        self, hidden: Tensor, target: Tensor, log_p: Tensor, where: Tensor, *, temperature: float = 1.0
    ) -> Tensor:
        """-KL of a teacher from this model where ``where`` [B, T] is not zero, fp32; 0 elsewhere.

        ``target`` [B, T, K] are the teacher's likeliest tokens, ``log_p`` [B, T, K] their log-probabilities at the
        same ``temperature``; see ``head``.
        """
        out = cast(Any, self.net.get_output_embeddings())
        softcap = getattr(self.net.config, "final_logit_softcapping", None)
        return head.closeness(
            hidden, out.weight, out.bias, target, log_p, where, softcap=softcap, temperature=temperature
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of every hidden state given, [..., V]: for sampling, where they are few."""
        between = encoder.between(self.net)
        logits = self.decoder(hidden if between is None else between(hidden))
        softcap = getattr(self.net.config, "final_logit_softcapping", None)
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    @torch.no_grad()
    def check(self) -> None:
        """Holds ``hidden`` and ``logprob`` on two documents in a row against the network's own forward on each.

        Raises UsageProblem for an architecture that does something else between its last hidden state and its
        logits (a scale, a second norm), or whose attention cannot be expressed; better now than trained wrong.
        """
        batch = self._probe()
        training, implementation = self.net.training, str(self.net.config._attn_implementation)
        self.net.eval()
        try:
            hidden = self.hidden(batch)
            self.net.set_attn_implementation("eager")
            parts = [self.net(input_ids=token, use_cache=False) for token in batch.token.split(PROBE, 1)]
        finally:
            self.net.set_attn_implementation(implementation)
            self.net.train(training)
        if self.predicts:
            ours = self.logprob(hidden, batch.token, torch.ones_like(batch.token, dtype=torch.float32))
            theirs = torch.cat([part.logits for part in parts], 1).float().log_softmax(-1)
            theirs, where = theirs.gather(-1, batch.token[..., None])[..., 0], "between hidden states and logits"
        else:
            ours, where = hidden.float(), "up to its hidden states"
            theirs = torch.cat([part.last_hidden_state for part in parts], 1).float()
        error = (ours - theirs).abs().max().item()
        if not error < (2e-2 if self.net.dtype == ours.dtype else 0.3):  # bf16 rounds the two paths differently
            raise UsageProblem(
                f"{type(self.net).__name__} does more {where} than Didact reproduces (they differ by {error:.2g})",
                remedy="choose another base model",
            )

    def _probe(self) -> Batch:
        """Two documents in one row, no token of which is padding."""
        config, device = self.net.config.get_text_config(), next(self.net.parameters()).device
        table: Any = self.net.get_input_embeddings()
        index = torch.arange(sum(PROBE), device=device)[None]
        token = (index * 7919 + 13) % table.weight.shape[0]  # [1, 12]
        token = (token + (token == config.pad_token_id)) % table.weight.shape[0]
        doc = (index >= PROBE[0]).long()
        last = PROBE[0] - 1 + doc * PROBE[1]
        return Batch(
            {
                "token": token,
                "position": index - doc * PROBE[0],
                "doc": doc,
                "reach": last if self.encoder else index,
            }
        )


def _mine(rows: Tensor) -> Tensor:
    """The rows of all processes where there is but this one."""
    return rows
