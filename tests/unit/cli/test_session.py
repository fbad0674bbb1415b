"""Where commands look for the server, and whom they show the key."""

import pytest

from opta_lmx.cli.session import clients_key_for, key_for, open_session, persons_key_for
from tests.unit.cli.conftest import Command

KEYS = '["sk-first", "sk-second"]'


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1234"),
        ("localhost", "http://localhost:1234"),
        ("0.0.0.0", "http://127.0.0.1:1234"),
        ("::", "http://[::1]:1234"),
        ("::1", "http://[::1]:1234"),
        ("box.example", "http://box.example:1234"),
    ],
)
def test_the_address(
    command: Command, monkeypatch: pytest.MonkeyPatch, host: str, url: str
) -> None:
    monkeypatch.setenv("LMX_SERVER__HOST", host)
    monkeypatch.setenv("LMX_SERVER__API_KEYS", KEYS)
    assert open_session().server_url == url


def test_the_key_goes_to_the_configured_address_only(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMX_SERVER__API_KEYS", KEYS)
    session = open_session()
    assert key_for(session, None) == "sk-first"
    assert key_for(session, "http://127.0.0.1:1234/") == "sk-first"
    for other in ("http://127.0.0.1:1235", "http://example.org:1234", "https://127.0.0.1:1234"):
        assert key_for(session, other) is None


def test_without_keys_there_is_none_to_show(command: Command) -> None:
    assert key_for(open_session(), None) is None
    assert clients_key_for(open_session(), None) is None


def test_what_is_written_into_a_clients_file_is_no_operators_key(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMX_SERVER__API_KEYS", KEYS)
    monkeypatch.setenv("LMX_ACCESS__KEYS", '[{name = "bot", key = "sk-bot"}]')
    session = open_session()
    assert key_for(session, None) == "sk-first"
    assert clients_key_for(session, None) == "sk-bot"
    assert clients_key_for(session, "http://example.org:1234") is None


def test_who_talks_to_a_model_shows_a_key_for_models(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = '[{name = "ops", key = "sk-ops", scopes = ["admin"]}, {name = "bot", key = "sk-bot"}]'
    monkeypatch.setenv("LMX_ACCESS__KEYS", keys)
    session = open_session()
    assert key_for(session, None) == "sk-ops"
    assert persons_key_for(session, None) == "sk-bot"
    assert persons_key_for(session, "http://example.org:1234") is None
