"""What a fingerprint depends on."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from opta_lmx.backends.frames import Load, Ready
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import Filling, GenerationRequest, Prompt, SamplingParams, Speech
from opta_lmx.engine.plan import Plan
from opta_lmx.serving.features import check_features, fingerprint


async def _prepare() -> Load:
    raise AssertionError("nothing is loaded here")


PLAN = Plan("m", "mlx", 4, _prepare, {}, Path("m.log"))
READY = Ready(context=4096, slots=4, engine="mlx 1", weights_bytes=10, repeatable=True)


def test_it_is_the_same_after_a_restart() -> None:
    again = msgspec.structs.replace(PLAN, log_file=Path("other.log"))
    assert fingerprint(PLAN, READY) == fingerprint(again, msgspec.structs.replace(READY))


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "mlx 2"},
        {"context": 2048},
        {"slots": 8},
        {"weights_bytes": 11},
        {"sampling": SamplingParams(temperature=0.5)},
        {"speech": Speech("hermes", "")},
        {"template_source": "config"},
    ],
    ids=str,
)
def test_it_changes_with_what_decides_an_answer(change: dict[str, Any]) -> None:
    assert fingerprint(PLAN, READY) != fingerprint(PLAN, msgspec.structs.replace(READY, **change))


def test_the_operators_sampling_decides_too() -> None:
    tuned = msgspec.structs.replace(PLAN, sampling=SamplingParams(top_k=3))
    assert fingerprint(tuned, READY) != fingerprint(PLAN, READY)


def test_only_a_repeatable_engine_says_so() -> None:
    assert fingerprint(PLAN, READY).endswith("-r")
    assert not fingerprint(PLAN, msgspec.structs.replace(READY, repeatable=False)).endswith("-r")


def test_what_a_preset_says_decides_too() -> None:
    plain = fingerprint(PLAN, READY, Filling("a"))
    assert plain == fingerprint(PLAN, READY)
    one, other = (fingerprint(PLAN, READY, Filling("a", digest)) for digest in ("1", "2"))
    assert len({plain, one, other}) == 3


def test_a_preset_that_asks_for_what_the_engine_lacks_is_named() -> None:
    ready = msgspec.structs.replace(READY, lacks=("penalties",))
    sampling = SamplingParams(repetition_penalty=1.2)
    for fields, param in (((), "repetition_penalty"), (("repetition_penalty",), "model")):
        filled = Filling("tutor", "1", fields)
        request = GenerationRequest("m", Prompt(text="x"), sampling, filled_by=filled)
        with pytest.raises(LmxError) as caught:
            check_features(request, ready)
        assert (caught.value.kind, caught.value.param) == (ErrorKind.UNSUPPORTED_PARAMETER, param)
        assert ("preset 'tutor'" in caught.value.message) == (param == "model")
