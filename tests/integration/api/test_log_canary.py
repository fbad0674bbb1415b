"""What callers put into a request does not bring keys, or lines of their own, into the log."""

import json
from pathlib import Path

import httpx
import pytest

from tests.support.server import sim_server

CANARY = "canary-of-the-configuration"
STORED = "lmx_canary01_" + "Zq8Xw3Vb6Nm1Kj4Hg7Fd0Sa5Po2Iu9Yt6Re3Wq1Lk8J"


def test_keys_in_paths_are_masked_and_lines_are_not_forged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = {"server": {"api_keys": [CANARY]}, "logging": {"level": "debug", "format": "json"}}
    with sim_server(tmp_path, {"m": {}}, **sections) as server:
        for path in (CANARY, STORED, f"x?key={STORED}", "a%0a%1b[2Jforged%c2%9b"):
            for headers in ({"x-api-key": CANARY}, {"authorization": f"Bearer {STORED}"}):
                httpx.get(f"{server.url}/v1/{path}", headers=headers)
    lines = capsys.readouterr().err.splitlines()
    asked = [line for line in lines if '"request"' in line]
    assert len(asked) >= 8
    assert all(json.loads(line)["route"] for line in asked)
    text = "\n".join(lines)
    assert CANARY not in text
    assert STORED[-30:] not in text
    assert "lmx_canary01_***" in text
    assert "forged" in text
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert not any(line.lstrip().startswith("\x1b[2Jforged") for line in lines)
