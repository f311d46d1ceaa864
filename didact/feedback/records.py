"""What the store keeps, field by field; everything has a bound, because it comes from a network."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, TypeAdapter, model_validator

LONGEST = 200_000  # characters of one text

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Text = Annotated[str, Field(max_length=LONGEST)]
Filled = Annotated[str, Field(min_length=1, max_length=LONGEST, pattern=r"\S")]
Name = Annotated[str, Field(max_length=300)]
Number = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
Scalar = str | int | float | bool | None


def _bounded(value: object) -> object:
    """Whole numbers beyond what a database or another language keeps exactly are refused."""
    if isinstance(value, int) and abs(value) >= 2**53:
        raise ValueError("this number is too large")
    if isinstance(value, str) and len(value) > 2000:
        raise ValueError("this text is too long")
    return value


Setting = Annotated[Scalar, BeforeValidator(_bounded)]


class Content(BaseModel):
    """Frozen, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Message(Content):
    """One turn of the prompt."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text


class Candidate(Content):
    """One answer: its text, and all that is known of how it was made. ``tokens`` counts the tokens of the answer."""

    text: Text
    model: Name = ""
    model_hash: Name = ""
    adapter_hash: Name = ""
    sampling: dict[Annotated[str, Field(max_length=60)], Setting] = Field(default_factory=dict, max_length=40)
    tokens: Number | None = None


class Passage(Content):
    """A retrieved text that the answer could stand on, and where it is from."""

    text: Text
    source: Name = ""
    heading: Name = ""
    score: FiniteFloat | None = None


Prompt = Annotated[tuple[Message, ...], Field(min_length=1, max_length=1000)]


class Exchange(Content):
    """A prompt and the answers to it that a person saw.

    ``shown`` holds the numbers of the candidates in the order they were shown, empty where that is not known,
    ``annotator`` is who asked, ``review`` the queue's item that the answers were made for, ``page`` the page's version.
    """

    type: Literal["exchange"] = "exchange"
    prompt: Prompt
    candidates: Annotated[tuple[Candidate, ...], Field(max_length=16)] = ()
    passages: Annotated[tuple[Passage, ...], Field(max_length=64)] = ()
    shown: Annotated[tuple[Number, ...], Field(max_length=16)] = ()
    conversation: Id | None = None
    annotator: Id | None = None
    review: Id | None = None
    page: Name = ""

    @model_validator(mode="after")
    def shown_once(self) -> "Exchange":
        """An order names each candidate once."""
        if self.shown and sorted(self.shown) != list(range(len(self.candidates))):
            raise ValueError(f"shown must name each of the {len(self.candidates)} candidates once")
        return self


class _Judged(Content):
    """What every judgement says; ``seconds`` is how long the person took, ``replaces`` the judgement it corrects."""

    type: Literal["judgement"] = "judgement"
    exchange: Id
    annotator: Id
    seconds: Annotated[float, Field(ge=0, le=1e7)] | None = None
    replaces: Id | None = None


class Thumb(_Judged):
    """Up or down, and perhaps why."""

    kind: Literal["thumb"] = "thumb"
    up: bool
    candidate: Number = 0
    reason: Annotated[str, Field(max_length=2000)] = ""


class Rating(_Judged):
    """One to five stars."""

    kind: Literal["rating"] = "rating"
    rating: Annotated[int, Field(ge=1, le=5, strict=True)]
    candidate: Number = 0
    reason: Annotated[str, Field(max_length=2000)] = ""


Group = Annotated[tuple[Number, ...], Field(min_length=1, max_length=16)]


class Ranking(_Judged):
    """The candidates in groups, the best group first; those of one group are equally good."""

    kind: Literal["ranking"] = "ranking"
    ranking: Annotated[tuple[Group, ...], Field(max_length=16)]

    @property
    def flat(self) -> list[int]:
        """All candidates named, the best first."""
        return [number for group in self.ranking for number in group]


class Edit(_Judged):
    """The text a person would rather have read, in place of a candidate or, where it is null, of none."""

    kind: Literal["edit"] = "edit"
    text: Filled
    candidate: Number | None = 0


class Skip(_Judged):
    """Seen and not judged."""

    kind: Literal["skip"] = "skip"


class Retraction(_Judged):
    """Takes back the judgement it replaces."""

    kind: Literal["retraction"] = "retraction"


class Review(Content):
    """An item of the review queue, to be judged ``wanted`` times: an exchange, or a prompt still without answers."""

    type: Literal["review"] = "review"
    prompt: Prompt | None = None
    exchange: Id | None = None
    wanted: Annotated[int, Field(ge=1, le=1000, strict=True)] = 1
    annotator: Id | None = None

    @model_validator(mode="after")
    def one_thing(self) -> "Review":
        """Either a prompt or an exchange is reviewed."""
        if (self.prompt is None) == (self.exchange is None):
            raise ValueError("wanted a prompt or an exchange")
        return self


class Forgotten(Content):
    """All that is left of a person who asked to be forgotten: how many records there were."""

    type: Literal["forgotten"] = "forgotten"
    count: Number


Judgement = Thumb | Rating | Ranking | Edit | Skip | Retraction
Record = Exchange | Judgement | Review | Forgotten
_ByKind = Annotated[Judgement, Field(discriminator="kind")]
_ByType = Annotated[Exchange | _ByKind | Review | Forgotten, Field(discriminator="type")]
RECORD: TypeAdapter[Record] = TypeAdapter(_ByType)
Key = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[ -~]+$")]


class Line(Content):
    """A record in a file: its id, when it came, the key of its request, and what it says."""

    id: Id
    time: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
    key: Key | None = None
    record: _ByType
