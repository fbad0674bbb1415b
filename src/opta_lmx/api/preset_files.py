"""What a preset's file may hold, under the rules that requests are held to."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from opta_lmx.api.fields import (
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
    validated,
)
from opta_lmx.api.json_body import MAX_DEPTH, check_tree
from opta_lmx.api.values import Effort, StopStrings, TemplateKwargs, effort_kwargs
from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.core.types import SamplingParams
from opta_lmx.models.names import split_ref
from opta_lmx.models.presets import PREFIX, Preset


class PresetParameters(WireModel):
    """The table `parameters`: fields of requests, each under its name in a chat request."""

    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    seed: Seed | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    max_tokens: Positive | None = None
    stop: StopStrings | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateKwargs | None = None


class PresetFile(WireModel):
    """A file `presets/NAME.toml`."""

    model: ModelName
    description: Annotated[str, StringConstraints(max_length=1024)] = ""
    alias: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,128}$")] | None = None
    system_prompt: str = ""
    warm: bool = False
    parameters: PresetParameters = Field(default_factory=PresetParameters)


def parse_preset(name: str, fields: dict[str, Any]) -> Preset:
    """Make a preset of a decoded file.

    Raises:
        LmxError: INVALID_REQUEST or UNSUPPORTED_PARAMETER with the dotted key at fault.
    """
    _check_values(fields)
    file = validated(PresetFile, fields)
    for key, ref in (("model", file.model), ("alias", file.alias or "")):
        if ref.lower().startswith(PREFIX):
            raise invalid(f"'{key}' must not be a preset itself.", param=key)
    if split_ref(file.alias or "")[1]:
        raise invalid("'alias' must not end with a backend: that means a model.", param="alias")
    said = file.parameters
    return Preset(
        name=name,
        model=file.model,
        description=file.description,
        alias=file.alias or "",
        system_prompt=file.system_prompt,
        warm=file.warm,
        sampling=SamplingParams(
            temperature=said.temperature,
            top_p=said.top_p,
            top_k=said.top_k,
            min_p=said.min_p,
            seed=said.seed,
            frequency_penalty=said.frequency_penalty,
            presence_penalty=said.presence_penalty,
            repetition_penalty=said.repetition_penalty,
        ),
        max_tokens=said.max_tokens,
        stop=None if said.stop is None else tuple(said.stop),
        template_kwargs={
            **effort_kwargs(said.reasoning_effort),
            **(said.chat_template_kwargs or {}),
        },
        parameters=said.model_dump(exclude_none=True),
    )


def _check_values(fields: dict[str, Any]) -> None:
    """Refuse what no request may hold either: deep nesting, numbers that nothing can carry."""
    try:
        check_tree(fields)
    except LmxError as error:
        if error.param is not None:
            raise
        message = f"The file is nested deeper than {MAX_DEPTH}."
        raise invalid(message, code="invalid_preset") from None
