"""What a client may ask, every number with its bounds; OpenAI's names and meanings."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator, model_validator

from didact.feedback.records import Id

SEEDS = 1 << 63  # seeds there are, as many as ``mix`` makes and a signed number of 64 bits holds
MOST = 1 << 20  # no request may ask for more tokens than this; the model's context decides
ANSWERS, STOPS, LIKELIEST, TEXTS, MESSAGES = 8, 4, 20, 256, 1024

Finite = Annotated[float, Field(allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class Body(BaseModel):
    """The base: an argument nobody knows is a mistake, as with OpenAI; so is half a character, which JSON can say."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _whole_characters(cls, value: Any) -> Any:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("there is half a character in a text") from None
        return value


class Loose(BaseModel):
    """Parts of a request whose further fields are the client's own."""

    model_config = ConfigDict(extra="allow")


class Part(Loose):
    """A part of a message's content."""

    type: str
    text: str | None = None


class Function(Loose):
    """A call the assistant made; ``arguments`` are JSON in a string."""

    name: str = Field(min_length=1, max_length=256)
    arguments: str = "{}"


class Call(Loose):
    """A tool call in the history."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: Function


class Said(Loose):
    """A message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = Field(default=None, max_length=128)
    tool_call_id: str | None = None


class Described(Loose):
    """A function the model may call."""

    name: str = Field(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_.-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Loose):
    """A tool the model may call."""

    type: Literal["function"]
    function: Described


class JsonSchema(Loose):
    """A named JSON schema."""

    name: str = Field(default="answer", max_length=64)
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class Format(Body):
    """What an answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Loose):
    """What a stream tells besides."""

    include_usage: StrictBool = False


class Didact(Body):
    """What is Didact's own: recording an exchange for the feedback store, and retrieval."""

    record: StrictBool = False
    retrieve: StrictBool = True
    annotator: Id | None = None
    conversation: Id | None = None
    page: str | None = Field(default=None, max_length=64, description="version of the page that asks")


class Sampled(Body):
    """What every request that samples may say."""

    model: str | None = Field(default=None, max_length=256)
    stream: StrictBool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=1, ge=1, le=ANSWERS)
    seed: int | None = Field(default=None, ge=-SEEDS, lt=SEEDS)
    stop: Stop | Annotated[list[Stop], Field(max_length=STOPS)] | None = None
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    top_p: Finite | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1, le=MOST)
    presence_penalty: Finite | None = Field(default=0, ge=-2, le=2)
    frequency_penalty: Finite | None = Field(default=0, ge=-2, le=2)
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Bias] | None = Field(default=None, max_length=1024)
    top_k: int | None = Field(default=None, ge=-1, le=MOST)
    min_p: Finite | None = Field(default=None, ge=0, le=1)
    repetition_penalty: Finite | None = Field(default=None, ge=0.1, le=10)
    user: str | None = Field(default=None, max_length=1024)

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatAsked(Sampled):
    """``/v1/chat/completions``. What OpenAI documents and has no meaning here is accepted and changes nothing."""

    messages: list[Said] = Field(min_length=1, max_length=MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MOST)
    logprobs: StrictBool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=LIKELIEST)
    response_format: Format | None = None
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    didact: Didact = Field(default_factory=Didact)
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def dialogue(self) -> list[dict[str, Any]]:
        """The messages as templates read them: content as text, arguments as what their JSON says."""
        return [_plain(message) for message in self.messages]


Given = (
    str
    | Annotated[list[str], Field(min_length=1, max_length=TEXTS)]
    | Annotated[list[Token], Field(min_length=1, max_length=MOST)]
    | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1, max_length=TEXTS)]
)
"""A text or several, each as it is or as token ids."""


class TextAsked(Sampled):
    """``/v1/completions``."""

    prompt: Given
    echo: StrictBool | None = False
    logprobs: int | None = Field(default=None, ge=0, le=LIKELIEST)
    best_of: int | None = Field(default=None, ge=1, le=ANSWERS)
    suffix: None = None
    return_token_ids: StrictBool | None = Field(
        default=False, description="each choice has its token_ids; these and logprobs then hold the stop token, too"
    )


class VectorsAsked(Body):
    """``/v1/embeddings``."""

    input: Given
    model: str | None = Field(default=None, max_length=256)
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(default=None, ge=1, le=MOST)
    role: Literal["query", "document"] = "document"
    user: str | None = Field(default=None, max_length=1024)

    @field_validator("input")
    @classmethod
    def _said(cls, value: Any) -> Any:
        if value == "" or (isinstance(value, list) and "" in value):
            raise ValueError("a text to embed may not be empty")
        return value


def _plain(message: Said) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": text_of(message)}
    if message.name:
        plain["name"] = message.name
    if message.tool_call_id:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [_call(call) for call in message.tool_calls]
    return plain


def _call(call: Call) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments)
        json.dumps(arguments, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        arguments = call.function.arguments  # what a model wrote that is not JSON
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def text_of(message: Said) -> str:
    """The text of a message; ValueError for parts of other kinds."""
    if not isinstance(message.content, list):
        return message.content or ""
    odd = [part.type for part in message.content if part.type != "text" or part.text is None]
    if odd:
        raise ValueError(f"this model reads text, not {odd[0]}")
    return "".join(part.text or "" for part in message.content)
