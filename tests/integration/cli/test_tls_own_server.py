"""Commands reach the own server under TLS, with a certificate where that asks for one."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner, Result

from opta_lmx.cli.main import app
from tests.support.server import LiveServer, sim_server

KEY = "operators-key-of-tests"
ACCESS = {"keys": [{"name": "o", "key": KEY, "scopes": ["inference", "admin"]}]}


def run(home: Path, *arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"LMX_HOME": str(home), **environment})


@pytest.fixture(params=["off", "required"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    assert run(tmp_path, "tls", "init").exit_code == 0
    folder = tmp_path / "tls"
    tls = {"certificate": str(folder / "server.pem"), "key": str(folder / "server.key")}
    if request.param == "required":
        tls |= {"client_ca": str(folder / "ca.pem"), "client_certificates": "required"}
    with sim_server(tmp_path, {"m": {}}, tls=tls, access=ACCESS) as running:
        yield running


def environment(server: LiveServer) -> dict[str, str]:
    tls = server.settings.tls
    found = {
        "LMX_SERVER__PORT": str(urlsplit(server.url).port),
        "LMX_TLS__CERTIFICATE": str(tls.certificate),
        "LMX_TLS__KEY": str(tls.key),
        "LMX_ACCESS__KEYS": f'[{{name = "o", key = "{KEY}", scopes = ["inference", "admin"]}}]',
    }
    if tls.client_ca is not None:
        found["LMX_TLS__CLIENT_CA"] = str(tls.client_ca)
        found["LMX_TLS__CLIENT_CERTIFICATES"] = tls.client_certificates
    return found


def test_commands_reach_it(server: LiveServer, tmp_path: Path) -> None:
    settings = environment(server)
    if "LMX_TLS__CLIENT_CA" in settings:
        without = run(tmp_path, "ps", **settings)
        assert without.exit_code == 1
        assert "connection" in without.stderr.lower()
        assert run(tmp_path, "tls", "issue", "cli", "--tenant", "default").exit_code == 0
    shown = run(tmp_path, "ps", "--json", **settings)
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["models"] == []
    checks = json.loads(run(tmp_path, "doctor", "--json", **settings).stdout)["checks"]
    (port,) = [one for one in checks if one["subject"].startswith("port ")]
    assert port["state"] == "ok"
    assert "is running" in port["detail"]


def test_another_authority_is_not_trusted(server: LiveServer, tmp_path: Path) -> None:
    settings = environment(server)
    assert run(tmp_path / "other", "tls", "init").exit_code == 0
    refused = run(tmp_path / "other", "ps", **settings)
    assert refused.exit_code == 1
    assert "[tls_failed]" in refused.stderr
