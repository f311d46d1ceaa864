"""A transformers model as objectives and samplers see it: hidden states, and log-probabilities where they count."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from didact.batch import Batch
from didact.errors import UsageProblem
from didact.model import attention, head


class Model(nn.Module):
    """Wraps a causal language model of transformers; its weights stay ``net``'s, under their own names."""

    def __init__(self, net: PreTrainedModel):
        super().__init__()
        self.net = net
        self.heads = nn.ModuleDict()  # an objective's own, by name; saved beside the network
        self.everyone: Callable[[Tensor], Tensor] = _mine  # what gathers rows over processes; the engine sets it

    def add_heads(self, outputs: Mapping[str, int]) -> None:
        """Gives the model the linear heads it lacks, zero at first, in fp32."""
        body: Any = self.net.config.get_text_config()
        for name, count in outputs.items():
            if name not in self.heads:
                linear = nn.Linear(body.hidden_size, count)
                for weight in linear.parameters():
                    nn.init.zeros_(weight)
                self.heads[name] = linear

    def head(self, name: str, hidden: Tensor) -> Tensor:
        """What the head ``name`` makes of hidden states [..., D]: fp32 [..., outputs]."""
        linear = cast(nn.Linear, self.heads[name])
        return nn.functional.linear(hidden.float(), linear.weight.float(), linear.bias.float())

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

    def outer(self) -> list[nn.Parameter]:
        """Parameters of the embeddings and the head: what Muon leaves to AdamW."""
        tables = [module for module in self.net.modules() if isinstance(module, nn.Embedding)]
        head = cast(nn.Module, self.net.get_output_embeddings())
        return list({id(p): p for module in (*tables, head, self.heads) for p in module.parameters()}.values())

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
            position_ids=batch.position,
            sight=attention.Sight(batch.doc, batch.reach),
            use_cache=False,
        )
        return output.last_hidden_state

    def logprob(
        self, hidden: Tensor, target: Tensor, where: Tensor, *, smoothing: float = 0.0, z_loss: float = 0.0
    ) -> Tensor:
        """Log-probability of ``target`` [B, T] where ``where`` [B, T] is not zero, fp32; 0 elsewhere.

        ``where`` is best the weight of the loss, which makes the head's gradient in the forward pass; see ``head``,
        also for ``smoothing`` and ``z_loss``.
        """
        out = cast(Any, self.net.get_output_embeddings())
        softcap = getattr(self.net.config, "final_logit_softcapping", None)
        return head.logprob(
            hidden, out.weight, out.bias, target, where, softcap=softcap, smoothing=smoothing, z_loss=z_loss
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of every hidden state given, [..., V]: for sampling, where they are few."""
        logits = cast(nn.Module, self.net.get_output_embeddings())(hidden)
        softcap = getattr(self.net.config, "final_logit_softcapping", None)
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    @torch.no_grad()
    def check(self) -> None:
        """Holds ``hidden`` and ``logprob`` against the network's own forward on a few tokens.

        Raises UsageProblem for an architecture that does something else between its last hidden state and its
        logits (a scale, a second norm), or whose attention cannot be expressed; better now than trained wrong.
        """
        vocabulary = cast(Any, self.net.get_output_embeddings()).weight.shape[0]
        device = next(self.net.parameters()).device
        token = (torch.arange(12, device=device)[None] * 7919 + 13) % vocabulary  # [1, 12]
        index = torch.arange(12, device=device)[None]
        batch = Batch({"token": token, "position": index, "doc": torch.zeros_like(index), "reach": index})
        training, implementation = self.net.training, str(self.net.config._attn_implementation)
        self.net.eval()
        try:
            ours = self.logprob(self.hidden(batch), token, torch.ones_like(token, dtype=torch.float32))
            self.net.set_attn_implementation("eager")
            theirs = self.net(input_ids=token, use_cache=False).logits.float().log_softmax(-1)
        finally:
            self.net.set_attn_implementation(implementation)
            self.net.train(training)
        error = (ours - theirs.gather(-1, token[..., None])[..., 0]).abs().max().item()
        if not error < (2e-2 if ours.dtype == self.net.dtype else 0.3):  # bf16 rounds the two paths differently
            raise UsageProblem(
                f"{type(self.net).__name__} does more between hidden states and logits than Didact reproduces "
                f"(log-probabilities differ by {error:.2g})",
                remedy="choose another base model",
            )


def _mine(rows: Tensor) -> Tensor:
    """The rows of all processes where there is but this one."""
    return rows
