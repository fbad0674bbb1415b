"""Anthropic's messages request on the wire: every field has a stated meaning or is refused.

`messages` and the blocks of `system` stay raw here: `blocks` checks them one by one and names
what is wrong by position.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from opta_lmx.api.fields import (
    MAX_INT32,
    OTHER,
    TEXT,
    ModelName,
    Positive,
    Share,
    WireModel,
    only,
    text_or_other,
)
from opta_lmx.api.values import ObjectSchema, StopString, ToolName

MAX_TOOLS = 256
MAX_STOPS = 64
MIN_THINKING_BUDGET = 1024

TextOrBlocks = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[Any], Tag(OTHER)], Discriminator(text_or_other)
]
"""A string, or blocks that stay raw."""


class CacheControl(WireModel):
    """A hint: what a prompt holds up to the end of its block will be sent again.

    After a tool's definition or a call it says nothing new: turns end there.
    """

    type: Annotated[str, only("ephemeral")]
    ttl: Literal["5m", "1h"] | None = None


class Cacheable(WireModel):
    """Whatever may carry a cache mark."""

    cache_control: CacheControl | None = None


class Tool(Cacheable):
    """A tool the client runs; tools that Anthropic's servers run are refused."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: ObjectSchema = Field(description="JSON Schema of the input: an object.")
    strict: bool | None = Field(
        None, description="Hold the input to the schema while it is generated."
    )
    input_examples: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = Field(
        None, description="Shown to the model below the description."
    )
    eager_input_streaming: bool | None = Field(
        None, description="Input is streamed as it is generated, whichever is said."
    )
    defer_loading: Annotated[Any, only(False)] = Field(
        None, description="There is no tool search: only false is accepted."
    )
    allowed_callers: Annotated[Any, only(["direct"])] = Field(
        None, description="Only the model itself calls tools."
    )


class ToolChoice(WireModel):
    """Whether tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, description="Only with `type: tool`.")
    disable_parallel_tool_use: bool | None = Field(
        None, description="True: the answer ends after its first call."
    )


class Thinking(WireModel):
    """Given to the chat template as `enable_thinking`; templates that do not know it ignore it."""

    type: Annotated[str, only("enabled", "disabled", "adaptive")]
    budget_tokens: Annotated[int, Field(ge=MIN_THINKING_BUDGET, le=MAX_INT32)] | None = Field(
        None,
        description="Given to the chat template as `thinking_budget`; below `max_tokens`, which "
        "bounds thinking and answer together.",
    )
    display: Literal["summarized", "omitted"] | None = Field(
        None, description="Thinking comes whole, or `omitted`: inside its block's signature only."
    )


class OutputFormat(WireModel):
    """The answer's text is JSON of this schema."""

    type: Annotated[str, only("json_schema")]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(WireModel):
    """How the answer is written."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="Given to the chat template as `reasoning_effort`."
    )
    format: OutputFormat | None = None


class Metadata(WireModel):
    """Who asks."""

    user_id: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="Names the client within its key, where no header does."
    )


class PromptRequest(Cacheable):
    """What decides the prompt: body of `POST /v1/messages/count_tokens`."""

    model: ModelName
    messages: list[Any] = Field(description="The conversation, ending with a user's turn.")
    system: TextOrBlocks | None = Field(None, description="A string, or text blocks.")
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = Field(
        None, description="`none` leaves the tools out of the prompt."
    )
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = Field(
        None, description="Older name of `output_config.format`, which wins over it."
    )
    speed: Annotated[Any, only("standard")] = Field(None, description="There is one speed.")

    # Known to Anthropic's API, not to this server: only values that ask for nothing pass.
    container: Annotated[Any, only()] = None
    context_management: Annotated[Any, only()] = None
    diagnostics: Annotated[Any, only()] = None
    inference_geo: Annotated[Any, only()] = None
    mcp_servers: Annotated[Any, only([])] = None
    billing_policy: Annotated[Any, only()] = None
    compaction: Annotated[Any, only()] = None
    fallback_credit_token: Annotated[Any, only()] = None
    fallbacks: Annotated[Any, only([])] = None
    thread: Annotated[Any, only()] = None
    n: Annotated[Any, only()] = Field(None, description="There is one answer.")


class MessagesRequest(PromptRequest):
    """Body of `POST /v1/messages`."""

    max_tokens: Positive = Field(
        description="Bound on generated tokens; beyond the model's window it ends there."
    )
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = Field(
        None, description="Draw from the k likeliest tokens; 0 means all."
    )
    stop_sequences: (
        Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | None
    ) = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = Field(
        None, description="There is one tier, and both words mean it."
    )


# --- blocks of messages ----------------------------------------------------------------------


class TextBlock(Cacheable):
    """Text."""

    type: str
    text: str
    citations: Annotated[Any, only([])] = None


class ThinkingBlock(WireModel):
    """Thinking of an earlier answer. Its signature is not checked: any model's may be replayed."""

    type: str
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(WireModel):
    """Thinking that only its maker can read: nothing of it reaches the prompt."""

    type: str
    data: str


class Caller(WireModel):
    """Who called: always the model."""

    type: Annotated[str, only("direct")]


class ToolUseBlock(Cacheable):
    """A call of an earlier answer."""

    type: str
    id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    input: dict[str, Any]
    caller: Caller | None = None
    toolset_name: Annotated[Any, only()] = None


class ToolResultBlock(Cacheable):
    """What a call gave; its blocks stay raw."""

    type: str
    tool_use_id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    content: TextOrBlocks | None = None
    is_error: bool | None = Field(None, description="True: `Error: ` is put before the text.")
    toolset_name: Annotated[Any, only()] = None


class PlainText(WireModel):
    """A document's text."""

    type: str
    media_type: Annotated[str, only("text/plain")]
    data: str


class Citations(WireModel):
    """The model does not cite."""

    enabled: Annotated[bool, only(False)] = False


class TextDocumentBlock(Cacheable):
    """A document of plain text, put into the prompt below its title and context."""

    type: str
    source: PlainText
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None


class Turn(WireModel):
    """One message; its blocks stay raw."""

    role: Literal["user", "assistant", "system"]
    content: TextOrBlocks
