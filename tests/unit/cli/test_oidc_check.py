"""`doctor` asks a real identity provider for its keys, and says what keeps them away."""

import json
from pathlib import Path

import pytest

from opta_lmx.cli import checks
from tests.support.identity import AUDIENCE, KEYS, Provider, identity_provider, missing, signer
from tests.unit.cli.conftest import Command

SUBJECT = "identity provider"


@pytest.fixture(autouse=True)
def _no_engine_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "backends", lambda: iter(()))


def told(command: Command, provider: Provider, **more: str) -> tuple[str, str]:
    result = command(
        "doctor",
        "--json",
        LMX_SERVER__PORT="0",
        LMX_OIDC__ISSUER=provider.issuer,
        LMX_OIDC__AUDIENCE=AUDIENCE,
        **more,
    )
    found = {one["subject"]: one for one in json.loads(result.stdout)["checks"]}
    assert (result.exit_code == 1) == (found[SUBJECT]["state"] == "broken")
    return found[SUBJECT]["state"], found[SUBJECT]["detail"]


def test_without_a_provider_nothing_is_said(command: Command) -> None:
    assert SUBJECT not in command("doctor", LMX_SERVER__PORT="0").stdout


def test_what_is_said_of_one(command: Command, home: Path) -> None:
    with identity_provider() as provider:
        state, detail = told(command, provider)
        assert state == "ok"
        assert detail == f"{provider.issuer} has 1 keys to check tokens with"
        provider.publish(signer("PS512"))
        state, detail = told(command, provider)
        assert (state, "PS512" in detail) == ("broken", True)
        assert "oidc.algorithms" in detail
        provider.pages[KEYS] = missing
        state, detail = told(command, provider)
        assert (state, "status 404" in detail) == ("broken", True)
        state, detail = told(command, provider, LMX_OIDC__CA=str(home / "none.pem"))
        assert (state, "oidc.ca" in detail) == ("broken", True)
    state, detail = told(command, provider)
    assert (state, "nobody can be reached" in detail) == ("broken", True)
