"""What the pinned OpenClaw sends in each mode, as recorded: the names, not the values.

`make openclaw` holds every request to this table. When the pinned version moves, run it, look at
each line of drift, make sure that the server gives the new name a meaning, and write it in here.
"""

from scripts.openclaw.modes import CHAT, LM_STUDIO, MESSAGES, RESPONSES
from scripts.openclaw.traffic import Known


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FETCH = frozenset(
    {"accept", "accept-encoding", "accept-language", "connection", "host", "sec-fetch-mode"}
    | {"user-agent"}
)
_POST = _FETCH | {"content-type", "content-length"}
_SDK = frozenset(
    {"x-stainless-arch", "x-stainless-lang", "x-stainless-os", "x-stainless-package-version"}
    | {"x-stainless-retry-count", "x-stainless-runtime", "x-stainless-runtime-version"}
    | {"x-stainless-timeout"}
)
_OPENAI = _POST | _SDK | {"authorization", "traceparent"}
_ANTHROPIC = {"anthropic-dangerous-direct-browser-access", "anthropic-version", "x-api-key"}
# Sent because the block that `opta-lmx openclaw config` writes asks for it.
_STICKY = frozenset({"session_id", "x-client-request-id", "x-session-affinity"})

_CHAT_KEYS = _words("model messages stream stream_options tools tool_choice max_completion_tokens")
_CHAT_PARTS = _words("""
    messages[].role=system messages[].role=user messages[].role=assistant messages[].role=tool
    messages[].content messages[].content[].type=text messages[].content[].text
    messages[].tool_call_id messages[].tool_calls messages[].tool_calls[].id
    messages[].tool_calls[].type=function messages[].tool_calls[].function
    messages[].tool_calls[].function.name messages[].tool_calls[].function.arguments
    stream_options.include_usage
    tools[].type=function tools[].function tools[].function.name tools[].function.description
    tools[].function.parameters
    """)
_RESPONSES_KEYS = _words("model input stream max_output_tokens tools store")
_RESPONSES_PARTS = _words("""
    input[].type=message input[].role=system input[].role=user input[].role=assistant
    input[].content input[].content[].type=input_text input[].content[].type=output_text
    input[].content[].text input[].content[].annotations
    input[].type=function_call input[].type=function_call_output input[].call_id input[].name
    input[].arguments input[].output
    tools[].type=function tools[].name tools[].description tools[].parameters
    """)
_MESSAGES_KEYS = _words("model messages system max_tokens stream tools")
_MESSAGES_PARTS = _words("""
    messages[].role=user messages[].role=assistant
    messages[].content messages[].content[].type=text messages[].content[].text
    messages[].content[].cache_control messages[].content[].cache_control.type=ephemeral
    messages[].content[].type=tool_use messages[].content[].id messages[].content[].name
    messages[].content[].input messages[].content[].type=tool_result
    messages[].content[].tool_use_id messages[].content[].content messages[].content[].is_error
    system[].type=text system[].text system[].cache_control
    system[].cache_control.type=ephemeral
    tools[].name tools[].description tools[].input_schema tools[].cache_control
    tools[].cache_control.type=ephemeral
    """)

_CHAT = Known(_OPENAI, _CHAT_KEYS, _CHAT_PARTS)
_TABLE = {
    "openai-completions": {
        f"POST {CHAT.path}": Known(
            _OPENAI | _STICKY, _CHAT_KEYS | {"prompt_cache_key"}, _CHAT_PARTS
        )
    },
    "openai-responses": {
        f"POST {RESPONSES.path}": Known(
            _OPENAI, _RESPONSES_KEYS | {"prompt_cache_key"}, _RESPONSES_PARTS
        )
    },
    "anthropic-messages": {
        f"POST {MESSAGES.path}": Known(
            _POST | _ANTHROPIC | {"traceparent"}, _MESSAGES_KEYS, _MESSAGES_PARTS
        )
    },
    LM_STUDIO: {
        "GET /api/v1/models": Known(_FETCH | {"authorization"}),
        "POST /api/v1/models/load": Known(
            _POST | {"authorization"}, frozenset({"model", "context_length"})
        ),
        f"POST {CHAT.path}": _CHAT,
    },
}


def known_requests(mode: str) -> dict[str, Known]:
    """The requests of a mode by method and path."""
    return _TABLE[mode]
