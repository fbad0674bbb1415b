"""The store: adding, listing, deleting, conversions; damage is named and nothing is half there."""

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.manifest import MANIFEST
from opta_lmx.models.progress import Progress
from opta_lmx.models.store import RESERVE_BYTES, ModelStore
from tests.support.weights import Gguf, folder_files, small_gguf, write_folder


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    made = ModelStore(tmp_path / "store")
    made.sweep()
    return made


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "Small Model.gguf"
    path.write_bytes(small_gguf())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "small", folder_files())


def visible(store: ModelStore) -> list[str]:
    """Everything in the store's folder but its own machinery."""
    found = [path for path in store.root.rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(store.root)) for path in found if ".locks" not in path.parts)


def code_of(caught: pytest.ExceptionInfo[LmxError]) -> str:
    return caught.value.code


def test_add_a_file(store: ModelStore, gguf: Path) -> None:
    reports: list[Progress] = []
    entry = store.add(gguf, progress=reports.append)
    assert entry.name == "Small-Model"
    assert entry.format == "gguf"
    assert entry.path == store.root / "Small-Model" / "Small Model.gguf"
    assert entry.path.read_bytes() == gguf.read_bytes()
    assert entry.size_bytes == gguf.stat().st_size
    assert entry.source == f"file:{gguf}"
    assert entry.info.architecture == "llama"
    assert entry.created_ms > 1_700_000_000_000
    assert store.list() == [entry]
    assert store.get("Small-Model") == entry
    assert reports[-1].state == "done"
    assert reports[-1].done_bytes == reports[-1].total_bytes == entry.size_bytes


def test_the_record_holds_checksums(store: ModelStore, folder: Path) -> None:
    store.add(folder, "org/small")
    record = json.loads((store.root / "org/small" / MANIFEST).read_text())
    files = {item["name"]: (item["size"], item["sha256"]) for item in record["files"]}
    assert files == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in folder_files().items()
    }


def test_add_a_folder(store: ModelStore, folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit")
    (folder / ".hidden.json").write_text("{}")
    (folder / "notes.md").write_text("x")
    (folder / "LICENSE").write_text("x")
    (folder / "sub").mkdir()
    entry = store.add(folder, "org/small")
    assert entry.format == "mlx"
    assert entry.path == store.root / "org/small"
    names = {path.name for path in entry.path.iterdir()}
    assert names == {*folder_files(), "LICENSE", MANIFEST}


def test_files_behind_links_are_copied(store: ModelStore, folder: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    entry = store.add(folder)
    stored = entry.path / "model.safetensors"
    assert not stored.is_symlink()
    assert stored.read_bytes() == blob.read_bytes()


def test_split_files_stay_together(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "big-00001-of-00002.gguf").write_bytes(small_gguf(split__no=0))
    rest = Gguf({"split.no": 1}).tensor("more", (8,)).data()
    (tmp_path / "big-00002-of-00002.gguf").write_bytes(rest)
    entry = store.add(tmp_path / "big-00001-of-00002.gguf")
    assert entry.name == "big"
    assert entry.path.name == "big-00001-of-00002.gguf"
    assert len([path for path in entry.path.parent.iterdir() if path.suffix == ".gguf"]) == 2


def test_what_is_refused_leaves_nothing(store: ModelStore, folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "x.Y"}}))
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GGUF" + b"\xff" * 100)
    for source, code in (
        (folder, "remote_code_refused"),
        (garbage, "invalid_gguf"),
        (tmp_path / "absent.gguf", "not_a_model"),
    ):
        with pytest.raises(LmxError) as caught:
            store.add(source, "org/name")
        assert code_of(caught) == code
    assert visible(store) == []
    assert store.list() == []


