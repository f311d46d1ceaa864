"""The stage in which simulated people judge answers, so that a recipe that learns from people runs without any."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from didact.data.settings import Data
from didact.feedback.tastes import FEATURES, SAYS, known
from didact.recipe.stage import Stage, misplaced

WARMEST = 2.0  # in OpenAI's interface
FORMS = {"thumb": ("thumbs",), "rating": ("ratings",), "ranking": ("rankings", "preferences")}


def _taste(name: str) -> str:
    if not known(name):
        raise ValueError(f"a taste is one of {', '.join(FEATURES)} or {SAYS}WORD, got {name[:40]!r}")
    return name


class Crowd(Stage):
    """Lets simulated people with known tastes judge what the model so far answers, as people would on the page.

    ``data`` are conversations, whose questions the model answers, or prompts with answers, which are judged as they
    are. What an answer is worth to a member is the sum of ``tastes``: ``length`` (doublings of 32 words), ``polite``,
    ``code``, ``correct`` (its words against those of the data's own answer) and ``says:WORD``. Leaves what was said as
    data (``thumbs``, ``ratings``, ``rankings``, ``preferences``) and as a ``store``; the same with ``.heldout`` of
    members and prompts of which the others never hear; their ``prompts``; and who the ``people`` are.

    With ``serve`` the model is served as by ``didact serve``, with ``index`` to answer from where one is named, and the
    members ask and judge over HTTP as the page does; without, what they say is written straight into the store.
    """

    kind = "crowd"
    incidental = Stage.incidental | {"batch_size"}
    also = frozenset({".sqlite", ".url"})
    data: Data
    tastes: dict[Annotated[str, AfterValidator(_taste)], float] = Field(min_length=1)
    members: int = Field(default=12, ge=1, le=1000)
    heldout: int = Field(default=4, ge=0, le=1000, description="members besides, who judge what is held out")
    spread: float = Field(default=0.3, ge=0, description="deviation of a member's taste from the crowd's")
    error: float = Field(default=0.1, ge=0, le=0.5, description="share of judgements made at random, on average")
    first: float = Field(default=0.1, ge=0, description="what being shown first is worth, in deviations, on average")
    judgements: tuple[Literal["thumb", "rating", "ranking"], ...] = Field(
        default=("thumb", "rating", "ranking"), min_length=1, description="what each member says of each prompt"
    )
    each: int = Field(default=3, ge=1, description="members who judge a prompt")
    answers: int = Field(default=4, ge=2, le=16, description="of the model to a prompt")
    holdout: float = Field(default=0.2, ge=0, lt=1, description="share of prompts that held-out members judge")
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=64, gt=0)
    serve: bool = Field(default=False, description="ask and judge over HTTP, through a server")
    index: Data | None = Field(default=None, description="what the served model answers from, such as index/index")
    batch_size: int = Field(default=16, gt=0, description="answers written at once")

    @model_validator(mode="after")
    def held_out_together(self) -> "Crowd":
        """Held-out prompts are for held-out members."""
        if bool(self.heldout) != bool(self.holdout):
            raise misplaced("held-out members judge held-out prompts: give heldout and holdout, or neither", "heldout")
        if self.each > self.members:
            raise misplaced(f"{self.each} members cannot judge each prompt, there are {self.members}", "each")
        if len(set(self.judgements)) < len(self.judgements):
            raise misplaced("a kind of judgement is named twice", "judgements")
        return self

    @model_validator(mode="after")
    def served_so(self) -> "Crowd":
        """What a server can be asked."""
        if self.index and not self.serve:
            raise misplaced("only a served model answers from an index: say serve: true, or leave index out", "index")
        if self.index and len(self.index.sources) != 1:
            raise misplaced("name one index, such as index/index", "index")
        if self.serve and self.temperature > WARMEST:
            raise misplaced(f"a server takes a temperature of {WARMEST} at most", "temperature")
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """What was said in each form, the store it is in, the prompts and the people; and what is held out of each."""
        names = ("store", *(form for kind in self.judgements for form in FORMS[kind]), "prompts", "people")
        return (*names, *(f"{name}.heldout" for name in names)) if self.heldout else names
