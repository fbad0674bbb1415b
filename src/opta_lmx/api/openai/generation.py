"""What chat and text completions ask alike: the fields, and what they mean to the engine."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from opta_lmx.api.fields import (
    MAX_INT32,
    MinP,
    ModelName,
    Penalty,
    Positive,
    Repetition,
    Seed,
    Share,
    Temperature,
    TopK,
    WireModel,
    only,
)
from opta_lmx.api.values import LogitBias, StopStrings
from opta_lmx.core.errors import invalid
from opta_lmx.core.types import SamplingParams

DEFAULT_MAX_CHOICES = 16
STAY = "As LM Studio has it: seconds the model may be idle from now on, then it is unloaded."
Stay = Annotated[int, Field(ge=0, le=MAX_INT32)]
"""Seconds; read at the first gate, by `Calls`."""


class StreamOptions(WireModel):
    """Options of a streamed answer."""

    include_usage: bool | None = Field(
        None, description="Send exact token counts in a last chunk without choices."
    )
    include_obfuscation: Annotated[Any, only(False)] = Field(
        None, description="No padding is ever sent: only false is accepted."
    )


class GenerationFields(WireModel):
    """The fields that both requests have."""

    model: ModelName
    ttl: Stay | None = Field(None, description=STAY)
    n: Positive | None = Field(None, description="Answers to each prompt, side by side.")
    stream: bool | None = None
    stream_options: StreamOptions | None = Field(None, description="Only with `stream: true`.")

    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: TopK | None = Field(
        None, description="Extension: draw from the k likeliest tokens; 0 means all."
    )
    min_p: MinP | None = Field(
        None, description="Extension: drop tokens below this share of the likeliest one's."
    )
    seed: Seed | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = Field(
        None, description="Extension: above 1 makes tokens of prompt and answer less likely."
    )
    logit_bias: LogitBias | None = Field(
        None, description="Token ids (as strings) with what is added to their logits."
    )
    stop: StopStrings | None = Field(
        None, description="A string or up to four; the answer ends before the first met."
    )
    user: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="Names the client within its key, where no header does."
    )


def sampling(fields: GenerationFields) -> SamplingParams:
    """How tokens are to be drawn; None leaves a value to the model's defaults."""
    return SamplingParams(
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        min_p=fields.min_p,
        seed=fields.seed,
        frequency_penalty=fields.frequency_penalty,
        presence_penalty=fields.presence_penalty,
        repetition_penalty=fields.repetition_penalty,
    )


def wants_usage(fields: GenerationFields) -> bool:
    """Whether a stream is to end with its token counts.

    Raises:
        LmxError: INVALID_REQUEST; there are `stream_options`, but no stream.
    """
    if fields.stream_options is None:
        return False
    if not fields.stream:
        raise invalid("'stream_options' needs 'stream' to be true.", param="stream_options")
    return bool(fields.stream_options.include_usage)
