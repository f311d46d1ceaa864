"""How to sample."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from didact.settings import Settings


class Sampling(Settings):
    """One way to draw completions. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 leave all tokens in."""

    max_new_tokens: int = Field(default=256, gt=0)
    temperature: float = Field(default=0.7, ge=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1, description="least probability, as a share of the likeliest")
    repetition_penalty: float = Field(default=1.0, gt=0)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="strings that end a completion; they are not part of it"
    )
    steps: int = Field(default=0, ge=0, description="text diffusion: passes of an answer; 0 for one a token")
    block: int = Field(default=0, ge=0, description="text diffusion: tokens written before the next; 0 for all at once")
    guidance: float = Field(default=0.0, ge=0, description="text diffusion: how far to lead away from no prompt")
    remasking: Literal["low_confidence", "random"] = Field(
        default="low_confidence", description="text diffusion: what a pass keeps"
    )
    seed: int = 0


class Rollout(Settings):
    """How a model answers while it learns from its answers.

    A phase is ``prompts`` prompts with ``group`` answers each, and what is learned from them in ``epochs`` passes, a
    step's prompts at a time. Nothing but the ``temperature`` stands between the model's probabilities and its answers:
    what is learned must be what was drawn. With ``url`` the answers come from what an OpenAI-compatible server calls
    ``model``, whose key is in DIDACT_ROLLOUT_KEY; with ``push`` it gets each phase's weights, by way of ``folder``.
    """

    group: int = Field(default=8, gt=0, description="answers to a prompt")
    prompts: int | None = Field(default=None, gt=0, description="of a phase; batch_size unless given")
    epochs: int = Field(default=1, gt=0, description="passes over the answers of a phase")
    max_new_tokens: int = Field(default=256, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    slots: int = Field(default=32, gt=0, description="answers written at once")
    environment: str = Field(default="", description="what answers the model: calculator, or my_module:MyEnvironment")
    turns: int = Field(default=4, gt=0, description="answers of an episode in an environment, at most")
    url: str | None = Field(
        default=None, description="of an engine that answers in the model's place, such as http://localhost:8000/v1"
    )
    model: str = Field(default="", description="what the engine calls the model")
    push: Literal["didact", "vllm", "sglang"] | None = Field(
        default=None, description="whose way of loading weights the engine knows; without it keeps those it has"
    )
    folder: str | None = Field(
        default=None, description="where the weights are written, which the engine reads under the same path"
    )

    @model_validator(mode="after")
    def reachable(self) -> Self:
        """An engine has a name for its model, and says log-probabilities before temperature."""
        if (self.url is None) != (self.model == ""):
            raise ValueError("'url' and 'model' belong together; as in {url: http://localhost:8000/v1, model: mine}")
        if (self.push is None) != (self.folder is None):
            raise ValueError("'push' and 'folder' belong together; as in {push: vllm, folder: /shared/policies}")
        if self.push and not self.url:
            raise ValueError("'push' sends weights to an engine; give its 'url' and 'model', too")
        if self.url and self.temperature != 1:
            raise ValueError("an engine says log-probabilities before temperature; leave 'temperature' at 1 with 'url'")
        return self
