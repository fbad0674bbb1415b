"""What a loaded model can do for a request, and the name of everything an answer depends on."""

import hashlib

import msgspec

from opta_lmx.backends.frames import Ready
from opta_lmx.core.errors import LmxError, invalid, unsupported
from opta_lmx.core.types import Filling, GenerationRequest
from opta_lmx.engine.plan import Plan


def check_features(request: GenerationRequest, ready: Ready) -> None:
    """Refuse what the engine lacks or the vocabulary does not hold, by the request's own field.

    Raises:
        LmxError: UNSUPPORTED_PARAMETER, or INVALID_REQUEST for a token that does not exist.
    """
    for feature, param in _wanted(request):
        if feature in ready.lacks:
            raise _lacking(request, param)
    for token, _ in request.logit_bias:
        if 0 < ready.vocabulary <= token:
            raise invalid(
                f"'logit_bias' names token {token}; this model has {ready.vocabulary}.",
                param="logit_bias",
            )


def _lacking(request: GenerationRequest, param: str) -> LmxError:
    """Who asked for it is told: a client never sent what its preset says."""
    message = f"The engine of this model does not support '{param}'"
    preset = request.filled_by
    if preset is None or param not in preset.fields:
        return unsupported(f"{message}.", param)
    return unsupported(f"{message}, which preset '{preset.name}' asks for.", "model")


def _wanted(request: GenerationRequest) -> list[tuple[str, str]]:
    """Features a request needs, each with the field that asks for it."""
    sampling = request.sampling
    wants = (
        ("logprobs", "logprobs", request.top_logprobs is not None),
        ("logit_bias", "logit_bias", bool(request.logit_bias)),
        ("penalties", "frequency_penalty", bool(sampling.frequency_penalty)),
        ("penalties", "presence_penalty", bool(sampling.presence_penalty)),
        ("penalties", "repetition_penalty", sampling.repetition_penalty not in (None, 1.0)),
        ("grammar", "response_format", request.output is not None),
        ("grammar", "tool_choice", request.tool_choice.mode == "required"),
        ("grammar", "tools", any(tool.strict for tool in request.prompt.tools)),
    )
    return [(feature, param) for feature, param, wanted in wants if wanted]


def fingerprint(plan: Plan, ready: Ready, preset: Filling | None = None, adapter: str = "") -> str:
    """Name the model, adapter, preset, engine and settings that, with the seed, decide an answer.

    Equal fingerprints promise equal answers to equal seeded requests that run alone, and where the
    name ends in `-r` (repeatable) among others too, but for what rounds in float32.
    """
    parts = (
        (plan.ref, plan.backend, ready.engine, ready.context, ready.slots, ready.weights_bytes),
        (plan.sampling, ready.sampling, ready.template_source, ready.speech, ready.vocabulary),
        preset.digest if preset else "",
        *([plan.adapters.get(adapter, "")] if adapter else []),
    )
    digest = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:12]
    return f"fp_{digest}{'-r' if ready.repeatable else ''}"
