"""Sources override each other key by key, and each value remembers where it came from."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opta_lmx.config import Settings, load_settings
from opta_lmx.config.env import variable

# Two valid values per source and key, so that a wrong winner is always visible.
VALUES: dict[str, list[Any]] = {
    "server.port": [1, 2, 3, 4],
    "server.api_keys": [["a"], ["b"], ["c"], ["d", "e"]],
    "access.keys": [
        [{"name": "a", "key": "ka"}],
        [{"name": "b", "key": "kb", "tenant": "t", "lane": "background", "weight": 0.5}],
        [{"name": "c", "key": "kc", "scopes": ["admin", "metrics"], "models": ["org/*"]}],
        [],
    ],
    "security.profile": ["loopback", "lan", "trusted-gateway", "internet"],
    "security.trusted_proxies": [["10.0.0.0/8"], ["::1"], [], ["127.0.0.1", "fd00::/8"]],
    "models.hub_endpoint": ["http://a", "http://b", "http://c", "https://d"],
    "engine.load_on_demand": [True, False, True, False],
    "engine.stall_factor": [1.5, 2.0, 3.25, 1000.0],
    "queue.per_model": [{"a": 1}, {"b": 2}, {}, {"c/d": 0}],
    "logging.level": ["debug", "info", "warning", "error"],
}

SOURCES = st.dictionaries(
    st.sampled_from(sorted(VALUES)), st.integers(min_value=0, max_value=3), max_size=len(VALUES)
)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {toml(item)}' for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def write_file(path: Path, chosen: dict[str, int]) -> None:
    sections: dict[str, list[str]] = {}
    for key, pick in chosen.items():
        section, name = key.split(".")
        sections.setdefault(section, []).append(f"{name} = {toml(VALUES[key][pick])}")
    lines = [line for name, rows in sections.items() for line in (f"[{name}]", *rows)]
    path.write_text("\n".join(lines), encoding="utf-8")


def plain(loaded: Settings, key: str) -> object:
    section, name = key.split(".")
    value = getattr(getattr(loaded, section), name)
    if key == "server.api_keys":
        return [item.get_secret_value() for item in value]
    if key == "access.keys":
        told = [item.model_dump(exclude_defaults=True) for item in value]
        return [{**one, "key": one["key"].get_secret_value()} for one in told]
    return value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(in_file=SOURCES, in_env=SOURCES, in_flags=SOURCES)
def test_every_key_is_decided_by_its_strongest_source(
    tmp_path: Path, in_file: dict[str, int], in_env: dict[str, int], in_flags: dict[str, int]
) -> None:
    file = tmp_path / "config.toml"
    write_file(file, in_file)
    loaded = load_settings(
        home=tmp_path,
        file=None,
        env={variable(key): toml(VALUES[key][pick]) for key, pick in in_env.items()},
        flags={key: VALUES[key][pick] for key, pick in in_flags.items()},
    )
    defaults = Settings()
    for key, values in VALUES.items():
        if key in in_flags:
            expected, origin = values[in_flags[key]], "flag"
        elif key in in_env:
            expected, origin = values[in_env[key]], f"environment {variable(key)}"
        elif key in in_file:
            expected, origin = values[in_file[key]], f"file {file}"
        else:
            expected, origin = plain(defaults, key), "default"
        assert plain(loaded.settings, key) == expected
        assert loaded.origins[key] == origin


def test_a_flag_that_was_not_given_decides_nothing(tmp_path: Path) -> None:
    loaded = load_settings(
        home=tmp_path, file=None, env={"LMX_SERVER__PORT": "7"}, flags={"server.port": None}
    )
    assert loaded.settings.server.port == 7


def test_a_named_file_replaces_the_one_in_the_home(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[queue]\nmax_waiting = 3\n")
    loaded = load_settings(home=tmp_path, file=other, env={}, flags={})
    assert loaded.settings.server.port == 1234
    assert loaded.settings.queue.max_waiting == 3
    assert loaded.origins["queue.max_waiting"] == f"file {other}"


def test_no_source_at_all_gives_the_defaults(tmp_path: Path) -> None:
    loaded = load_settings(home=tmp_path, file=None, env={"PATH": "/bin"}, flags={})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}


@pytest.mark.parametrize("name", ["LMX_HOME", "LMX_TEST_ANYTHING", "OTHER_SERVER__PORT"])
def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path, name: str) -> None:
    assert load_settings(home=tmp_path, file=None, env={name: "x"}, flags={}).settings == Settings()
