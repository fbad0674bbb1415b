"""How models write calls and thinking, as their templates and the configuration tell."""

import msgspec

from opta_lmx.codec.tools.dialects import check_speech, reads_tools, speech_for_template
from opta_lmx.config.sections.engine import EngineSettings, ModelOverride
from opta_lmx.core.errors import invalid
from opta_lmx.core.types import Speech
from opta_lmx.models.description import ModelInfo

_SWITCH = "enable_thinking"
_EFFORT = "reasoning_effort"


class Abilities(msgspec.Struct, frozen=True):
    """What a model's template says it was made for.

    `tools`: it renders tool definitions itself. `reasoning`: the choices a caller has of how
    much it thinks, the usual one first; empty for a model that does not mark its thinking.
    """

    tools: bool = False
    reasoning: tuple[str, ...] = ()


def speech_of(override: ModelOverride, template: str | None) -> Speech | None:
    """What the configuration says of a model's ways; None when it leaves them to the template."""
    if override.tool_dialect is None and override.reasoning is None:
        return None
    told = speech_for_template(template or "")
    reasoning = told.reasoning if override.reasoning is None else override.reasoning
    return Speech(tools=override.tool_dialect or told.tools, reasoning=reasoning)


def abilities_of(info: ModelInfo, override: ModelOverride) -> Abilities:
    """What may be promised of a model before it is loaded."""
    if info.kind != "chat":
        return Abilities()
    source = info.chat_template or ""
    speech = speech_of(override, source) or speech_for_template(source)
    choices: tuple[str, ...] = ()
    if speech.reasoning and _EFFORT in source:
        choices = ("medium", "low", "high")
    elif speech.reasoning:
        choices = ("on", "off") if _SWITCH in source else ("on",)
    trained = reads_tools(source) or override.tool_dialect is not None
    return Abilities(trained, choices)


def check_overrides(settings: EngineSettings) -> None:
    """Raise LmxError (`invalid_config`) when an override names a way of writing nobody reads."""
    for name, override in settings.overrides.items():
        speech = Speech(override.tool_dialect or Speech().tools, override.reasoning or "")
        try:
            check_speech(speech)
        except ValueError as error:
            raise invalid(
                f"engine.overrides.{name}: {error}.",
                param="engine.overrides",
                code="invalid_config",
            ) from None
