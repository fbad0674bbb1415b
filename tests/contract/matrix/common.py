"""Schemas and rows that several requests share: the same field with the same meaning."""

from typing import Any

from tests.contract.matrix.model import Row, accepted, nested, supported

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}
OK: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}

PICTURES = "Text only: pictures are planned."

TEMPERATURE: tuple[Row, ...] = (
    supported("temperature", 0.5, "0 to 2; 0 is greedy."),
    supported("top_p", 0.9, "Above 0 to 1."),
)
SAMPLING: tuple[Row, ...] = (
    *TEMPERATURE,
    supported("top_k", 40, "Extension; 0 means all."),
    supported("min_p", 0.1, "Extension; 0 to 1."),
    supported("seed", 7, "Same seed, same text; how far is said by `system_fingerprint`."),
    supported("frequency_penalty", 0.5, "-2 to 2."),
    supported("presence_penalty", 0.5, "-2 to 2."),
    supported("repetition_penalty", 1.1, "Extension; above 0, 1 means none."),
    supported("logit_bias", {"5": -100}, "Token ids to -100..100."),
)
STOP = supported("stop", ["x", "y"], "Up to four strings, also across token borders.")

STREAM_OPTIONS = nested(
    "stream_options", "supported", "Only with `stream`.", stream=True, stream_options={}
)
NO_OBFUSCATION = nested(
    "stream_options.include_obfuscation",
    "refused",
    "Only false: no padding is sent.",
    stream=True,
    stream_options={"include_obfuscation": True},
)
STREAM: tuple[Row, ...] = (
    supported("stream", False, "Server-sent events."),
    STREAM_OPTIONS,
    nested(
        "stream_options.include_usage",
        "supported",
        "A last chunk with exact counts.",
        stream=True,
        stream_options={"include_usage": True},
    ),
    NO_OBFUSCATION,
)

USER = supported("user", "u", "Names the client within its key, where no header does.")
STAY = supported("ttl", 60, "As LM Studio has it: seconds the model may be idle from now on.")
CACHE: tuple[Row, ...] = (
    supported("prompt_cache_key", "s:0", "Groups the requests of one session."),
    accepted("prompt_cache_retention", "24h", "Prefixes are kept as long as there is room."),
)
WHO: tuple[Row, ...] = (
    USER,
    supported("safety_identifier", "u", "Stands in for `user`."),
    *CACHE,
)
SERVICE_TIER = accepted("service_tier", "auto", "There is one tier; others are refused.")
