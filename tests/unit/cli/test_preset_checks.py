"""Doctor's words on presets: which are fine, which file is wrong and where."""

import pytest

from opta_lmx.cli.preset_checks import presets
from opta_lmx.cli.session import open_session
from opta_lmx.models.store import ModelStore
from tests.support.weights import small_gguf
from tests.unit.cli.conftest import Command


def test_presets_are_looked_through(command: Command) -> None:
    session = open_session()
    assert list(presets(session)) == []
    folder = session.home / "presets"
    folder.mkdir(parents=True)
    source = session.home / "m.gguf"
    source.write_bytes(small_gguf())
    ModelStore(session.home / "models").add(source, "m")
    for name, text in (("fine", 'model = "m"'), ("gone", 'model = "x"'), ("bad", "colour = 1")):
        (folder / f"{name}.toml").write_text(text)
    found = {check.subject: check for check in presets(session)}
    assert {subject: check.state for subject, check in found.items()} == {
        "preset file bad.toml": "warning",
        "preset gone": "warning",
        "presets": "ok",
    }
    assert "'colour'" in found["preset file bad.toml"].detail
    assert "'x' does not exist" in found["preset gone"].detail
    assert "correct presets/bad.toml" in found["preset file bad.toml"].detail
    assert "correct presets/gone.toml" in found["preset gone"].detail
    assert found["presets"].detail == "fine"


def test_they_are_left_alone_where_the_settings_are_wrong(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMX_ENGINE__OVERRIDES", '{m = {tool_dialect = "nobodys"}}')
    (check,) = presets(open_session())
    assert (check.subject, check.state) == ("presets", "warning")
