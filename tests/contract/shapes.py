"""The chat requests that OpenClaw sends, rebuilt in our own words: same structure, other text.

Facts: OpenClaw 2026.9.6 in its `openai-completions` mode. Two user turns in a row with the last
as a list, null content beside tool calls, call ids stripped to letters and digits, schemas with
`patternProperties`, `anyOf` and `const`, and the fields that its compatibility flags add.
"""

from typing import Any, NamedTuple

Json = dict[str, Any]

SESSION = "0f6d2c1e-5a7b-4c3d-9e8f-001122334455:0"

_HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": "OpenAI/JS 7.15.0",
    "traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
    "x-stainless-arch": "x64",
    "x-stainless-lang": "js",
    "x-stainless-os": "Linux",
    "x-stainless-package-version": "7.15.0",
    "x-stainless-retry-count": "0",
    "x-stainless-runtime": "node",
    "x-stainless-runtime-version": "v26.10.0",
    "x-stainless-timeout": "300",
    "Accept-Language": "*",
    "Sec-Fetch-Mode": "cors",
    "Accept-Encoding": "gzip, deflate",
}
_AFFINITY = {
    "session_id": SESSION,
    "x-client-request-id": SESSION,
    "x-session-affinity": SESSION,
}


class Shape(NamedTuple):
    """One request: a name for the test, headers beside host, key and length, and the body."""

    name: str
    headers: dict[str, str]
    body: Json


def chat_shapes(model: str, *, max_tokens: int = 16, system_chars: int = 2000) -> list[Shape]:
    """Return every shape.

    Args:
        model: the name to ask for.
        max_tokens: bound on each answer.
        system_chars: length of the system text; OpenClaw's own is 22,600 or 44,200.
    """
    system = _system("system", system_chars)
    turn = _Turn(model, max_tokens)
    plain = _HEADERS
    sticky = {**_HEADERS, **_AFFINITY}
    return [
        Shape("first-turn", plain, turn.body([system, _user(), _carrier()])),
        Shape("tool-turn", plain, turn.body([system, _user(), *_tool_round(), _carrier()])),
        Shape("parallel-tools", plain, turn.body([system, _user(), *_two_calls(), _carrier()])),
        Shape("odd-tools", plain, turn.body([system, _user(), *_odd_calls(), _carrier()])),
        Shape("after-empty-reply", plain, turn.body([system, _user(), _urge(), _carrier()])),
        Shape("after-error", plain, turn.body([system, _queued(), _carrier()])),
        Shape("affinity", sticky, turn.body([system, *_second_turn()], prompt_cache_key=SESSION)),
        Shape("compat", {**plain, "x-tenant": "acme"}, _compat(turn, system_chars, [])),
        Shape("compat-tool-turn", plain, _compat(turn, system_chars, _tool_round())),
        Shape("long-retention", sticky, _long_retention(turn, system)),
        Shape("probe", plain, turn.bare([system, _user()], max_completion_tokens=8)),
        Shape("infer-model-run", plain, turn.bare([_user()], max_completion_tokens=max_tokens)),
        Shape("onboarding", plain, _onboarding(model)),
    ]


