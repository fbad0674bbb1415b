"""The server's own OpenAPI document: whole, without doubles, and kept to under fuzzing."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.matrix.surfaces import SURFACES
from tests.support.server import LiveServer, sim_server

# With a key from the start: the first one that a request makes would shut all others out.
KEY = "sk-fuzzing"
SHOWN = {"Authorization": f"Bearer {KEY}"}
METHODS = ("get", "post", "delete", "put", "patch", "head")
SCRIPTS: dict[str, dict[str, Any]] = {
    "ok": {"reply": "one two three", "infill": True},
    "embed": {"kind": "embedding"},
    "rerank": {"kind": "rerank"},
}
MODELS = {"chat": "ok", "embedding": "embed", "rerank": "rerank"}
NAMES = [*SCRIPTS, "nobody"]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "negative_data_rejection",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Nothing is fetched, whatever a request asks for."""
    sections = {"models": {"downloads_enabled": False}, "server": {"api_keys": [KEY]}}
    with sim_server(tmp_path_factory.mktemp("home"), SCRIPTS, **sections) as live:
        yield live


@pytest.fixture(scope="module")
def document(server: LiveServer) -> dict[str, Any]:
    reply = httpx.get(f"{server.url}/openapi.json", headers=SHOWN, timeout=30)
    return reply.raise_for_status().json()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                yield method, path, methods[method]


def test_every_route_is_told_once(server: LiveServer, document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    told = {(method.upper(), path) for method, path, _ in operations(document)}
    assert told == set(served(server.app.http.routes)) - {("GET", "/openapi.json")}


def served(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Method and path of every route, through the routers that hold them; HEAD is GET's."""
    for route in routes:
        if inner := getattr(route, "original_router", None):
            yield from served(inner.routes)
        for method in getattr(route, "methods", None) or ():
            if method != "HEAD":
                yield method, route.path_format.replace(":path}", "}")


def test_nothing_is_told_that_cannot_happen(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        assert "422" not in operation["responses"], (method, path)
        assert {"403", "500"} <= operation["responses"].keys(), (method, path)
    assert "$ref" not in json.dumps(document)


def test_fuzzing_finds_nothing(
    server: LiveServer, document: dict[str, Any], tmp_path: Path
) -> None:
    fuzz(server, document, tmp_path, examples=4, seconds=20)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fuzzing_finds_nothing_for_long(
    server: LiveServer, document: dict[str, Any], tmp_path: Path
) -> None:
    fuzz(server, document, tmp_path, examples=150, seconds=600)


def fuzz(
    server: LiveServer, document: dict[str, Any], folder: Path, *, examples: int, seconds: int
) -> None:
    """Run Schemathesis over the document, with models that are there or nearly so."""
    file = folder / "openapi.json"
    file.write_text(json.dumps(with_models(document)))
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(file), "--url", server.url),
        *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
        *("--max-examples", str(examples), "--max-time", str(seconds), "--seed", "7"),
        *("--workers", "1", "--no-color", "--continue-on-failure"),
        *("--generation-database", "none", "--request-timeout", "30"),
        *("--header", f"Authorization: {SHOWN['Authorization']}"),
    ]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=seconds * 2 + 60, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    counts = httpx.get(f"{server.url}/metrics", headers=SHOWN, timeout=30).text
    answered = set(re.findall(r'requests_total\{code="200",route="([^"]+)"\}', counts))
    assert {surface.path for surface in SURFACES} <= answered, "no request got as far as a model"


def with_models(document: dict[str, Any]) -> dict[str, Any]:
    """The document with requests that are answered, and models that there are.

    Of made up names no model is reached; a download takes any name, and fetches nothing here.
    """
    told = json.loads(json.dumps(document))
    answered = {surface.path: surface for surface in SURFACES}
    for _, path, operation in operations(told):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            known = content["schema"]["properties"]
            for name in {"model", "instance_id"} & known.keys():
                if "download" not in path:
                    known[name] = {"type": "string", "enum": NAMES}
            if surface := answered.get(path):
                content["example"] = {"model": MODELS[surface.kind], **surface.least}
    return told
