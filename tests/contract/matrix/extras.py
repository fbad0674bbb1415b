"""What answers hold that a client's own types do not know, and why."""

EXTRAS: dict[str, str] = {
    "reasoning_content": "Chat: the model's thinking, where OpenAI's types have no place for it.",
    "x_opta": "`/v1/models`: kind, state, window, backend and abilities of a model. Chat, in the "
    "empty chunks of a stream that waits: `queue`, how many go before and about how long.",
    "retry_after": "429 and 503 (529): `Retry-After` again, for clients that see no headers.",
}
RESPONSES_EXTRAS: dict[str, str] = {
    "store": "Responses: required by the Open Responses specification.",
    "presence_penalty": "Responses: required by the Open Responses specification.",
    "frequency_penalty": "Responses: required by the Open Responses specification.",
    "bytes": "Responses: of log-probabilities in events, as the specification requires.",
}
RERANK_EXTRAS: dict[str, str] = {
    "model": "`/v1/rerank`: Jina's clients read it.",
    "usage": "`/v1/rerank`: Jina's clients read it.",
    "error": "`/v1/rerank`, `/v2/rerank`: type, param and code beside Cohere's `message`.",
}
OLLAMA_EXTRAS: dict[str, str] = {
    "name": "Ollama, lists: as its own server says it beside `model`; its client reads one.",
    "id": "Ollama, tool calls: as its own server says it; its client does not read it.",
    "index": "Ollama, tool calls: as its own server says it; its client does not read it.",
    "bytes": "Ollama, log-probabilities: as its own server says it; its client does not read it.",
    "prompt_eval_cached_count": "Ollama: how much of the prompt was found in the cache.",
    "status": "Ollama, errors in a stream: the HTTP status that it would have been.",
}
GROUPS = (EXTRAS, RESPONSES_EXTRAS, RERANK_EXTRAS, OLLAMA_EXTRAS)
