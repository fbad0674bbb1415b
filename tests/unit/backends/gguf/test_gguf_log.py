"""Why a load failed is read from a log that comes late."""

import pytest

from opta_lmx.backends.gguf import server

WHOLE = (
    "0.1 E llama_model_load: error loading model: unknown architecture\n"
    "0.2 E srv init: exiting due to model loading error\n"
)


def reading(parts: list[str], patch: pytest.MonkeyPatch) -> tuple[str, float]:
    """What is made of a log that reads so time after time, and the seconds waited."""
    waited: list[float] = []
    patch.setattr(server, "block_for", waited.append)
    log = vars(server)["_whole"](lambda: parts.pop(0) if len(parts) > 1 else parts[0])
    return vars(server)["_reason"](log), sum(waited)


def test_a_log_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    late = ["", "0.1 E llama_model_load: error loading model: unkn", WHOLE]
    reason, waited = reading(late, monkeypatch)
    assert reason == "unknown architecture"
    assert waited < 0.1
    assert reading([WHOLE], monkeypatch) == ("unknown architecture", 0)


def test_a_log_without_an_end_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    reason, waited = reading(["0.1 E common_init: out of memory\n"], monkeypatch)
    assert reason == "common_init: out of memory"
    assert waited == pytest.approx(1.0)
