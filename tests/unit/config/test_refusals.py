"""Nothing wrong in a configuration passes silently: each refusal names key and source."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opta_lmx.config import Loaded, load_settings
from opta_lmx.config.env import variable
from opta_lmx.config.settings import fields
from opta_lmx.core.errors import ErrorKind, LmxError


def refusal(home: Path, text: str = "", env: dict[str, str] | None = None, **flags: object):
    (home / "config.toml").write_text(text, encoding="utf-8")
    with pytest.raises(LmxError) as caught:
        load_settings(
            home=home,
            file=None,
            env=env or {},
            flags={key.replace("__", "."): value for key, value in flags.items()},
        )
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    return caught.value


@pytest.mark.parametrize(
    ("text", "param", "words"),
    [
        ("[server]\nprot = 1", "server.prot", "did you mean server.port?"),
        ("[sever]\nport = 1", "sever.port", "did you mean server.port?"),
        ("server = 3", "server", "section"),
        ("surver = 3", "surver", "did you mean server?"),
        ('[server]\nport = "1"', "server.port", "integer"),
        ("[server]\nport = true", "server.port", "integer"),
        ("[server]\nport = 65536", "server.port", "65535"),
        ("[server]\nkeepalive_s = 16", "server.keepalive_s", "15"),
        ("[server]\nkeepalive_s = nan", "server.keepalive_s", "finite"),
        ('[server]\napi_keys = [""]', "server.api_keys.0", "visible ASCII"),
        ('[[access.keys]]\nname = "a"', "access.keys.0.key", "required"),
        ('[models.adapters]\n"a/b/c" = {x = "p"}', "models.adapters.a/b/c", "own name"),
        ('[models.adapters]\n"a:cuda" = {x = "p"}', "models.adapters.a:cuda", "own name"),
        ('[models.adapters.m]\nMLX = "p"', "models.adapters.m.MLX", "neither mlx nor gguf"),
        ('[models.adapters.m]\n"a:b" = "p"', "models.adapters.m.a:b", "An adapter's name"),
        ("[models.adapters.m]\na = 1", "models.adapters.m.a", "path"),
        ('[[access.keys]]\nname = "a b"\nkey = "k"', "access.keys.0.name", "pattern"),
        ('[[access.keys]]\nname = "a"\nkey = "k y"', "access.keys.0.key", "visible ASCII"),
        ('[[access.keys]]\nname = "a"\nkey = "k"\nlane = "fast"', "access.keys.0.lane", "agent"),
        ('[[access.keys]]\nname = "a"\nkey = "k"\nweight = 0', "access.keys.0.weight", "0.01"),
        ('[[access.keys]]\nname = "a"\nkey = "k"\ntokens = 1', "access.keys.0.tokens", "Unknown"),
        (
            '[[access.keys]]\nname = "a"\nkey = "k"\nprompt_tokens = 0',
            "access.keys.0.prompt_tokens",
            "greater than or equal to 1",
        ),
        ('access.keys = [{name = "a", key = "k"}, {name = "a", key = "l"}]', "access.keys", "name"),
        ('access.keys = [{name = "a", key = "k"}, {name = "b", key = "k"}]', "access.keys", "key"),
        (
            'server.api_keys = ["k"]\naccess.keys = [{name = "a", key = "k"}]',
            "access.keys",
            "Entry 0 has the key of a key in server.api_keys",
        ),
        (
            'server.api_keys = ["k"]\naccess.keys = [{name = "key-1", key = "l"}]',
            "access.keys",
            "Entry 0 has the name of a key in server.api_keys",
        ),
        ("[queue]\nmax_waiting = -1", "queue.max_waiting", "greater than or equal to 0"),
        ("[queue.per_model]\nm = -1", "queue.per_model.m", "greater than or equal to 0"),
        ("[engine]\nload_timeout_s = inf", "engine.load_timeout_s", "finite"),
        ("[engine.overrides.m]\nslot = 1", "engine.overrides.m.slot", "Unknown setting"),
        ('[engine]\nbackend = "cuda"', "engine.backend", "'auto', 'mlx' or 'gguf'"),
        ('[logging]\nlevel = "loud"', "logging.level", "'debug'"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, param: str, words: str) -> None:
    error = refusal(tmp_path, text)
    assert (error.code, error.param) == ("invalid_config", param)
    assert words in error.message
    assert str(tmp_path / "config.toml") in error.message


@pytest.mark.parametrize(
    ("name", "value", "param", "words"),
    [
        ("LMX_SERVER__PROT", "1", "LMX_SERVER__PROT", "did you mean LMX_SERVER__PORT?"),
        ("LMX_SERVER", "1", "LMX_SERVER", "Unknown"),
        ("LMX_HOMES", "/x", "LMX_HOMES", "did you mean LMX_HOME?"),
        ("LMX_server__port", "1", "LMX_server__port", "Unknown"),
        ("LMX_SERVER__PORT", "many", "server.port", "LMX_SERVER__PORT"),
        ("LMX_SERVER__PORT", "1\nhost = '::'", "server.port", "LMX_SERVER__PORT"),
        ("LMX_SERVER__API_KEYS", "secret-word", "server.api_keys", "LMX_SERVER__API_KEYS"),
        ("LMX_ACCESS__KEYS", "secret-word", "access.keys", "LMX_ACCESS__KEYS"),
        (
            "LMX_ACCESS__KEYS",
            '[{name = "a", key = "secret-word", lane = "x"}]',
            "access.keys.0.lane",
            "LMX_ACCESS__KEYS",
        ),
        (
            "LMX_ACCESS__KEYS",
            '[{name = "a", key = "secret-word"}, {name = "b", key = "secret-word"}]',
            "access.keys",
            "LMX_ACCESS__KEYS",
        ),
    ],
)
def test_a_wrong_variable_is_refused(
    tmp_path: Path, name: str, value: str, param: str, words: str
) -> None:
    error = refusal(tmp_path, env={name: value})
    assert (error.code, error.param) == ("invalid_config", param)
    assert words in error.message
    assert "secret-word" not in error.message


def test_a_wrong_flag_is_refused_even_where_weaker_sources_are_right(tmp_path: Path) -> None:
    error = refusal(tmp_path, "[server]\nport = 1", {"LMX_SERVER__PORT": "2"}, server__port=-1)
    assert error.param == "server.port"
    assert "flag" in error.message


def test_several_faults_are_counted(tmp_path: Path) -> None:
    error = refusal(tmp_path, "[server]\nport = -1\nbody_limit_bytes = 0\n")
    assert "(and 1 more)" in error.message


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "127.1.example"])
def test_nothing_listens_beyond_loopback_without_keys(tmp_path: Path, host: str) -> None:
    error = refusal(tmp_path, env={"LMX_SERVER__HOST": host})
    assert (error.code, error.param) == ("keys_required", "server.host")
    assert "LMX_SERVER__HOST" in error.message
    keys = {"LMX_SERVER__HOST": host, "LMX_SERVER__API_KEYS": '["sk-1"]'}
    assert load_settings(home=tmp_path, file=None, env=keys, flags={}).settings.server.host == host
    named = {"LMX_SERVER__HOST": host, "LMX_ACCESS__KEYS": '[{name = "a", key = "sk-1"}]'}
    assert load_settings(home=tmp_path, file=None, env=named, flags={}).settings.server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LocalHost"])
def test_loopback_needs_no_keys(tmp_path: Path, host: str) -> None:
    loaded = load_settings(home=tmp_path, file=None, env={}, flags={"server.host": host})
    assert loaded.settings.server.host == host


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(LmxError, match="No such file") as caught:
        load_settings(home=tmp_path, file=tmp_path / "absent.toml", env={}, flags={})
    assert caught.value.code == "invalid_config"


@pytest.mark.parametrize("data", [b"[server", b"\xff\xfe", b"a = " + b"[" * 100_000])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.toml").write_bytes(data)
    with pytest.raises(LmxError, match=r"config\.toml") as caught:
        load_settings(home=tmp_path, file=None, env={}, flags={})
    assert caught.value.code == "invalid_config"


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(LmxError, match="Cannot read"):
        load_settings(home=tmp_path, file=None, env={}, flags={})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(key=st.sampled_from(sorted(fields())), raw=st.text(max_size=30))
def test_any_text_in_a_variable_is_taken_or_refused_by_name(
    tmp_path: Path, key: str, raw: str
) -> None:
    name = variable(key)
    loaded, error = attempt(tmp_path, {name: raw})
    if loaded is None:
        assert error is not None
        assert error.code in ("invalid_config", "keys_required")
        assert name in error.message
    else:
        assert loaded.origins[key] == f"environment {name}"


def attempt(home: Path, env: dict[str, str]) -> tuple[Loaded | None, LmxError | None]:
    try:
        return load_settings(home=home, file=None, env=env, flags={}), None
    except LmxError as error:
        return None, error
