"""What the compatibility page says beside the fields: headers, frames, promises, gaps."""

HEADERS: tuple[tuple[str, str, str], ...] = (
    ("Authorization, x-api-key", "all", "`Bearer KEY`, or the key itself; where keys are set."),
    (
        "X-Client-ID, x-openclaw-agent-id",
        "inference",
        (
            "Which client of its key asks, the first that is there; then the body's `user` (its "
            "`safety_identifier`, or `metadata.user_id`), then the address. Clients of a key share "
            "its part of the server evenly; a name gains nothing against other keys."
        ),
    ),
    (
        "X-Serving-Lane",
        "inference",
        (
            "`interactive`, `agent` (or `throughput`), `background`: lowers the lane that the key "
            "may use, never raises it. Any other word: 400 `invalid_header`."
        ),
    ),
    (
        "X-Priority",
        "inference",
        (
            "The same where there is no X-Serving-Lane: `high` or `interactive`; `normal` for "
            "agents; `low`, `batch` or `background`. Any other word: 400 `invalid_header`."
        ),
    ),
    (
        "x-session-affinity, session_id, x-openclaw-session-key, x-client-request-id",
        "inference",
        (
            "Which session a call belongs to, the first that is there, where the body names none "
            "(`prompt_cache_key`): calls of one session find its prefix."
        ),
    ),
    ("x-request-id", "all", "The id of the request in logs and answers; else one is made."),
    ("x-opta-ignored-fields", "answers", "Unknown fields, where `protocol.unknown_fields: warn`."),
    ("request-id", "answers of Messages", "`x-request-id` as Anthropic's clients call it."),
    ("Retry-After", "answers", "With every 429 and 503 (529), whole seconds of at least one."),
    ("Accept", "all", "Ignored: `stream` alone decides."),
    ("anthropic-version, anthropic-beta", "Messages", "Ignored: there is one version."),
    ("anthropic-dangerous-direct-browser-access", "Messages", "Ignored; origins are checked."),
    ("x-stainless-*, User-Agent", "all", "What the client is; changes nothing."),
    ("traceparent", "all", "Its trace id stands in every log line of the request (`trace_id`)."),
    ("Origin, Host", "all", "Names other than the server's own are refused: 403."),
)

FRAMES: tuple[tuple[str, str, str], ...] = (
    (
        "chat.request",
        "client",
        (
            "All fields of a chat request but `n` above 1; streamed unless "
            "`stream` is false. `request_id`: the client's own, or one is made."
        ),
    ),
    ("chat.cancel", "client", "Ends the request `request_id`, queued or running."),
    ("ping", "client", "Asks for a `pong`."),
    ("chat.accepted", "server", "The request has its id and may be cancelled."),
    ("chat.token", "server", "`content`; `logprobs` where asked for."),
    ("chat.reasoning", "server", "`content`: more of the thinking."),
    ("chat.tool_call", "server", "`tool_call`: index, id, name and arguments, whole."),
    (
        "chat.keepalive",
        "server",
        (
            "The request still runs or waits; at least every ten seconds. `queue` tells how many "
            "go before it (`position`) and about how long that takes (`estimate_s`)."
        ),
    ),
    ("chat.done", "server", "`finish_reason` (`cancelled` too), `usage`, `system_fingerprint`."),
    ("chat.error", "server", "The error of HTTP, with `retry_after`; the socket stays open."),
    ("pong", "server", "Answers a `ping`."),
)

BUDGETS: tuple[tuple[str, str, str], ...] = (
    ("`prompt_tokens`", "400 `prompt_budget_exceeded`", "The exact tokens of a request's prompts."),
    (
        "`prompt_tokens_per_minute`",
        "429 `token_rate_exceeded`, `Retry-After`",
        (
            "The same over any 60 seconds. What is refused, or never runs, takes nothing; a prompt "
            "longer than a whole minute allows is a 400 `prompt_budget_exceeded`."
        ),
    ),
    (
        "`max_tokens`",
        "400 `answer_budget_exceeded`",
        "Of one answer. A request that leaves the length open is cut there with `length`.",
    ),
    (
        "`kv_bytes`",
        "400 `cache_budget_exceeded`",
        (
            "Memory for caches that the key's requests hold while they run, on one model. One "
            "that does not fit beside the others waits; the 400 is for a prompt that never would."
        ),
    ),
)

