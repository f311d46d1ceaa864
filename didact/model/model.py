"""A transformers model as objectives and samplers see it: hidden states, and log-probabilities where they count."""

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
        return list({id(p): p for module in (*tables, head) for p in module.parameters()}.values())

    @property
    def bidirectional_prompt(self) -> bool:
        """Whether the model was trained to read a prompt in both directions; kept in its ``config.json``."""
        return getattr(self.net.config, "bidirectional_prompt", False)

    @bidirectional_prompt.setter
    def bidirectional_prompt(self, value: bool) -> None:
        if value != self.bidirectional_prompt:
            self.net.config.bidirectional_prompt = value

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states [B, T, D]; who sees whom is ``batch.doc`` and ``batch.reach``."""
        output: Any = self.body(
            input_ids=batch.token,
            position_ids=batch.position,
            sight=attention.Sight(batch.doc, batch.reach),
            use_cache=False,
        )
        return output.last_hidden_state

    def logprob(self, hidden: Tensor, target: Tensor, where: Tensor) -> Tensor:
        """Log-probability of ``target`` [B, T] where ``where`` [B, T] is not zero, fp32; 0 elsewhere.

        ``where`` is best the weight of the loss, which makes the head's gradient in the forward pass; see ``head``.
        """
        out = cast(Any, self.net.get_output_embeddings())
        softcap = getattr(self.net.config, "final_logit_softcapping", None)
        return head.logprob(hidden, out.weight, out.bias, target, where, softcap=softcap)

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
