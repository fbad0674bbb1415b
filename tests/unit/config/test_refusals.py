"""Nothing wrong in a configuration passes silently: each refusal names key and source."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opta_lmx.config import Loaded, load_settings
from opta_lmx.config.env import variable
from opta_lmx.config.settings import fields
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.security.addresses import Networks


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
        (
            '[[access.keys]]\nname = "a"\nkey = "k"\nscopes = ["root"]',
            "access.keys.0.scopes.0",
            "'inference', 'agents', 'skills', 'admin' or 'metrics'",
        ),
        (
            '[[access.keys]]\nname = "a"\nkey = "k"\nscopes = []',
            "access.keys.0.scopes",
            "at least 1",
        ),
        (
            '[[access.keys]]\nname = "a"\nkey = "k"\nmodels = []',
            "access.keys.0.models",
            "at least 1",
        ),
        (
            '[[access.keys]]\nname = "a"\nkey = "k"\nmodels = [""]',
            "access.keys.0.models.0",
            "at least 1 character",
        ),
        ('[security]\nprofile = "wan"', "security.profile", "'loopback', 'lan'"),
        ("[security]\nauth_failures_per_minute = 0", "security.auth_failures_per_minute", "1"),
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


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("", "an address or a network"),
        ("proxy.example", "an address or a network"),
        ("10.0.0.1/8", "an address or a network"),  # bits beyond the mask: a slip of the pen
        ("10.0.0.0/33", "an address or a network"),
        ("10.0.0.0/-1", "an address or a network"),
        ("10.0.0", "an address or a network"),
        ("010.0.0.1", "an address or a network"),
        ("10.0.0.1:80", "an address or a network"),
        ("[::1]", "an address or a network"),
        ("fe80::1%eth0", "an address or a network"),
        ("10.0.0.0/8 ", "an address or a network"),
        ("0.0.0.0/0", "at least /8"),
        ("128.0.0.0/1", "at least /8"),
        ("::/0", "at least /7"),
        ("2000::/3", "at least /7"),
        ("::ffff:0:0/96", "not within IPv6"),
        ("::ffff:10.0.0.1", "not within IPv6"),
    ],
)
def test_networks_that_trust_nobody_or_everybody_are_refused(
    tmp_path: Path, network: str, words: str
) -> None:
    error = refusal(tmp_path, f'[security]\ntrusted_proxies = ["{network}"]')
    assert (error.code, error.param) == ("invalid_config", "security.trusted_proxies.0")
    assert words in error.message


@pytest.mark.parametrize(
    "network", ["127.0.0.1", "::1", "10.0.0.0/8", "192.168.4.0/22", "fc00::/7", "2001:db8::1"]
)
def test_addresses_and_networks_can_be_trusted(tmp_path: Path, network: str) -> None:
    (tmp_path / "config.toml").write_text(f'[security]\ntrusted_proxies = ["{network}"]')
    settings_found = load_settings(home=tmp_path, file=None, env={}, flags={}).settings
    assert settings_found.security.trusted_proxies == [network]
    assert Networks.parse([network])


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
        assert error.code == "invalid_config"
        assert name in error.message
    else:
        assert loaded.origins[key] == f"environment {name}"


def attempt(home: Path, env: dict[str, str]) -> tuple[Loaded | None, LmxError | None]:
    try:
        return load_settings(home=home, file=None, env=env, flags={}), None
    except LmxError as error:
        return None, error