PROMISES = """`seed` decides every draw. Equal seeded requests to servers with equal
`system_fingerprint` get equal answers as long as the request runs alone. Other rows of a batch
change the last bits of its numbers: where the fingerprint ends in `-r` these are bits of float32,
and a token changes only where two are equally likely to about five digits. The fingerprint names
model, engine and its version, window, batch width and size of the weights.
"""

PLANNED: tuple[tuple[str, str], ...] = (
    (
        "Pictures in prompts (`image_url`, `input_image`, `image`, `images`)",
        (
            "No token names what a picture adds to a prompt, so the prefix cache, exact counts and "
            "budgets have to know pictures first; and what reads them on MLX brings a loop of its "
            "own, in which rows are not batched, paused or resumed. Until then each of these is a "
            "400 with the field's name, whatever the model could do."
        ),
    ),
)

LEFT_OUT: tuple[tuple[str, str], ...] = (
    (
        "OpenAI: making pictures, audio, video, files, uploads, moderation",
        "The models here read and write text.",
    ),
    (
        "OpenAI: assistants, threads, runs, vector stores, batches, fine-tuning",
        "Work that lasts; one server of answers is not the place for it.",
    ),
    (
        "OpenAI: stored chat completions (`GET /v1/chat/completions`)",
        "Answers are stored by `/v1/responses`.",
    ),
    ("OpenAI: `/v1/conversations`", "A conversation is its chain of `previous_response_id`."),
    (
        "OpenAI Responses: hosted tools, their items and events",
        "Nothing is run or fetched here; tools are the client's.",
    ),
    (
        "OpenAI Responses: `GET ?stream=true`, `starting_after`",
        "A stored response is shown as it is, not replayed.",
    ),
    ("OpenAI Responses over WebSocket: `background`, `stream_options`", "A socket is a stream."),
    ("Anthropic: `/v1/messages/batches`, `/v1/files`, `/v1/skills`", "As above."),
    ("Anthropic: `/v1/models`", "That path is OpenAI's; the list is in its form."),
    ("Cohere: `/v2/chat`, `/v2/embed`", "Use the dialects above."),
    ("LM Studio: `/api/v1/chat`", "Its clients chat by OpenAI's or Anthropic's routes."),
    (
        "Ollama: `/api/pull`, `/api/create`, `/api/copy`, `/api/delete`, `/api/push`",
        "Models come and go by the command line; each answers 404 and says which command.",
    ),
    ("Legacy: `/v1/engines`, `/v1/edits`", "Their owners ended them."),
)

WATCHES: tuple[tuple[str, str], ...] = (
    (
        "OpenAI",
        (
            "The `openai` package, pinned by the lock; when it is raised, its request types are "
            "walked anew (`test_sdk_fields.py`), its answer types read our "
            "answers (`test_strict_answers.py`)."
        ),
    ),
    ("Open Responses", "`test_openresponses.py`, against the specification of 2026-04-24."),
    ("Anthropic", "The `anthropic` package, in the same way."),
    ("Ollama", "The `ollama` package, in the same way."),
    ("Cohere", "`test_rerank_sdk.py`, where the `cohere` package is installed."),
    (
        "OpenClaw",
        (
            "`make openclaw`: the pinned release each night, and the newest in a second job "
            "that may fail. `test_openclaw_keys.py`: what it was seen to send."
        ),
    ),
    ("Model families", "`tests/unit/codec/tools/test_families.py`, on published templates."),
    ("Our own OpenAPI", "`test_openapi.py` (Schemathesis)."),
)
