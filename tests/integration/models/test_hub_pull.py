"""Pulling from the hub with the real client: success, cuts, refusals; never half a model."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from opta_lmx import __version__
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.hub import HubPuller
from opta_lmx.models.manifest import MANIFEST
from opta_lmx.models.progress import Progress
from opta_lmx.models.puller import Puller
from opta_lmx.models.store import RESERVE_BYTES, ModelStore
from tests.support.hub import FakeHub, Repo, sibling
from tests.support.weights import Gguf, folder_files, llama_metadata, safetensors, small_gguf

WEIGHTS = "model.safetensors"
OTHER_COMMIT = "f" * 40


def big_files(**more: object) -> dict[str, bytes]:
    """A model folder whose weights take 1 MB."""
    weights = safetensors({"a": ("F32", (512, 512), bytes(range(256)) * 4096)})
    return folder_files(**more) | {WEIGHTS: weights}


PICKLED = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."}
TORN = big_files() | {WEIGHTS: b"torn"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(**{"org/model": Repo(big_files())}) as running:
        yield running


@pytest.fixture
def repo(hub: FakeHub) -> Repo:
    return hub.repos["org/model"]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    made = ModelStore(tmp_path / "store")
    made.sweep()
    return made


def puller(hub: FakeHub, store: ModelStore, attempts: int = 1) -> HubPuller:
    return HubPuller(store, endpoint=hub.url, attempts=attempts)


def refused(hub: FakeHub, store: ModelStore, ref: str = "org/model") -> LmxError:
    """A pull that must fail; afterwards the store lists nothing of it."""
    with pytest.raises(LmxError) as caught:
        puller(hub, store).pull(ref)
    assert store.list() == []
    with pytest.raises(LmxError) as gone:
        store.get("org/model")
    assert gone.value.kind is ErrorKind.MODEL_NOT_FOUND
    return caught.value


def test_pull_an_embedder_with_its_pooling(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    pooling = b'{"pooling_mode_cls_token": true}'
    repo.files |= {"1_Pooling/config.json": pooling, "2_Dense/model.safetensors": b"x"}
    entry = puller(hub, store).pull("org/model")
    assert entry.kind == "embedding"
    assert (entry.path / "1_Pooling_config.json").read_bytes() == pooling
    assert (entry.path / "config.json").read_bytes() == big_files()["config.json"]
    assert store.get("org/model") == entry


def test_pull_a_folder(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    repo.files |= {"README.md": b"x", "evil.py": b"x", "onnx/model.bin": b"x"}
    reports: list[Progress] = []
    entry = puller(hub, store).pull("org/model", reports.append)
    assert entry == store.get("org/model")
    assert {path.name for path in entry.path.iterdir()} == {*big_files(), MANIFEST}
    for name, data in big_files().items():
        assert (entry.path / name).read_bytes() == data
    assert entry.source == f"hub:org/model@{repo.commit}"
    assert entry.licence == "mit"
    assert entry.info.format == "mlx"
    states = [report.state for report in reports]
    assert states[0] == "resolving"
    assert states[-2:] == ["verifying", "done"]
    assert set(states[1:-2]) == {"downloading"}
    done = [report.done_bytes for report in reports]
    assert done == sorted(done)
    total = sum(map(len, big_files().values()))
    assert reports[-1].done_bytes == reports[-1].total_bytes == total
    assert not store.partial_dir("org/model").exists()


def test_nothing_is_said_about_this_machine(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setenv("HF_TOKEN", "the user's own, meant for another hub")
    puller(hub, store).pull("org/model")
    assert {served.user_agent for served in hub.served} == {f"opta-lmx/{__version__}"}
    assert {served.authorization for served in hub.served} == {None}


def test_a_second_pull_asks_nobody(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    first = puller(hub, store).pull("org/model")
    before = len(hub.served)
    assert puller(hub, store).pull("org/model") == first
    assert len(hub.served) == before
    assert puller(hub, store).pull(f"org/model@{repo.commit}") == first
    repo.commit = OTHER_COMMIT
    with pytest.raises(LmxError) as caught:
        puller(hub, store).pull("org/model@main")
    assert caught.value.code == "model_exists"
    assert store.get("org/model") == first


def test_pull_one_file_of_several(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    repo.files = {f"m-{quant}.gguf": small_gguf() for quant in ("Q8_0", "Q4_K_M", "Q4_0")}
    assert puller(hub, store).pull("org/model").path.name == "m-Q4_K_M.gguf"
    entry = puller(hub, store).pull("org/model/m-Q8_0.gguf@main")
    assert entry.name == "org/m-Q8_0"
    assert entry.source == f"hub:org/model/m-Q8_0.gguf@{repo.commit}"
    assert [known.name for known in store.list()] == ["org/m-Q8_0", "org/model"]


def test_pull_a_split_file(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    rest = Gguf(llama_metadata(split__no=1)).tensor("more", (8,)).data()
    repo.files = {"q/m-00001-of-00002.gguf": small_gguf(), "q/m-00002-of-00002.gguf": rest}
    entry = puller(hub, store).pull("org/model")
    assert entry.path.name == "m-00001-of-00002.gguf"
    assert entry.info.parameters == 32 * 8 + 32 * 32 + 8


def test_a_cut_is_resumed_by_the_next_pull(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    size = len(repo.files[WEIGHTS])
    repo.cut = {WEIGHTS: 0.4}
    assert refused(hub, store).code == "hub_unreachable"
    (first,) = hub.sent(WEIGHTS)
    assert first.range is None
    assert first.sent == int(size * 0.4)

    reports: list[Progress] = []
    entry = puller(hub, store).pull("org/model", reports.append)
    _, second = hub.sent(WEIGHTS)
    assert second.status == 206
    assert second.range == f"bytes={first.sent}-"
    assert second.sent == size - first.sent
    assert (entry.path / WEIGHTS).read_bytes() == repo.files[WEIGHTS]
    assert reports[-1].done_bytes == reports[-1].total_bytes
    # What was complete before the cut is not asked for again, but for the code check.
    assert len(hub.sent("tokenizer.json")) == 1
    assert len(hub.sent("config.json")) == 3


def test_cuts_are_resumed_within_one_pull(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    repo.cut = {WEIGHTS: 0.4}
    entry = puller(hub, store, attempts=2).pull("org/model")
    assert [one.range for one in hub.sent(WEIGHTS)] == [
        None,
        f"bytes={int(entry_size(repo) * 0.4)}-",
    ]
    assert (entry.path / WEIGHTS).read_bytes() == repo.files[WEIGHTS]


def entry_size(repo: Repo) -> int:
    return len(repo.files[WEIGHTS])


def pull_in_child(url: str, root: Path) -> None:
    HubPuller(ModelStore(root), endpoint=url).pull("org/model")


def test_a_killed_pull_is_resumed(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    repo.hold = {WEIGHTS: threading.Event()}
    child = multiprocessing.get_context("spawn").Process(
        target=pull_in_child, args=(hub.url, store.root)
    )
    child.start()
    part = store.partial_dir("org/model") / "files" / f"{WEIGHTS}.part"
    wait_for_bytes(part)
    with pytest.raises(LmxError) as caught:
        puller(hub, store).pull("org/model")
    assert caught.value.code == "model_busy"
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(10)
    child.close()
    held = part.stat().st_size
    repo.hold.popitem()[1].set()
    store.sweep()
    assert store.list() == []

    puller(hub, store).pull("org/model")
    last = hub.sent(WEIGHTS)[-1]
    assert last.range == f"bytes={held}-"
    assert last.sent == entry_size(repo) - held


def wait_for_bytes(path: Path) -> None:
    """Poll until the file has content."""
    ticks = threading.Event()
    for _ in range(3000):
        if path.exists() and path.stat().st_size:
            return
        ticks.wait(0.01)
    raise AssertionError("nothing arrived")


def test_a_hub_that_cannot_resume(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    repo.cut = {WEIGHTS: 0.4}
    refused(hub, store)
    repo.ignore_range = True
    entry = puller(hub, store).pull("org/model")
    assert hub.sent(WEIGHTS)[-1].sent == entry_size(repo)
    assert (entry.path / WEIGHTS).read_bytes() == repo.files[WEIGHTS]


def test_bytes_of_another_commit_are_not_used(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    repo.cut = {WEIGHTS: 0.4}
    refused(hub, store)
    repo.commit = OTHER_COMMIT
    puller(hub, store).pull("org/model")
    assert hub.sent(WEIGHTS)[-1].range is None


def test_a_part_longer_than_the_file(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    repo.cut = {WEIGHTS: 0.4}
    refused(hub, store)
    part = store.partial_dir("org/model") / "files" / f"{WEIGHTS}.part"
    part.write_bytes(bytes(entry_size(repo) + 1))
    entry = puller(hub, store).pull("org/model")
    assert (entry.path / WEIGHTS).read_bytes() == repo.files[WEIGHTS]


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_wrong_checksum(hub: FakeHub, repo: Repo, store: ModelStore, name: str) -> None:
    repo.corrupt = {name}
    error = refused(hub, store)
    assert error.kind is ErrorKind.UPSTREAM_FAILED
    assert error.code == "checksum_mismatch"
    repo.corrupt = set()
    entry = puller(hub, store).pull("org/model")
    assert (entry.path / name).read_bytes() == repo.files[name]


def test_more_bytes_than_announced(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    repo.listing = [sibling(path, data[:-1]) for path, data in repo.files.items()]
    assert refused(hub, store).code == "checksum_mismatch"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gated": True}, (ErrorKind.FORBIDDEN, "hub_gated")),
        ({"private": True}, (ErrorKind.NOT_FOUND, "hub_not_found")),
        ({"token": "right"}, (ErrorKind.FORBIDDEN, "hub_unauthorized")),
        ({"files": {"README.md": b""}}, (ErrorKind.INVALID_REQUEST, "no_weights")),
        ({"files": PICKLED}, (ErrorKind.FORBIDDEN, "pickle_refused")),
        ({"files": big_files(auto_map={"A": "b.C"})}, (ErrorKind.FORBIDDEN, "remote_code_refused")),
        ({"files": big_files(model_file="x.py")}, (ErrorKind.FORBIDDEN, "remote_code_refused")),
        ({"files": TORN}, (ErrorKind.INVALID_REQUEST, "invalid_safetensors")),
        ({"files": {"x.gguf": b"GGUF"}}, (ErrorKind.INVALID_REQUEST, "invalid_gguf")),
    ],
)
def test_refusals(
    hub: FakeHub,
    repo: Repo,
    store: ModelStore,
    change: dict[str, object],
    expected: tuple[ErrorKind, str],
) -> None:
    for key, value in change.items():
        setattr(repo, key, value)
    error = refused(hub, store)
    assert (error.kind, error.code) == expected
    assert hub.sent(WEIGHTS) == [] or error.code == "invalid_safetensors"
    assert not store.partial_dir("org/model").exists()


def test_a_gated_file(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    repo.files = {"m-Q4_0.gguf": small_gguf()}
    repo.gated = True
    assert refused(hub, store).code == "hub_gated"
    assert not store.partial_dir("org/model").exists()


def test_what_is_not_there(hub: FakeHub, store: ModelStore) -> None:
    for ref in ("org/absent", "org/model@nowhere"):
        assert refused(hub, store, ref).code == "hub_not_found"
    assert refused(hub, store, "org/model/absent.gguf").code == "no_weights"


def test_a_token_opens_the_door(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    repo.token = "right"
    HubPuller(store, endpoint=hub.url, token="right").pull("org/model")
    assert {served.authorization for served in hub.served} == {"Bearer right"}


def test_a_full_disk(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    total = sum(map(len, repo.files.values()))
    free = RESERVE_BYTES + total - 1
    store = ModelStore(tmp_path / "store", disk_free=lambda _: free)
    error = refused(hub, store)
    assert error.kind is ErrorKind.INSUFFICIENT_RESOURCES
    assert error.code == "insufficient_disk"
    assert hub.sent(WEIGHTS) == []
    assert not store.partial_dir("org/model").exists()
    free += 1
    puller(hub, store).pull("org/model")


@pytest.mark.parametrize(
    "listing",
    [
        [{"rfilename": "../config.json", "size": 1, "blobId": "0" * 40}],
        [{"rfilename": "/etc/x.gguf", "size": 1, "blobId": "0" * 40}],
        [{"rfilename": "x.gguf", "size": -1, "blobId": "0" * 40}],
        [{"rfilename": "x.gguf", "size": 1 << 62, "blobId": "0" * 40}],
        [{"rfilename": "x.gguf", "size": 1 << 70, "blobId": "0" * 40}],
        [{"rfilename": "x.gguf", "size": 1}],
        [{"rfilename": "x.gguf", "blobId": "0" * 40}],
        [{"rfilename": "x.gguf", "size": 1, "lfs": {"size": "x"}}],
        [{"size": 1}],
        ["x.gguf"],
    ],
)
def test_senseless_listings(hub: FakeHub, repo: Repo, store: ModelStore, listing: list) -> None:
    repo.listing = listing
    error = refused(hub, store)
    assert error.kind is ErrorKind.UPSTREAM_FAILED
    assert error.code == "hub_bad_reply"


def test_nobody_there(store: ModelStore) -> None:
    hub = FakeHub()
    with hub:
        pass
    error = refused(hub, store)
    assert error.kind is ErrorKind.UPSTREAM_FAILED
    assert error.code == "hub_unreachable"


def test_offline(hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refused(hub, store).code == "hub_offline"
    assert hub.served == []


def test_downloads_switched_off(hub: FakeHub, store: ModelStore) -> None:
    off = Puller(store, endpoint=hub.url, enabled=False)
    for ref in ("org/model", "starter"):
        with pytest.raises(LmxError) as caught:
            off.pull(ref)
        assert caught.value.code == "downloads_disabled"
    assert hub.served == []
    on = Puller(store, endpoint=hub.url)
    assert on.model_name("org/model@main") == "org/model"
    assert on.pull("org/model") == off.pull("org/model")


def test_cancelling_keeps_the_bytes(hub: FakeHub, repo: Repo, store: ModelStore) -> None:
    cancel = threading.Event()

    def stop(report: Progress) -> None:
        if report.file == WEIGHTS:
            cancel.set()

    with pytest.raises(LmxError) as caught:
        puller(hub, store).pull("org/model", stop, cancel)
    assert caught.value.code == "cancelled"
    assert store.list() == []
    assert (store.partial_dir("org/model") / "files" / "config.json").is_file()
    assert json.loads((store.partial_dir("org/model") / "pull.json").read_text())["repo"]
    puller(hub, store).pull("org/model")
    assert len(hub.sent("tokenizer.json")) == 1