def test_cancelling_leaves_nothing(store: ModelStore, gguf: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(LmxError) as caught:
        store.add(gguf, cancel=cancel)
    assert code_of(caught) == "cancelled"
    assert visible(store) == []


@pytest.mark.parametrize("name", ["small", "SMALL", "small/inner"])
def test_names_that_clash(store: ModelStore, gguf: Path, name: str) -> None:
    first = store.add(gguf, "small")
    with pytest.raises(LmxError) as caught:
        store.add(gguf, name)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert code_of(caught) == "model_exists"
    assert store.list() == [first]


@pytest.mark.parametrize("name", ["org", "ORG", "Org/other", "org/SMALL"])
def test_names_that_clash_with_a_group(store: ModelStore, gguf: Path, name: str) -> None:
    store.add(gguf, "org/small")
    with pytest.raises(LmxError) as caught:
        store.add(gguf, name)
    assert code_of(caught) == "model_exists"
    assert store.add(gguf, "org/other").name == "org/other"


@pytest.mark.parametrize("name", ["../x", "/x", "a/b/c", ".tmp/x"])
def test_names_that_climb(store: ModelStore, gguf: Path, name: str) -> None:
    with pytest.raises(LmxError) as caught:
        store.add(gguf, name)
    assert code_of(caught) == "invalid_model_name"
    for call in (store.get, store.delete):
        with pytest.raises(LmxError) as caught:
            call(name)
        assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND


@pytest.mark.parametrize("name", ["absent", "org", "org/absent", "SMALL", "small/mlx", ""])
def test_unknown_models(store: ModelStore, gguf: Path, name: str) -> None:
    store.add(gguf, "small")
    store.add(gguf, "org/small")
    (store.conversion_dir("small")).mkdir()
    for call in (store.get, store.delete):
        with pytest.raises(LmxError) as caught:
            call(name)
        assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND
        assert caught.value.param == "model"
    assert store.find(name) is None


def test_delete(store: ModelStore, gguf: Path) -> None:
    entry = store.add(gguf, "org/small")
    assert store.delete("org/small") >= entry.size_bytes
    assert visible(store) == []
    assert not (store.root / "org").exists()
    assert store.add(gguf, "org/small") is not None


def test_the_second_of_two_deletes_finds_nothing(
    store: ModelStore, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(gguf, "small")
    seen = store.list()
    store.delete("small")
    monkeypatch.setattr(store, "list", lambda: seen)
    with pytest.raises(LmxError) as caught:
        store.delete("small")
    assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND


def test_a_linked_model_frees_nothing_and_leaves_what_it_points_to(
    store: ModelStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "large").write_bytes(b"x" * 1000)
    (store.root / "docs").symlink_to(outside)
    assert store.delete("docs") == 0
    assert visible(store) == []
    assert (outside / "large").stat().st_size == 1000


def test_a_group_does_not_go_while_a_sibling_is_put_into_it(
    store: ModelStore, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(gguf, "org/one")
    deleting = threading.Thread(target=store.delete, args=("org/one",))
    made = Path.mkdir

    def mkdir(path: Path, *args: Any, **options: Any) -> None:
        made(path, *args, **options)
        if path == store.root / "org":  # between the group and the sibling in it
            deleting.start()
            deleting.join(0.2)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    store.add(gguf, "org/two")
    deleting.join(10)
    assert [entry.name for entry in store.list()] == ["org/two"]


def test_delete_spares_the_neighbours_and_the_source(store: ModelStore, gguf: Path) -> None:
    store.add(gguf, "org/one")
    other = store.add(gguf, "org/two")
    store.delete("org/one")
    assert store.list() == [other]
    assert gguf.stat().st_size == other.size_bytes


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"{" * 100_000)


def lose_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def rename_in_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"name": "bad"', '"name": "good"'))


def climb_in_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("Small Model.gguf", "../good/Small Model.gguf"))


def damage_info(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"format": "gguf"', '"format": "bin"'))


def shorten(folder: Path) -> None:
    path = folder / "Small Model.gguf"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])


def lose_weights(folder: Path) -> None:
    (folder / "Small Model.gguf").unlink()


def link_weights(folder: Path) -> None:
    path = folder / "Small Model.gguf"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    "harm",
    [
        damage_manifest,
        lose_manifest,
        rename_in_manifest,
        climb_in_manifest,
        damage_info,
        shorten,
        lose_weights,
        link_weights,
    ],
)
def test_damaged_models_are_listed_with_a_reason(store: ModelStore, gguf: Path, harm) -> None:
    good, bad = store.add(gguf, "good"), store.add(gguf, "bad")
    harm(bad.path.parent)
    entries = {entry.name: entry for entry in store.list()}
    assert entries["good"] == good
    assert entries["bad"].broken
    with pytest.raises(LmxError) as caught:
        store.get("bad")
    assert code_of(caught) == "model_broken"
    store.delete("bad")
    assert store.list() == [good]


def test_links_out_of_the_store_are_not_followed(
    store: ModelStore, gguf: Path, tmp_path: Path
) -> None:
    outside = ModelStore(tmp_path / "outside")
    outside.add(gguf, "model")
    (store.root / "model").symlink_to(outside.root / "model")
    (store.root / "org").symlink_to(outside.root)
    assert {entry.name: bool(entry.broken) for entry in store.list()} == {
        "model": True,
        "org": True,
    }
    for name in ("model", "org/model"):
        with pytest.raises(LmxError):
            store.get(name)
    store.delete("model")
    assert outside.get("model").path.is_file()


def test_strange_folders_do_not_break_the_list(store: ModelStore, gguf: Path) -> None:
    good = store.add(gguf, "good")
    (store.root / "my model (1)").mkdir()
    (store.root / "my model (1)" / "x.gguf").write_bytes(b"")
    (store.root / "file.gguf").write_bytes(b"")
    (store.root / "dangling").symlink_to(store.root / "nowhere")
    found = {entry.name: entry for entry in store.list()}
    assert found["good"] == good
    assert found["my model (1)"].broken
    assert set(found) == {"good", "my model (1)"}