class _Turn(NamedTuple):
    """Builds bodies of agent turns, and of turns without tools."""

    model: str
    max_tokens: int

    def body(self, messages: list[Json], **extra: object) -> Json:
        tools = {"tools": _tools(), "tool_choice": "auto"}
        limit = {"max_completion_tokens": self.max_tokens}
        return self.bare(messages, **extra, **tools, **limit)

    def bare(self, messages: list[Json], **extra: object) -> Json:
        streaming = {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": self.model, "messages": messages, **streaming, **extra}


def _compat(turn: _Turn, system_chars: int, between: list[Json]) -> Json:
    """`developer`, `max_tokens`, `reasoning_effort`, `strict: false` and a cache key."""
    tools = _tools()
    for tool in tools:
        tool["function"]["strict"] = False
    return turn.bare(
        [_system("developer", system_chars), _user(), *between, _carrier()],
        prompt_cache_key=SESSION,
        tools=tools,
        tool_choice="auto",
        max_tokens=turn.max_tokens,
        reasoning_effort="medium",
    )


def _long_retention(turn: _Turn, system: Json) -> Json:
    cache = {"prompt_cache_key": SESSION, "prompt_cache_retention": "24h"}
    return turn.body([system, _user(), _carrier()], **cache)


def _onboarding(model: str) -> Json:
    greeting = {"role": "user", "content": "Hi"}
    return {"model": model, "messages": [greeting], "max_tokens": 16, "stream": False}


def _system(role: str, chars: int) -> Json:
    rule = "Keep to the facts, use a function when one helps, and say so when none does.\n"
    text = "<!-- part one, always the same -->\nYou help one person on one computer.\n"
    text += rule * (chars // len(rule) + 1)
    return {"role": role, "content": text[:chars]}


def _user(text: str = "Say the word hello.") -> Json:
    stamp = "[Mon 2026-11-23 09:00 UTC]"
    return {"role": "user", "content": f"{stamp} {text}\n\nRuntime: agent=one | session={SESSION}"}


def _carrier() -> Json:
    """The last turn of every request: a list, and never kept in the history."""
    text = '<<<BEGIN NOTES>>>\nBackground facts, no instructions:\n"Running jobs: none"\n<<<END>>>'
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def _urge() -> Json:
    return {"role": "user", "content": "[Mon 2026-11-23 09:01 UTC] Nothing was visible. Again."}


def _queued() -> Json:
    text = "[A message that waited; the answer before it broke off] Go on from where you were."
    return {"role": "user", "content": f"{text}\n\nSay the word hello."}


def _second_turn() -> list[Json]:
    answer = {"role": "assistant", "content": "Hello."}
    return [_user(), answer, _user("Say it again."), _carrier()]


def _call(call_id: str, name: str, arguments: str) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _calling(*calls: Json) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": [*calls]}


def _result(call_id: str, text: str) -> Json:
    return {"role": "tool", "content": text, "tool_call_id": call_id}


def _tool_round() -> list[Json]:
    call = _call("callone1", "open_file", '{"path":"NOTES.md"}')
    return [_calling(call), _result("callone1", "# Notes\n\nNothing yet.\n")]


def _two_calls() -> list[Json]:
    calls = (_call("calla", "list_folder", "{}"), _call("callb", "open_file", '{"path":"a"}'))
    return [_calling(*calls), _result("calla", '"a"\n"b/"'), _result("callb", "")]


def _odd_calls() -> list[Json]:
    """Replays that a strict server would refuse: no such function, no JSON, a lost call."""
    calls = (_call("callc", "fly", "{}"), _call("calld", "open_file", '{"path":'))
    results = (_result("callc", "Tool fly not found"), _result("rewritten", "bad arguments"))
    return [_calling(*calls), *results]


def _function(name: str, description: str, properties: Json, *required: str) -> Json:
    parameters: Json = {"type": "object", "properties": properties}
    if required:
        parameters = {"type": "object", "required": [*required], "properties": properties}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _or_null(schema: Json, description: str) -> Json:
    return {"anyOf": [schema, {"type": "null"}], "description": description}


def _tools() -> list[Json]:
    text, number, flag = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
    line = {"type": "integer", "minimum": 1}
    change = {
        "type": "object",
        "required": ["before", "after"],
        "properties": {"before": text, "after": {**text, "description": "The new words."}},
    }
    query = {
        "type": "object",
        "required": ["words"],
        "properties": {"words": {**text, "minLength": 1, "maxLength": 512}, "most": line},
    }
    run: Json = {
        "title": {**text, "maxLength": 120, "description": "What it is for."},
        "command": text,
        "variables": {"type": "object", "patternProperties": {"^.*$": text}},
        "wait_ms": number,
        "detached": flag,
        "where": {"enum": ["auto", "here", "there"], "type": "string"},
    }
    search: Json = {
        "words": _or_null(text, "What to look for."),
        "most": _or_null(line, "How many at most."),
        "several": _or_null({"type": "array", "items": query, "maxItems": 16}, "Many at once."),
    }
    optional = {**flag, "const": True, "description": "A missing file is no error."}
    any_object = {"type": "object", "patternProperties": {"^.*$": {}}}
    return [
        _function("change_file", "Replace text.", {"path": text, "changes": _list(change)}, "path"),
        _function("run_command", "Run a command.", run, "command"),
        _function("list_folder", "List a folder.", {"path": text, "most": number}),
        _function(
            "open_file", "Read a file.", {"path": text, "from": line, "may": optional}, "path"
        ),
        _function("wait_for", "Wait.", {"for": {**text, "const": "message"}}),
        _function("find_tool", "Search for more functions.", search),
        _function("call_tool", "Call a found function.", {"id": text, "args": any_object}, "id"),
    ]


def _list(items: Json) -> Json:
    return {"type": "array", "items": items, "description": "In order."}
