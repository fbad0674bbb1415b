"""Names of the catalogue may be out of date: whoever asks for one that is gone is told so."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.puller import Puller
from opta_lmx.models.recommended import recommended
from opta_lmx.models.starters import STARTERS
from opta_lmx.models.store import ModelStore
from tests.support.hub import FakeHub, Repo
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until
from tests.support.weights import folder_files, small_gguf

REFS = [one.ref for one in recommended() if one.ref not in STARTERS]
FILES = [ref for ref in REFS if ref.endswith(".gguf")]


def told(root: Path, hub: FakeHub, ref: str) -> LmxError:
    store = ModelStore(root)
    store.sweep()
    with pytest.raises(LmxError) as looked:
        Puller(store, endpoint=hub.url).look(ref)
    with pytest.raises(LmxError) as pulled:
        Puller(store, endpoint=hub.url).pull(ref)
    assert looked.value.code == pulled.value.code
    assert store.list() == []
    return pulled.value


@pytest.mark.parametrize("ref", REFS)
def test_a_repository_that_is_gone(tmp_path: Path, ref: str) -> None:
    with FakeHub() as hub:
        error = told(tmp_path, hub, ref)
    assert (error.kind, error.code, error.param) == (
        ErrorKind.NOT_FOUND,
        "hub_not_found",
        "model",
    )


@pytest.mark.parametrize("ref", FILES)
def test_a_file_that_has_another_name(tmp_path: Path, ref: str) -> None:
    repo = "/".join(ref.split("/")[:2])
    with FakeHub(**{repo: Repo({"other-Q4_K_M.gguf": small_gguf()})}) as hub:
        error = told(tmp_path, hub, ref)
    assert (error.kind, error.code) == (ErrorKind.INVALID_REQUEST, "no_weights")
    assert ref.rpartition("/")[2] in error.message


def test_a_repository_that_holds_what_it_is_recommended_for(tmp_path: Path) -> None:
    repos = {
        "/".join(ref.split("/")[:2]): Repo({ref.split("/")[2]: small_gguf()}) for ref in FILES
    } | {ref: Repo(folder_files()) for ref in REFS if ref not in FILES}
    store = ModelStore(tmp_path)
    store.sweep()
    with FakeHub(**repos) as hub:
        found = {ref: Puller(store, endpoint=hub.url).look(ref) for ref in REFS}
    wanted = {one.ref: one for one in recommended()}
    for ref, offer in found.items():
        assert offer.format == wanted[ref].format
        if ref in FILES:
            assert offer.quantisation == wanted[ref].quantisation


def post(server: LiveServer, path: str, model: str) -> dict[str, Any]:
    reply = httpx.post(f"{server.url}{path}", json={"model": model}, timeout=30)
    return {**reply.json(), "http": reply.status_code}


@pytest.mark.parametrize("asked", [False, True], ids=["unasked", "looked up first"])
def test_over_http_it_is_an_error_and_no_more(tmp_path: Path, asked: bool) -> None:
    with FakeHub() as hub:
        settings = {"hub_endpoint": hub.url, "confirm_bytes": 1 if asked else 0}
        with sim_server(tmp_path, {}, models=settings) as server:
            begun = post(server, "/admin/models/download", REFS[0])
            if asked:
                assert (begun["http"], begun["error"]["code"]) == (404, "hub_not_found")
            else:
                job = f"{server.url}/admin/models/downloads/{begun['download_id']}"
                wait_until(lambda: httpx.get(job).json()["status"] == "failed", 20)
                assert httpx.get(job).json()["error"]["code"] == "hub_not_found"
            theirs = post(server, "/api/v1/models/download", REFS[0])
            assert theirs["http"] == (404 if asked else 200)
            assert post(server, "/admin/models/fit", REFS[0])["http"] == 404
            assert httpx.get(f"{server.url}/healthz").status_code == 200