def test_an_older_record_is_read_anew(store: ModelStore, gguf: Path) -> None:
    entry = store.add(gguf, "small")
    path = store.root / "small" / MANIFEST
    record = json.loads(path.read_text())
    record |= {"version": 0, "info": {"of": "another shape"}}
    path.write_text(json.dumps(record))
    assert store.get("small") == entry


def test_an_absent_store_is_empty(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "nowhere")
    assert store.list() == []
    assert store.find("x") is None
    assert not store.root.exists()


def test_a_store_that_is_no_folder(tmp_path: Path, gguf: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = ModelStore(tmp_path / "file")
    for call in (store.sweep, store.list, lambda: store.add(gguf)):
        with pytest.raises(LmxError) as caught:
            call()
        assert caught.value.kind is ErrorKind.UNAVAILABLE
        assert code_of(caught) == "store_unusable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "sealed").mkdir(mode=0o500)
    with pytest.raises(LmxError) as caught:
        ModelStore(tmp_path / "sealed" / "store").sweep()
    assert code_of(caught) == "store_unusable"


def test_a_full_disk(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store", disk_free=lambda _: RESERVE_BYTES + 10)
    store.refuse_full_disk(10)
    with pytest.raises(LmxError) as caught:
        store.refuse_full_disk(11)
    assert caught.value.kind is ErrorKind.INSUFFICIENT_RESOURCES
    assert code_of(caught) == "insufficient_disk"


def test_one_operation_on_a_name_at_a_time(store: ModelStore, gguf: Path) -> None:
    store.add(gguf, "org/small")
    elsewhere = ModelStore(store.root)
    with store.claim("org/Small"):
        for call in (
            lambda: elsewhere.add(gguf, "org/small"),
            lambda: elsewhere.delete("org/small"),
        ):
            with pytest.raises(LmxError) as caught:
                call()
            assert code_of(caught) == "model_busy"
        elsewhere.add(gguf, "org/other")
    elsewhere.delete("org/small")


def test_conversions(store: ModelStore, gguf: Path) -> None:
    store.add(gguf, "small")
    assert not store.has_conversion("small")
    tmp = store.begin_conversion("small")
    write_folder(tmp, folder_files())
    assert not store.has_conversion("small")
    final = store.finish_conversion("small", tmp)
    assert final == store.conversion_dir("small") == store.root / "small" / "mlx"
    assert store.has_conversion("small")
    assert store.get("small").converted
    assert not tmp.exists()
    assert [entry.name for entry in store.list()] == ["small"]
    store.delete("small")
    assert visible(store) == []


def test_a_conversion_in_use_is_not_replaced(store: ModelStore, gguf: Path) -> None:
    store.add(gguf, "small")
    first, second = (write_folder(store.begin_conversion("small"), folder_files()) for _ in "ab")
    final = store.finish_conversion("small", first)
    before = (final / "model.safetensors").stat()
    assert store.finish_conversion("small", second) == final
    assert (final / "model.safetensors").stat() == before
    assert not second.exists()


def test_a_finished_conversion_waits_for_whoever_holds_the_name(
    store: ModelStore, gguf: Path
) -> None:
    store.add(gguf, "small")
    tmp = write_folder(store.begin_conversion("small"), folder_files())
    done: list[Path] = []
    thread = threading.Thread(target=lambda: done.append(store.finish_conversion("small", tmp)))
    with store.claim("small"):
        thread.start()
        thread.join(0.1)
        assert not done
    thread.join(10)
    assert done == [store.conversion_dir("small")]
    assert store.has_conversion("small")


def test_a_failed_conversion_leaves_nothing(store: ModelStore, gguf: Path) -> None:
    store.add(gguf, "small")
    before = visible(store)
    tmp = store.begin_conversion("small")
    write_folder(tmp, folder_files() | {"model.safetensors": b"torn"})
    with pytest.raises(LmxError) as caught:
        store.finish_conversion("small", tmp)
    assert code_of(caught) == "invalid_safetensors"
    other = store.begin_conversion("small")
    store.abandon(other)
    assert visible(store) == before
    assert not store.has_conversion("small")


def test_a_conversion_of_a_deleted_model(store: ModelStore, gguf: Path) -> None:
    store.add(gguf, "small")
    tmp = write_folder(store.begin_conversion("small"), folder_files())
    store.delete("small")
    with pytest.raises(LmxError) as caught:
        store.finish_conversion("small", tmp)
    assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND
    assert visible(store) == []


def test_sweeping_spares_what_is_in_work(store: ModelStore, gguf: Path) -> None:
    store.add(gguf, "small")
    tmp = store.begin_conversion("small")
    assert ModelStore(store.root).sweep() == 0
    assert tmp.is_dir()
    leftover = store.root / ".tmp" / "leftover"
    write_folder(leftover, folder_files())
    assert ModelStore(store.root).sweep() == 1
    assert not leftover.exists()
    store.abandon(tmp)
    assert list((store.root / ".tmp").iterdir()) == []
