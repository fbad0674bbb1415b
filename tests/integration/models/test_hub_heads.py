"""What is said of a hub model before it is fetched, and how little is fetched to say it."""

import json
from pathlib import Path

import msgspec
import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.models.hub import HubPuller
from opta_lmx.models.hub_heads import MAX_WEIGHT_FILES
from opta_lmx.models.puller import Puller
from opta_lmx.models.store import ModelStore
from tests.support.hub import FakeHub, Repo, sibling
from tests.support.weights import Gguf, folder_files, llama_metadata, safetensors, small_gguf

BIG = 32 << 20
MOST = 12 << 20
"""Bytes sent for headers: what buffers on the way take besides counts as well."""
WEIGHTS = "model.safetensors"


def big_folder(**more: object) -> dict[str, bytes]:
    weights = safetensors({"a": ("F32", (BIG // 4, 1), bytes(BIG))})
    return folder_files(**more) | {WEIGHTS: weights}


def big_gguf(words: int = 32) -> bytes:
    """A file of 32 MB whose header takes as many bytes as its vocabulary asks for."""
    tokens = [f"word {number:09}" for number in range(words)]
    metadata = llama_metadata() | {"tokenizer.ggml.tokens": tokens}
    writer = Gguf(metadata).tensor("token_embd.weight", (8, words))
    return writer.tensor("blk.0.attn_q.weight", (BIG // 128, 32)).data()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    made = ModelStore(tmp_path / "store")
    made.sweep()
    return made


def sent(hub: FakeHub) -> int:
    return sum(one.sent for one in hub.served)


@pytest.mark.parametrize(
    "files",
    [
        big_folder(),
        {"m-Q4_K_M.gguf": big_gguf()},
        {"m-Q4_K_M.gguf": big_gguf(80_000)},
        {"m-Q4_K_M.gguf": small_gguf()},
    ],
    ids=["folder", "gguf", "gguf-with-a-large-vocabulary", "small-gguf"],
)
def test_headers_say_what_the_whole_model_says(store: ModelStore, files: dict[str, bytes]) -> None:
    with FakeHub(**{"org/model": Repo(files)}) as hub:
        puller = HubPuller(store, endpoint=hub.url)
        offer, info = puller.describe("org/model")
        looked = sent(hub)
        assert store.list() == []
        assert not list(store.root.glob(".tmp/*"))
        entry = puller.pull("org/model")
    assert looked < MOST
    assert offer.total_bytes == entry.size_bytes
    assert offer.licence == "mit"
    assert msgspec.structs.replace(info, size_bytes=0) == msgspec.structs.replace(
        entry.info, size_bytes=0
    )


@pytest.mark.parametrize("size", [1 << 50, 1 << 62, 1 << 70])
def test_a_size_that_cannot_be_is_the_hubs_fault(store: ModelStore, size: int) -> None:
    listed = sibling("m-Q4_K_M.gguf", small_gguf())
    listed["size"] = listed["lfs"]["size"] = size
    repo = Repo({"m-Q4_K_M.gguf": small_gguf()}, listing=[listed])
    with FakeHub(**{"org/model": repo}) as hub, pytest.raises(LmxError) as caught:
        HubPuller(store, endpoint=hub.url).describe("org/model")
    assert caught.value.code == "hub_bad_reply"


def test_a_split_file_is_read_part_by_part(store: ModelStore) -> None:
    parts = {}
    for number in (1, 2):
        split = {"split.count": 2, "split.no": number - 1, "split.tensors.count": 2}
        name = "token_embd.weight" if number == 1 else "blk.0.attn_q.weight"
        writer = Gguf(llama_metadata() | split).tensor(name, (32, 8) if number == 1 else (32, 32))
        parts[f"m-0000{number}-of-00002.gguf"] = writer.data()
    with FakeHub(**{"org/model": Repo(parts)}) as hub:
        puller = HubPuller(store, endpoint=hub.url)
        whole = puller.pull("org/model").info
        store.delete("org/model")
        assert puller.describe("org/model")[1] == whole


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"\x80"}, "pickle_refused"),
        (big_folder(auto_map={"AutoModel": "x.Y"}), "remote_code_refused"),
        ({"m.gguf": b"GGUF" + bytes(5000)}, "invalid_gguf"),
        (big_folder() | {WEIGHTS: b"\xff" * 64}, "invalid_safetensors"),
    ],
)
def test_what_a_pull_refuses_is_refused(
    store: ModelStore, files: dict[str, bytes], code: str
) -> None:
    with FakeHub(**{"org/model": Repo(files)}) as hub, pytest.raises(LmxError) as refused:
        HubPuller(store, endpoint=hub.url).describe("org/model")
    assert refused.value.code == code
    assert not list(store.root.glob(".tmp/*"))


def test_a_model_in_too_many_files_is_not_looked_at(store: ModelStore) -> None:
    shards = {f"model-{n:03}.safetensors": b"" for n in range(MAX_WEIGHT_FILES + 1)}
    with FakeHub(**{"org/model": Repo(folder_files() | shards)}) as hub:
        with pytest.raises(LmxError) as refused:
            HubPuller(store, endpoint=hub.url).describe("org/model")
        assert not hub.sent("config.json")
    assert refused.value.code == "too_many_files"


def test_a_connection_cut_within_the_header_is_said(store: ModelStore) -> None:
    name = "m-Q4_K_M.gguf"
    repo = Repo({name: small_gguf()}, cut={name: 0.05}, cuts=9)
    with FakeHub(**{"org/model": repo}) as hub, pytest.raises(LmxError) as refused:
        HubPuller(store, endpoint=hub.url).describe("org/model")
    assert refused.value.code == "hub_unreachable"


def test_an_offer_counts_what_is_here_already(store: ModelStore) -> None:
    repo = Repo(big_folder(), cut={WEIGHTS: 0.5}, cuts=9)
    with FakeHub(**{"org/model": repo}) as hub:
        puller = HubPuller(store, endpoint=hub.url, attempts=1)
        with pytest.raises(LmxError):
            puller.pull("org/model")
        offer = puller.look("org/model")
        assert BIG // 2 <= offer.held_bytes < offer.total_bytes
        assert offer.missing_bytes == offer.total_bytes - offer.held_bytes
        assert puller.held_bytes("org/model") == offer.held_bytes
        repo.commit = "f" * 40
        assert puller.look("org/model").held_bytes == 0
        repo.cut = {}
        entry = puller.pull("org/model")
        assert puller.look("org/model").missing_bytes == 0
    assert json.loads((entry.path / "config.json").read_bytes())


def test_nothing_is_asked_of_the_hub_where_fetching_is_off(store: ModelStore) -> None:
    with FakeHub(**{"org/model": Repo(big_folder())}) as hub:
        puller = Puller(store, endpoint=hub.url, enabled=False)
        for look in (puller.look, puller.describe):
            with pytest.raises(LmxError) as refused:
                look("org/model")
            assert refused.value.code == "downloads_disabled"
        assert hub.served == []
    assert Puller(store).look("starter").origin == "starter"
    assert Puller(store).held_bytes("starter") == 0
