"""Our models in LM Studio's words."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from opta_lmx.api.lmstudio import errors
from opta_lmx.api.lmstudio.render import jobs, model_list, old_model, params_string
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.download_book import DownloadBook, Noted
from opta_lmx.engine.downloads import Downloads
from opta_lmx.serving.catalogue import ServedModel


def served(**fields: Any) -> ServedModel:
    usual: dict[str, Any] = {
        "id": "org/m",
        "name": "org/m",
        "created_s": 1,
        "context_length": 4096,
        "max_context_length": 8192,
        "state": "available",
        "backend": "gguf",
        "format": "gguf",
        "quantisation": "Q4_K_M",
        "architecture": "llama",
        "kind": "chat",
        "tools": True,
        "reasoning": (),
        "aliases": (),
        "size_bytes": 5,
        "parameters": 4_022_000_000,
        "source": "file:x",
        "load_s": 0.0,
    }
    return ServedModel(**{**usual, **fields})


def rendered(*models: ServedModel) -> list[dict[str, Any]]:
    return msgspec.json.decode(msgspec.json.encode(model_list(models)))["models"]


def test_a_model_on_two_engines_is_one_with_two_instances() -> None:
    (one,) = rendered(
        served(state="ready"),
        served(id="org/m:mlx", backend="mlx", state="ready", context_length=8192),
    )
    assert [(item["id"], item["config"]["context_length"]) for item in one["loaded_instances"]] == [
        ("org/m", 4096),
        ("org/m:mlx", 8192),
    ]
    assert (one["publisher"], one["display_name"], one["params_string"]) == ("org", "m", "4B")


@pytest.mark.parametrize("state", ["available", "loading", "restarting", "quarantined"])
def test_only_what_serves_is_an_instance(state: str) -> None:
    (one,) = rendered(served(state=state))
    assert one["loaded_instances"] == []
    assert old_model(served(state=state)).state == "not-loaded"


def test_an_embedder_has_no_word_on_chat() -> None:
    (one,) = rendered(served(kind="embedding"), served(name="r", kind="rerank"))
    assert one["type"] == "embedding"
    assert {"architecture", "capabilities", "description"}.isdisjoint(one)


def test_a_thinking_model_says_how_it_may_be_asked_to() -> None:
    (one,) = rendered(served(reasoning=("on", "off")))
    assert one["capabilities"]["reasoning"] == {"allowed_options": ["on", "off"], "default": "on"}
    (plain,) = rendered(served())
    assert "reasoning" not in plain["capabilities"]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        *((134_515_008, "135M"), (268_098_176, "268M"), (1_720_000_000, "1.7B"), (0, None)),
        *((7_000_000_000, "7B"), (999_700_000, "1B"), (22_000, "22K"), (12, "12")),
        *((235_000_000_000, "235B"), (1_000_000_000_000, "1T")),
    ],
)
def test_weights_are_counted_as_people_say_it(parameters: int, text: str | None) -> None:
    assert params_string(parameters) == text


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_every_error_has_a_type_of_theirs(kind: ErrorKind) -> None:
    status, headers, body = errors.render(LmxError(kind, "Why.", param="model", retry_after=7))
    error = msgspec.json.decode(body)["error"]
    assert 400 <= status < 600
    assert error["type"] in ("invalid_request", "model_not_found", "unknown", "internal_error")
    assert (error["message"], error["param"]) == ("Why.", "model")
    assert headers.get("Retry-After") == ("7" if status in (429, 503) else None)


def test_a_missing_download_is_a_missing_job() -> None:
    error = LmxError(ErrorKind.NOT_FOUND, "No.", code="download_not_found")
    assert msgspec.json.decode(errors.render(error)[2])["error"]["type"] == "job_not_found"


def test_a_download_that_the_last_run_left_is_paused(tmp_path: Path) -> None:
    (tmp_path / "downloads.json").write_bytes(
        msgspec.json.encode([Noted("dl-1", "org/model", 0, 10)])
    )
    book = DownloadBook(tmp_path / "downloads.json", lambda _: 3)
    left = Downloads(lambda *_: None, NullTelemetry(), book=book).list()
    rendered = jobs(left)
    assert [one.status for one in rendered.paused] == ["paused"]
    assert (rendered.paused[0].downloaded_bytes, rendered.paused[0].total_size_bytes) == (3, 10)
    assert not rendered.downloading
