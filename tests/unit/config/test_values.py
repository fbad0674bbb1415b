"""How variables are read, what `explain` shows, and the small rules of single sections."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from opta_lmx.config import Settings, explain, lmx_home
from opta_lmx.config import load_settings as load
from opta_lmx.config.sections.engine import EngineSettings, ModelOverride
from opta_lmx.config.settings import fields


@pytest.mark.parametrize("raw", ["12345", "true", "2026-01-01", "[x]", "sk-a b".replace(" ", "")])
def test_a_text_setting_keeps_what_looks_like_something_else(tmp_path: Path, raw: str) -> None:
    loaded = load(home=tmp_path, file=None, env={"LMX_MODELS__HUB_TOKEN": raw}, flags={})
    token = loaded.settings.models.hub_token
    assert token is not None
    assert token.get_secret_value() == raw


def test_quotes_around_a_text_setting_are_not_part_of_it(tmp_path: Path) -> None:
    env = {"LMX_MODELS__DIR": '"/data/models"', "LMX_MODELS__HUB_TOKEN": ""}
    models = load(home=tmp_path, file=None, env=env, flags={}).settings.models
    assert models.dir == Path("/data/models")
    assert models.hub_token is None


def test_tables_and_lists_come_from_variables(tmp_path: Path) -> None:
    env = {
        "LMX_ENGINE__OVERRIDES": '{"org/m" = {backend = "mlx", slots = 2, template = "t.jinja"}}',
        "LMX_SERVER__ALLOWED_HOSTS": '["box.local"]',
    }
    settings = load(home=tmp_path, file=None, env=env, flags={}).settings
    own = settings.engine.overrides["org/m"]
    assert (own.backend, own.slots, own.template) == ("mlx", 2, Path("t.jinja"))
    assert settings.server.allowed_hosts == ["box.local"]


def test_explain_has_a_described_row_for_every_setting(tmp_path: Path) -> None:
    rows = explain(load(home=tmp_path, file=None, env={}, flags={}))
    assert [row.key for row in rows] == list(fields())
    assert all(len(row.description) > 10 for row in rows)


def test_explain_never_shows_a_secret(tmp_path: Path) -> None:
    env = {
        "LMX_SERVER__API_KEYS": '["sk-hidden-1", "sk-hidden-2"]',
        "LMX_ACCESS__KEYS": '[{name = "bot", key = "sk-hidden-3", prompt_tokens = 9}]',
        "LMX_MODELS__HUB_TOKEN": "hf_hidden",
        "LMX_ENGINE__OVERRIDES": "{m = {slots = 2}}",
    }
    loaded = load(home=tmp_path, file=None, env=env, flags={})
    rows = {row.key: row for row in explain(loaded)}
    assert "hidden" not in str(rows) + repr(loaded)
    assert rows["server.api_keys"].value == "[********, ********]"
    assert rows["access.keys"].value == (
        "[{name = bot, key = ********, tenant = default, scopes = [inference], "
        "lane = interactive, weight = 1.0, prompt_tokens = 9}]"
    )
    assert rows["models.hub_token"].origin == "environment LMX_MODELS__HUB_TOKEN"
    assert rows["engine.overrides"].value == "{m = {slots = 2, options = {}}}"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().server.port = 1  # type: ignore[misc]


def test_a_model_follows_the_section_where_it_says_nothing() -> None:
    engine = EngineSettings(
        backend="gguf", slots=4, overrides={"m": ModelOverride(context=0, threads=2)}, context=512
    )
    assert engine.for_model("m") == ModelOverride(backend="gguf", slots=4, context=0, threads=2)
    assert engine.for_model("other").context == 512


def test_the_waiting_line_of_a_model_may_differ(tmp_path: Path) -> None:
    env = {"LMX_QUEUE__PER_MODEL": '{"a/b" = 0}', "LMX_QUEUE__MAX_WAITING": "9"}
    queue = load(home=tmp_path, file=None, env=env, flags={}).settings.queue
    assert (queue.bound("a/b"), queue.bound("c")) == (0, 9)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"HOME": "/home/u"}, "/home/u/.opta-lmx"),
        ({"HOME": "/home/u", "LMX_HOME": ""}, "/home/u/.opta-lmx"),
        ({"HOME": "/home/u", "LMX_HOME": "~/state"}, "/home/u/state"),
        ({"HOME": "/home/u", "LMX_HOME": "/srv/lmx"}, "/srv/lmx"),
    ],
)
def test_the_home_folder(env: dict[str, str], expected: str) -> None:
    assert lmx_home(env) == Path(expected)


def test_the_store_lies_in_the_home_unless_told_otherwise(tmp_path: Path) -> None:
    for raw, expected in (("", tmp_path / "models"), ("m", tmp_path / "m"), ("/m", Path("/m"))):
        loaded = load(home=tmp_path, file=None, env={"LMX_MODELS__DIR": raw}, flags={})
        assert loaded.settings.models.root(tmp_path) == expected


def test_names_and_protocol_settings(tmp_path: Path) -> None:
    env = {
        "LMX_MODELS__ALIASES": '{"gpt-4o" = "starter", "fast" = "org/m:mlx"}',
        "LMX_PROTOCOL__UNKNOWN_FIELDS": "warn",
        "LMX_QUEUE__LOAD_WAIT_S": "0",
        "LMX_ENGINE__OVERRIDES": '{m = {tool_dialect = "hermes", reasoning = ""}}',
    }
    settings = load(home=tmp_path, file=None, env=env, flags={}).settings
    assert settings.models.aliases == {"gpt-4o": "starter", "fast": "org/m:mlx"}
    assert settings.protocol.unknown_fields == "warn"
    assert settings.queue.load_wait_s == 0
    own = settings.engine.for_model("m")
    assert (own.tool_dialect, own.reasoning) == ("hermes", "")
    other = settings.engine.for_model("n")
    assert (other.tool_dialect, other.reasoning) == (None, None)


def test_which_key_commands_show_and_which_they_give_away(tmp_path: Path) -> None:
    def chosen(text: str) -> tuple[str | None, str | None]:
        (tmp_path / "config.toml").write_text(text)
        found = load(home=tmp_path, file=None, env={}, flags={}).settings
        keys = (found.operators_key(), found.clients_key())
        shown = [key.get_secret_value() if key else None for key in keys]
        return shown[0], shown[1]

    bot = '[[access.keys]]\nname = "bot"\nkey = "kb"\n'
    watcher = '[[access.keys]]\nname = "w"\nkey = "kw"\nscopes = ["metrics"]\n'
    chief = '[[access.keys]]\nname = "c"\nkey = "kc"\nscopes = ["inference", "admin"]\n'
    assert chosen("") == (None, None)
    assert chosen(bot) == ("kb", "kb")
    assert chosen(watcher + bot + chief) == ("kc", "kb")
    assert chosen(chief) == ("kc", "kc")
    assert chosen('server.api_keys = ["full"]\n' + bot) == ("full", "kb")


FULL = 'server.api_keys = ["full"]\n'


def named(secret: str, scopes: str, models: str = "") -> str:
    """A named key; `scopes` by their first letters."""
    every = {"i": "inference", "a": "admin", "m": "metrics"}
    listed = [every[letter] for letter in scopes]
    only = f'models = ["{models}"]\n' if models else ""
    return f'[[access.keys]]\nname = "{secret}"\nkey = "{secret}"\nscopes = {listed}\n{only}'


@pytest.mark.parametrize(
    ("text", "operators", "persons", "clients"),
    [
        (named("a", "a") + named("i", "i"), "a", "i", "i"),
        (named("a", "a") + named("i", "i") + named("ia", "ia"), "ia", "ia", "i"),
        (named("m", "m") + named("ia", "ia"), "ia", "ia", "ia"),
        (named("m", "m") + named("a", "a"), "a", "a", None),
        (named("m", "m"), "m", "m", None),
        (FULL + named("tiny", "i", "small"), "full", "full", "full"),
        (named("tiny", "i", "small") + named("ia", "ia"), "ia", "ia", "ia"),
        (named("tiny", "ia", "small") + named("i", "i"), "tiny", "i", "i"),
        (named("tiny", "ia", "small") + named("a", "a"), "tiny", "tiny", "tiny"),
        (named("tiny", "i", "small") + named("i", "i"), "i", "i", "i"),
    ],
)
def test_keys_are_chosen_by_what_they_open(
    tmp_path: Path, text: str, operators: str, persons: str, clients: str | None
) -> None:
    (tmp_path / "config.toml").write_text(text)
    found = load(home=tmp_path, file=None, env={}, flags={}).settings
    keys = (found.operators_key(), found.persons_key(), found.clients_key())
    shown = tuple(key.get_secret_value() if key else None for key in keys)
    assert shown == (operators, persons, clients)


def test_how_strict_the_protocol_is_by_default() -> None:
    settings = Settings()
    assert settings.protocol.unknown_fields == "refuse"
    assert settings.protocol.max_choices == 16
    assert settings.queue.load_wait_s == 120
    assert settings.responses.ttl_s > 86_400
    assert settings.websocket.max_requests_per_socket == 8
