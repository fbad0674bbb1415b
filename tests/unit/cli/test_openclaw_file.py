"""Writing into OpenClaw's file: everything else stays, and what cannot be kept is not touched."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.cli.openclaw_file import (
    Served,
    answer_limit,
    config_path,
    merged,
    parse,
    provider_block,
    write_merged,
)
from opta_lmx.core.errors import LmxError

BLOCK = provider_block("http://127.0.0.1:1234/", "k", [Served("org/m", 32768, 8192)])

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OTHER = st.dictionaries(st.text().filter(lambda key: key not in ("models", "agents")), JSON)
PROVIDERS = st.dictionaries(st.text().filter(lambda key: key != "opta"), JSON, max_size=3)


def test_the_block_is_what_openclaw_reads() -> None:
    assert BLOCK == {
        "baseUrl": "http://127.0.0.1:1234/v1",
        "apiKey": "k",
        "api": "openai-completions",
        "timeoutSeconds": 300,
        "models": [
            {
                "id": "org/m",
                "name": "org/m",
                "reasoning": False,
                "input": ["text"],
                "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
                "contextWindow": 32768,
                "maxTokens": 8192,
                "compat": {"supportsPromptCacheKey": True, "sendSessionAffinityHeaders": True},
            }
        ],
    }


@pytest.mark.parametrize(
    ("context", "tokens"), [(32768, 8192), (8192, 2048), (131072, 8192), (1, 1)]
)
def test_the_longest_answer_leaves_room_for_the_prompt(context: int, tokens: int) -> None:
    assert answer_limit(context) == tokens


@given(other=OTHER, providers=PROVIDERS)
def test_a_merge_changes_nothing_else_and_repeats_nothing(
    other: dict[str, Any], providers: dict[str, Any]
) -> None:
    existing = {**other, "models": {"mode": "merge", "providers": providers}}
    kept = json.dumps(existing)
    result = merged(existing, BLOCK, "org/m")
    assert json.dumps(existing) == kept
    assert merged(result, BLOCK, "org/m") == result
    assert result["models"]["providers"].pop("opta") == BLOCK
    assert result.pop("agents") == {"defaults": {"model": {"primary": "opta/org/m"}}}
    assert result == existing


@pytest.mark.parametrize("chosen", ["anthropic/x", {"primary": "anthropic/x"}])
def test_a_default_model_that_was_chosen_stays(chosen: object) -> None:
    existing = {"agents": {"defaults": {"model": chosen, "workspace": "w"}}}
    assert merged(existing, BLOCK, "m")["agents"] == existing["agents"]


@pytest.mark.parametrize(
    "existing",
    [{"models": []}, {"models": {"providers": "x"}}, {"agents": 1}, {"agents": {"defaults": []}}],
)
def test_a_file_of_another_shape_is_refused(existing: dict[str, Any]) -> None:
    with pytest.raises(LmxError, match="not an object") as caught:
        merged(existing, BLOCK, "m")
    assert caught.value.code == "openclaw_config_shape"


@pytest.mark.parametrize(
    "text",
    [
        "// a comment\n{}",
        "{'single': 1}",
        '{"a": 1,}',
        "{a: 1}",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        '{"b": {"a": 1, "a": 2}}',
        "[]",
        "",
        "\ufeff{}",
        "[" * 100_000,
    ],
)
def test_what_is_more_than_json_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "openclaw.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LmxError, match="left alone") as caught:
        write_merged(path, BLOCK, "m")
    assert caught.value.code == "openclaw_config_unreadable"
    assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_that_are_no_text_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(LmxError, match="left alone"):
        write_merged(path, BLOCK, "m")


def test_a_first_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "openclaw.json"
    assert write_merged(path, BLOCK, "m") is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert parse(path.read_bytes(), path) == merged({}, BLOCK, "m")


def test_a_write_keeps_a_backup_and_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.json"
    path.write_text('{"agents": {"list": ["ü"]}}', encoding="utf-8")
    path.chmod(0o640)
    before = path.read_bytes()
    backup = write_merged(path, BLOCK, "m")
    assert backup is not None
    assert backup.read_bytes() == before
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert "ü" in path.read_text(encoding="utf-8")
    other = provider_block("http://127.0.0.1:9", "k", [Served("m", 1, 1)])
    second = write_merged(path, other, "m")
    assert second not in (None, backup)
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        "openclaw.json",
        "openclaw.json.before-opta-lmx.1",
        "openclaw.json.before-opta-lmx.2",
    ]


def test_writing_the_same_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.json"
    write_merged(path, BLOCK, "m")
    before = path.stat()
    assert write_merged(path, BLOCK, "m") is None
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text("{}")
    link = tmp_path / "openclaw.json"
    link.symlink_to(real)
    write_merged(link, BLOCK, "m")
    assert link.is_symlink()
    assert json.loads(real.read_text())["models"]["providers"]["opta"] == BLOCK


def test_where_openclaw_looks() -> None:
    assert config_path({"HOME": "/h"}) == Path("/h/.openclaw/openclaw.json")
    assert config_path({"HOME": "/h", "OPENCLAW_CONFIG_PATH": "/x.json"}) == Path("/x.json")
