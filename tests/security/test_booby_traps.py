"""Model repositories that try to run code or reach other files: a canary file tells if they do.

Each trap goes all three ways in: an import, a download from a stand-in of the hub, and the load
of a model in the store whose files were exchanged after it was checked.
"""

import json
import os
import pickle
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.models.hub import HubPuller
from opta_lmx.models.store import ModelStore
from tests.support.hub import FakeHub, Repo, sibling
from tests.support.process import ServerProcess, running_server
from tests.support.tiny import tiny_llama, write_gguf
from tests.support.weights import config, folder_files, with_header, write_folder

SECRET = "what-a-template-must-not-read"
CANARY = Path(os.environ["HOME"]).parent / "canary-of-the-traps"
"""One place for all traps: it is written into files that every test shares."""
CODE = f"import pathlib; pathlib.Path({str(CANARY)!r}).write_text('run')\n"
ESCAPES = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr filter": "{{ ('' | attr('__class__')).__mro__ }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "joiner": "{{ joiner.__init__.__globals__['__builtins__']['open']('CANARY', 'w') }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "function": "{{ raise_exception.__globals__['json'].codecs.builtins.open('CANARY', 'w') }}",
    "import": "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
    "include": "{% include 'CANARY' %}",
    "extends": "{% extends 'CANARY' %}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
}
LOOPS = {
    "one loop": "{% for i in range(10**9) %}x{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "repeat": "{{ 'x' * 10**10 }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "padding": "{{ '%1000000000d' | format(1) }}",
}
"""Each ends with an error of its own; one that runs for ever is in tests/chaos."""


class Touch:
    """Runs the trap when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (CODE,)


PICKLE = pickle.dumps(Touch())


def without_weights() -> dict[str, bytes]:
    return {name: data for name, data in folder_files().items() if name != "model.safetensors"}


def tokenizer_config(**more: Any) -> dict[str, bytes]:
    return {"tokenizer_config.json": json.dumps({"chat_template": "x", **more}).encode()}


def index(**places: str) -> dict[str, bytes]:
    return {"model.safetensors.index.json": json.dumps({"weight_map": places}).encode()}


TRAPS: dict[str, dict[str, bytes]] = {
    "model_file": folder_files(model_file="trap.py"),
    "model_file elsewhere": folder_files(model_file="../../trap.py"),
    "auto_map": folder_files(auto_map={"AutoModelForCausalLM": "trap.Trap"}),
    "auto_map of the hub": folder_files(auto_map={"AutoConfig": "evil/repo--trap.Trap"}),
    "auto_map inside": folder_files(text_config={**config(), "auto_map": {"AutoModel": "trap.T"}}),
    "auto_map of the tokenizer": folder_files()
    | tokenizer_config(auto_map={"AutoTokenizer": ["trap.Trap", None]}),
    "pickle": without_weights() | {"pytorch_model.bin": PICKLE},
    "pickle by another name": without_weights() | {"model.pt": PICKLE, "weights.pkl": PICKLE},
    "pickle as safetensors": folder_files() | {"model.safetensors": PICKLE},
    "header without end": folder_files()
    | {"model.safetensors": struct.pack("<Q", 1 << 62) + b"{}"},
    "header beyond the file": folder_files()
    | {"model.safetensors": struct.pack("<Q", 99_000_000) + b"{" * 1000},
    "deep header": folder_files() | {"model.safetensors": with_header(b'{"a":' * 50_000, b"")},
    "offsets beyond the file": folder_files()
    | {
        "model.safetensors": with_header(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4611686018427387904]}}', b""
        )
    },
    "index of what is not there": folder_files() | index(a="../../../canary.safetensors"),
    "deep configuration": folder_files() | {"config.json": b'{"a":' * 100_000},
}
"""Repositories that are refused, whichever way they come."""


@pytest.fixture(autouse=True)
def canary() -> Iterator[Path]:
    CANARY.unlink(missing_ok=True)
    yield CANARY
    assert not CANARY.exists(), "a trap has run"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    made = ModelStore(tmp_path / "store")
    made.sweep()
    return made


def with_code(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files, with code under every name that they ask for or that a loader might try."""
    names = ("trap.py", "modeling_trap.py", "configuration_trap.py", "conftest.py", "__init__.py")
    return {**files, **{name: CODE.encode() for name in names}}


def test_the_traps_would_be_seen(canary: Path) -> None:
    pickle.loads(PICKLE)
    assert canary.exists()
    canary.unlink()


@pytest.mark.parametrize("name", sorted(TRAPS))
def test_an_import_refuses_it(store: ModelStore, tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "trap", with_code(TRAPS[name]))
    with pytest.raises(LmxError) as caught:
        store.add(folder, "trap")
    assert caught.value.code != "internal_error"
    assert store.list() == []


@pytest.mark.parametrize("name", sorted(TRAPS))
def test_a_download_refuses_it(store: ModelStore, name: str) -> None:
    with FakeHub(**{"org/trap": Repo(with_code(TRAPS[name]))}) as hub:
        with pytest.raises(LmxError) as caught:
            HubPuller(store, endpoint=hub.url, attempts=1).pull("org/trap")
        assert caught.value.code != "internal_error"
        assert not any(served.path.endswith((".py", ".bin", ".pt")) for served in hub.served)
    assert store.list() == []


def test_code_beside_a_sound_model_is_left_behind(store: ModelStore, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", with_code(folder_files()))
    entry = store.add(folder, "imported")
    with FakeHub(**{"org/model": Repo(with_code(folder_files()))}) as hub:
        pulled = HubPuller(store, endpoint=hub.url, attempts=1).pull("org/model")
    for kept in (entry, pulled):
        assert not list(kept.path.rglob("*.py"))
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    "path", ["../../outside.json", "/tmp/outside.json", "a/../../outside.json", "..\\outside.json"]
)
def test_a_listing_that_climbs_writes_nothing_outside(
    store: ModelStore, tmp_path: Path, path: str
) -> None:
    files = folder_files() | {path: b"{}"}
    repo = Repo(files, listing=[sibling(name, data) for name, data in files.items()])
    before = {found for found in tmp_path.rglob("*") if store.root not in found.parents}
    with FakeHub(**{"org/climbs": repo}) as hub:
        with pytest.raises(LmxError) as caught:
            HubPuller(store, endpoint=hub.url, attempts=1).pull("org/climbs")
        assert caught.value.code == "hub_bad_reply"
    after = {found for found in tmp_path.rglob("*") if store.root not in found.parents}
    assert after == before
    assert not Path("/tmp/outside.json").exists()


def test_the_files_that_an_index_names_are_not_opened(store: ModelStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    os.mkfifo(outside)  # whoever opened it would wait for ever
    files = folder_files() | index(**{"model.embed_tokens.weight": "../outside.safetensors"})
    entry = store.add(write_folder(tmp_path / "model", files), "indexed")
    assert not any("outside" in path.name for path in entry.path.rglob("*"))


# --- the load of a model that was exchanged after the check


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real server whose store holds every trap, and a sound model."""
    home = tmp_path_factory.mktemp("home")
    store = ModelStore(home / "models")
    store.sweep()
    templates = {**ESCAPES, **LOOPS, "good": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    for name, template in templates.items():
        source = home / "sources" / f"{flat(name)}.gguf"
        source.parent.mkdir(exist_ok=True)
        write_gguf(source, template=template.replace("CANARY", str(CANARY)))
        store.add(source, flat(name))
    for name, change in EXCHANGED.items():
        entry = store.add(tiny_llama(), flat(name))
        for file, fields in change.items():
            path = entry.path / file
            known = json.loads(path.read_text()) if path.is_file() else {}
            path.unlink(missing_ok=True)  # it may be one file with that of the other tests' model
            path.write_text(json.dumps({**known, **fields}))
        for file, data in with_code({"pytorch_model.bin": PICKLE}).items():
            (entry.path / file).write_bytes(data)
    env = {"LMX_ENGINE__THREADS": "1", "LMX_ENGINE__MAX_RESTARTS": "0"}
    with running_server(home, "--model", "good", **env) as running:
        yield running


EXCHANGED: dict[str, dict[str, dict[str, Any]]] = {
    "file of the model": {"config.json": {"model_file": "trap.py"}},
    "map of the model": {"config.json": {"auto_map": {"AutoModelForCausalLM": "trap.Trap"}}},
    "map of the tokenizer": {
        "tokenizer_config.json": {
            "auto_map": {"AutoTokenizer": ["trap.Trap", None]},
            "tokenizer_class": "Trap",
        }
    },
}


def flat(name: str) -> str:
    return name.replace(" ", "-")


def ask(server: ServerProcess, name: str) -> Any:
    body = {"model": flat(name), "messages": [{"role": "user", "content": SECRET}]}
    url = f"{server.url}/v1/chat/completions"
    return server.http.post(url, json={**body, "max_tokens": 2}, timeout=60)


@pytest.mark.parametrize("name", sorted(EXCHANGED))
def test_a_load_refuses_it(server: ServerProcess, name: str) -> None:
    reply = ask(server, name)
    assert 400 <= reply.status_code < 500, reply.text
    assert reply.json()["error"]["code"]
    assert ask(server, "good").status_code == 200


@pytest.mark.parametrize("name", sorted({**ESCAPES, **LOOPS}))
def test_a_template_gets_nowhere(server: ServerProcess, name: str) -> None:
    reply = ask(server, name)
    error = reply.json()["error"]
    assert reply.status_code < 500, reply.text
    assert error["code"]
    assert "__globals__" not in error["message"] or "<" not in error["message"]
    assert ask(server, "good").status_code == 200
