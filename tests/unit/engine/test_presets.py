"""Which preset or model a name means, and which aliases a preset may take."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opta_lmx.api.admin.presets import AdminPresets
from opta_lmx.api.preset_files import parse_preset
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.presets import Directory
from opta_lmx.models.presets import Presets
from tests.support.sim import SimResolver


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "tutor.toml").write_text('model = "starter"\nalias = "acme"\nwarm = true')
    (folder / "gone.toml").write_text('model = "nowhere"')
    models = SimResolver(tmp_path, {"starter": {}, "org/other-Q4_K_M": {}})
    models.aliases["gpt-4o"] = "starter"
    found = Directory(models, Presets(folder, parse_preset), ["gpt-4o"])
    assert found.reload().presets == ("gone", "tutor")
    return found


def meant(directory: Directory, ref: str) -> str | None:
    preset = directory.preset(ref)
    return None if preset is None else preset.name


@pytest.mark.parametrize(
    "ref", ["preset:tutor", "PRESET:Tutor", "acme", "ACME", "lmx/preset:tutor", "a/b/acme"]
)
def test_names_of_a_preset(directory: Directory, ref: str) -> None:
    assert meant(directory, ref) == "tutor"
    assert directory.canonical(ref) == "starter"
    assert directory.plan(ref).ref == "starter"


@pytest.mark.parametrize("ref", ["starter", "gpt-4o", "other", "x/starter", "nothing", ""])
def test_names_of_none(directory: Directory, ref: str) -> None:
    assert meant(directory, ref) is None


def test_a_models_own_name_comes_first(directory: Directory, tmp_path: Path) -> None:
    models = SimResolver(tmp_path, {"acme": {}, "starter": {}, "big/acme-co": {}})
    later = Directory(models, directory.presets)
    assert meant(later, "acme") is None
    assert meant(later, "x/acme") is None
    assert later.canonical("acme") == "acme"
    assert meant(later, "preset:tutor") == "tutor"


@pytest.mark.parametrize(
    ("alias", "word"), [("gpt-4o", "models.aliases"), ("Starter", "name of a model")]
)
def test_aliases_that_mean_something_else(
    directory: Directory, tmp_path: Path, alias: str, word: str
) -> None:
    (tmp_path / "presets" / "new.toml").write_text(f'model = "starter"\nalias = "{alias}"')
    (refused,) = directory.reload().refused
    assert (refused.file, refused.param) == ("new.toml", "alias")
    assert word in refused.message


def test_an_unknown_preset_and_a_preset_without_its_model(directory: Directory) -> None:
    for ask in (directory.canonical, directory.plan, directory.preset):
        with pytest.raises(LmxError) as caught:
            ask("preset:tuotr")
        assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND
        assert "'gone', 'tutor'" in caught.value.message
    for ask in (directory.canonical, directory.plan):
        with pytest.raises(LmxError, match=r"'nowhere'.*Preset 'gone'") as caught:
            ask("preset:gone")
        assert caught.value.param == "model"


def test_what_is_kept_loaded(directory: Directory) -> None:
    assert directory.warm() == ["starter"]


def test_what_is_kept_loaded_is_the_presets_own_model(directory: Directory, tmp_path: Path) -> None:
    folder = tmp_path / "presets"
    (folder / "tutor.toml").write_text('model = "other"\nwarm = true')
    (folder / "taker.toml").write_text('model = "starter"\nalias = "other"')
    (folder / "gone.toml").write_text('model = "nowhere"\nwarm = true')
    directory.reload()
    assert directory.warm() == ["preset:gone", "org/other-Q4_K_M"]
    assert directory.canonical("other") == "starter"
    assert directory.canonical(directory.warm()[1]) == "org/other-Q4_K_M"


def test_an_alias_ends_where_a_models_org_begins(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "presets" / "taker.toml").write_text('model = "starter"\nalias = "other"')
    assert directory.reload().refused == ()
    assert meant(directory, "other") == meant(directory, "openai/other") == "taker"
    for ref in ("org/other", "ORG/other", "openai/org/other"):
        assert meant(directory, ref) is None
        assert directory.canonical(ref) == "org/other-Q4_K_M"
    assert meant(directory, "org/acme") is None


def test_no_request_sees_half_a_reload(directory: Directory, tmp_path: Path) -> None:
    """While a request is at the gate, which waits for nothing, presets stay as they are."""
    (tmp_path / "presets" / "tutor.toml").write_text('model = "org/other-Q4_K_M"')

    async def body() -> None:
        loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(1)
        loop.set_default_executor(threads)
        reloading = asyncio.create_task(AdminPresets(directory).reload())
        await asyncio.sleep(0)
        threads.shutdown(wait=True)  # the folder has been read, and nothing else has run
        assert not reloading.done()
        assert directory.canonical("preset:tutor") == "starter"
        assert (await reloading)["changed"] == ("tutor",)
        assert directory.canonical("preset:tutor") == "org/other-Q4_K_M"

    asyncio.run(body())


def test_an_adapters_name_comes_before_an_alias_alike(directory: Directory, tmp_path: Path) -> None:
    models = SimResolver(tmp_path, {"starter": {}})
    models.adapters = {"starter": {"law": "v1"}}
    (tmp_path / "presets" / "tutor.toml").write_text('model = "starter:law"\nalias = "acme"')
    later = Directory(models, directory.presets)
    later.reload()
    assert (later.canonical("acme"), later.adapter("acme")) == ("starter", "law")
    assert (later.canonical("preset:tutor"), later.adapter("preset:tutor")) == ("starter", "law")
    assert (later.canonical("starter:law"), later.adapter("starter:law")) == ("starter", "law")
    assert later.adapter("starter") == ""
    (tmp_path / "presets" / "taker.toml").write_text('model = "starter"\nalias = "starter:law"')
    assert "taker.toml" in [one.file for one in later.reload().refused]
    assert later.preset("starter:law") is None
