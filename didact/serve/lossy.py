"""A served model with weights of few bits, and what that costs."""

from collections.abc import Callable

from didact.data.pieces import cut
from didact.engine.evaluate import evaluate, scorer
from didact.engine.mesh import Mesh
from didact.model.encoder import positions
from didact.model.quantize import Bits, quantize
from didact.run.forgetting import general_text
from didact.run.named import Named

CONTEXT = 256
TOKENS = 1024  # of general text, read twice before serving


def shrink(named: Named, bits: Bits, say: Callable[[str], None]) -> None:
    """Quantizes a model in place, and says what general text costs it before and after."""
    model = named.model
    context = min(CONTEXT, positions(model.net.config))
    parts = cut([general_text(named.renderer, TOKENS)], context, "window")[0]
    mesh = Mesh(next(model.parameters()).device)

    def measured() -> float:
        return evaluate(model, scorer(model), parts, context, mesh).bits_per_byte

    before = measured()
    sizes = quantize(model.net, bits, model.net.get_output_embeddings())
    after = measured()
    small, large = (f"{size / 1e6:,.0f} MB" for size in reversed(sizes))
    rise = f"{after / before - 1:+.1%}"
    say(f"{bits}: general text takes {after:.3f} bits a byte, {before:.3f} before ({rise}); layers {small} of {large}")
