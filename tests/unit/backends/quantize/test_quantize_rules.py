"""Which quantisations may be asked for, and what is said of the others."""

import msgspec
import pytest

from opta_lmx.backends.quantize.rules import (
    Scheme,
    output_bytes,
    refuse_source,
    scheme,
    unpacked_bytes,
)
from opta_lmx.core.errors import LmxError
from opta_lmx.models.description import ModelInfo

PLAIN = ModelInfo("mlx", "llama", 8192, "bf16", 1_000_000_000, 0, 0, 16, 32_000)


@pytest.mark.parametrize(
    ("mode", "bits", "group_size"),
    [
        *(("affine", bits, size) for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)),
        *(("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)),
    ],
)
def test_what_there_is(mode: str, bits: int, group_size: int) -> None:
    assert msgspec.structs.astuple(scheme(mode, bits, group_size)) == (mode, bits, group_size)


@pytest.mark.parametrize(
    ("mode", "filled", "suffix"),
    [
        (None, ("affine", 4, 64), "4bit"),
        ("mxfp4", ("mxfp4", 4, 32), "mxfp4"),
        ("mxfp8", ("mxfp8", 8, 32), "mxfp8"),
        ("nvfp4", ("nvfp4", 4, 16), "nvfp4"),
    ],
)
def test_what_is_left_out_is_filled_in(
    mode: str | None, filled: tuple[str, int, int], suffix: str
) -> None:
    found = scheme(mode, None, None)
    assert msgspec.structs.astuple(found) == filled
    assert found.suffix == suffix


def test_an_unusual_group_is_in_the_name() -> None:
    assert scheme(None, 3, 32).suffix == "3bit-g32"


@pytest.mark.parametrize(
    ("mode", "bits", "group_size", "param"),
    [
        ("int4", None, None, "mode"),
        ("", None, None, "mode"),
        *((None, bits, None, "bits") for bits in (-1, 0, 1, 7, 16)),
        *((None, None, size, "group_size") for size in (0, 16, 48, 256)),
        ("mxfp4", 8, None, "bits"),
        ("mxfp8", 4, None, "bits"),
        ("nvfp4", 8, None, "bits"),
        ("mxfp4", None, 64, "group_size"),
        ("nvfp4", None, 32, "group_size"),
    ],
)
def test_what_there_is_not(
    mode: str | None, bits: int | None, group_size: int | None, param: str
) -> None:
    with pytest.raises(LmxError) as refused:
        scheme(mode, bits, group_size)
    assert (refused.value.code, refused.value.param) == ("invalid_quantisation", param)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"quantisation": "4bit"}, "already_quantised"),
        ({"quantisation": "mxfp4-4bit"}, "already_quantised"),
        ({"quantisation": "gptq-4bit"}, "already_quantised"),
        ({"embedding": True}, "not_quantisable"),
        ({"rerank": True}, "not_quantisable"),
    ],
)
def test_sources_that_are_refused(change: dict[str, object], code: str) -> None:
    with pytest.raises(LmxError) as refused:
        refuse_source(msgspec.structs.replace(PLAIN, **change))
    assert (refused.value.code, refused.value.param) == (code, "model")


def test_sources_that_are_taken() -> None:
    refuse_source(PLAIN)
    refuse_source(msgspec.structs.replace(PLAIN, format="gguf", quantisation="Q4_1"))


def test_the_disk_it_takes() -> None:
    half = 4.5 / 8 * PLAIN.parameters
    assert half <= output_bytes(PLAIN, Scheme("affine", 4, 64)) <= half * 1.15
    wide = msgspec.structs.replace(PLAIN, quantisation="f32")
    assert output_bytes(wide, Scheme("affine", 4, 64)) - half >= 0.5 / 8 * PLAIN.parameters
    assert output_bytes(PLAIN, Scheme("mxfp4", 4, 32)) >= 4.25 / 8 * PLAIN.parameters
    assert unpacked_bytes(PLAIN) == 0
    assert unpacked_bytes(msgspec.structs.replace(PLAIN, format="gguf")) == 2 * PLAIN.parameters
