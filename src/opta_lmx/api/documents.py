"""What the server's own OpenAPI file says of a route: its body, and every status it may answer."""

from typing import Any, cast

from pydantic import BaseModel

Json = dict[str, Any]

_ERROR_TEXTS = {
    400: "The request is wrong; `param` names the field.",
    401: "A key is needed.",
    403: "This host name, origin or caller is not allowed.",
    404: "There is no such model or object.",
    408: "The body did not arrive in time.",
    409: "The state of the model or object does not allow it.",
    413: "The body is too large.",
    429: "The waiting line is full; `Retry-After` says when to come back.",
    500: "The server or a worker failed.",
    502: "Something this server depends on failed.",
    503: "Out of service or starting; `Retry-After` says when to come back.",
    507: "The machine has no room for it.",
}
_ANY_JSON: Json = {"application/json": {"schema": {"type": "object"}}}
LOADING = (400, 401, 403, 404, 408, 409, 413, 500, 502, 503, 507)
"""What a route may answer that loads, unloads or fetches a model: it waits in no line."""
_EVERYWHERE = (401, 403, 500)
"""What any route may answer: the guard's refusals, and a fault of our own."""
_WITHOUT_KEY = frozenset({"/healthz"})


def error_docs(*statuses: int) -> dict[int | str, Json]:
    """The `responses` of a route that may answer with these errors (all, where none is named)."""
    return {
        status: {"description": _ERROR_TEXTS[status], "content": _ANY_JSON}
        for status in statuses or _ERROR_TEXTS
    }


def body_schema(body: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a wire model with nothing referred to elsewhere in the file."""
    schema = body.model_json_schema()
    return _inlined(schema, schema.pop("$defs", {}))


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    # In an OpenAPI file a reference would be read from the file's root, not the schema's.
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    fields = cast("dict[str, Any]", node)
    name = str(fields.get("$ref", "")).rpartition("/")[2]
    if name in definitions:
        return _inlined(definitions[name], definitions)
    return {key: _inlined(value, definitions) for key, value in fields.items()}


def inference_docs(body: type[BaseModel], media_type: str | None = "text/event-stream") -> Json:
    """Keyword arguments for `add_api_route`: body schema, and all answers of a model call.

    Args:
        body: the wire model of the request.
        media_type: of the streamed answer; None where there is none.
    """
    # No schema: tools read that of an event stream as one event's.
    streamed: Json = {media_type: {}} if media_type else {}
    success = {"description": "The answer.", "content": {**_ANY_JSON, **streamed}}
    return {"responses": {200: success, **error_docs()}, "openapi_extra": body_docs(body)}


def body_docs(body: type[BaseModel]) -> Json:
    """The `openapi_extra` of a route that reads such a body."""
    content = {"application/json": {"schema": body_schema(body)}}
    return {"requestBody": {"required": True, "content": content}}


def text_docs(media_type: str, description: str = "The text.") -> dict[int | str, Json]:
    """The successful answer of a route that gives text, or a stream of events."""
    return {200: {"description": description, "content": {media_type: {}}}}


def completed(document: Json) -> Json:
    """Put into an OpenAPI document what the framework does not know, and take out what is wrong.

    Each operation gets the statuses that any may answer. What is wrong with a parameter is a
    400 here and never a 422.
    """
    document.get("components", {}).pop("schemas", None)
    for path, methods in document["paths"].items():
        for operation in cast("Json", methods).values():
            _complete(operation, keyless=path in _WITHOUT_KEY)
    return document


def _complete(operation: Json, *, keyless: bool) -> None:
    responses: Json = operation["responses"]
    found: list[int] = [*_EVERYWHERE]
    if keyless:
        found.remove(401)
    if responses.pop("422", None) is not None:
        found.append(404)
        asks = any(parameter["in"] == "query" for parameter in operation["parameters"])
        found += [400] if asks else []
    for status in found:
        responses.setdefault(str(status), error_docs(status)[status])
