"""What a model call is made of, independent of any dialect or engine."""

from typing import Any, Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled"]


class ToolCall(msgspec.Struct, frozen=True):
    """One call of a tool by the assistant; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True):
    """One turn after normalisation: `developer` became `system`, list content became text."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class Tool(msgspec.Struct, frozen=True):
    """A function the model may call; `parameters` is its JSON Schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}


class SamplingParams(msgspec.Struct, frozen=True):
    """How the next token is drawn; `None` means "not said", filled by `resolve`.

    `temperature` 0 is greedy; `top_k` 0 means no limit; `seed` makes draws repeatable.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None

    def resolve(self, *fallbacks: "SamplingParams") -> "SamplingParams":
        """Fill unset fields from `fallbacks`, the first one that says a value winning."""
        values = msgspec.structs.asdict(self)
        for layer in fallbacks:
            for name, value in msgspec.structs.asdict(layer).items():
                if values[name] is None:
                    values[name] = value
        return SamplingParams(**values)


DEFAULT_SAMPLING = SamplingParams(temperature=0.7, top_p=1.0, top_k=0, min_p=0.05)
"""Ours, last in the order request > preset > generation_config > ours.

OpenClaw sends no temperature, and small quantised models ramble at OpenAI's 1.0.
"""


class Prompt(msgspec.Struct, frozen=True):
    """What is to be continued: chat `messages` (rendered by the template), or `text`, or `ids`."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    template_kwargs: dict[str, Any] = {}
    text: str | None = None
    ids: tuple[int, ...] | None = None


class GenerationRequest(msgspec.Struct, frozen=True):
    """One model call, whatever dialect it came in.

    `max_tokens` None means "as far as the context allows". `top_logprobs` None means no
    logprobs; 0 means the chosen token's only. `cache_key` groups requests of one session.
    """

    model: str
    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    cache_key: str | None = None
    user: str | None = None


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One alternative at a position: token id, natural-log probability, and its bytes."""

    id: int
    logprob: float
    piece: bytes


class TokenEvent(msgspec.Struct, frozen=True):
    """One generated token. `piece` may be an incomplete UTF-8 sequence, or empty."""

    index: int
    id: int
    piece: bytes
    logprob: float | None = None
    top: tuple[TopLogprob, ...] | None = None


class Usage(msgspec.Struct, frozen=True):
    """Exact token counts; `cached_tokens` is the part of the prompt that was not recomputed."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Accepted(msgspec.Struct, frozen=True):
    """First event of a call: it passed every gate, and this is what the model made of it."""

    model: str
    prompt_tokens: int
    max_tokens: int
    tool_dialect: str


class Finished(msgspec.Struct, frozen=True):
    """Last event of a call."""

    reason: FinishReason
    usage: Usage


ServingEvent = Accepted | TokenEvent | Finished
