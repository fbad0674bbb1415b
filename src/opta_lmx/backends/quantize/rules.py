"""Which quantisations there are, and what each takes on disk. Imports no inference library."""

from typing import Literal, cast

import msgspec

from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.models.description import ModelInfo

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]

_BITS: dict[Mode, tuple[int, ...]] = {
    "affine": (2, 3, 4, 5, 6, 8),
    "mxfp4": (4,),
    "mxfp8": (8,),
    "nvfp4": (4,),
}
_GROUPS: dict[Mode, tuple[int, ...]] = {
    "affine": (64, 32, 128),
    "mxfp4": (32,),
    "mxfp8": (32,),
    "nvfp4": (16,),
}
"""The first of each is taken where none is asked for."""
_USUAL_BITS = 4
PLAIN = ("f64", "f32", "f16", "bf16")
"""How folders of weights that are not quantised yet are labelled."""
_SPARE_BYTES = 64 << 20
"""Tokenizer, norms, and whatever else is kept as it is."""


class Scheme(msgspec.Struct, frozen=True):
    """How weights are packed: `bits` for each, one scale for `group_size` of them."""

    mode: Mode
    bits: int
    group_size: int

    @property
    def suffix(self) -> str:
        """What a model's name gets added: `4bit`, `4bit-g32`, `mxfp4`."""
        if self.mode != "affine":
            return self.mode
        usual = self.group_size == _GROUPS["affine"][0]
        return f"{self.bits}bit" if usual else f"{self.bits}bit-g{self.group_size}"

    def bits_per_weight(self, scale_bytes: int) -> float:
        """Bits a packed weight takes with its share of the scales.

        Args:
            scale_bytes: width of a scale and of a bias; the modes of floats take one byte.
        """
        shared = 2 * scale_bytes if self.mode == "affine" else 1
        return self.bits + 8 * shared / self.group_size


def scheme(mode: str | None, bits: int | None, group_size: int | None) -> Scheme:
    """Check what was asked for, and fill in what was not.

    Raises:
        LmxError: INVALID_REQUEST `invalid_quantisation` with the field at fault.
    """
    if mode is not None and mode not in _BITS:
        raise _refused(f"There is no mode '{mode[:40]}'; there are {_listed(_BITS)}.", "mode")
    chosen: Mode = mode or "affine"
    widths, groups = _BITS[chosen], _GROUPS[chosen]
    wanted = (_USUAL_BITS if _USUAL_BITS in widths else widths[0]) if bits is None else bits
    if wanted not in widths:
        raise _refused(f"The mode '{chosen}' takes {_listed(widths)} bits, not {wanted}.", "bits")
    size = groups[0] if group_size is None else group_size
    if size not in groups:
        text = f"The mode '{chosen}' takes groups of {_listed(sorted(groups))}, not of {size}."
        raise _refused(text, "group_size")
    return Scheme(chosen, wanted, size)


def refuse_source(info: ModelInfo) -> None:
    """Raise LmxError (param `model`) for a model that cannot be quantised, by its headers."""
    if info.kind != "chat":
        raise invalid(
            "Only models that make text can be quantised.", param="model", code="not_quantisable"
        )
    if info.format == "mlx" and info.quantisation not in PLAIN:
        raise invalid(
            f"The model is quantised already ({info.quantisation}); start from its full weights.",
            param="model",
            code="already_quantised",
        )


def output_bytes(info: ModelInfo, chosen: Scheme) -> int:
    """About what the quantised folder will take on disk."""
    wide = info.format == "mlx" and info.quantisation in ("f64", "f32")
    packed = info.parameters * chosen.bits_per_weight(4 if wide else 2) / 8
    return int(packed) + _SPARE_BYTES


def unpacked_bytes(info: ModelInfo) -> int:
    """What a GGUF model takes unpacked, which it is while it is worked on; 0 for a folder."""
    return 2 * info.parameters if info.format == "gguf" else 0


def _refused(message: str, param: str) -> LmxError:
    return invalid(message, param=param, code="invalid_quantisation")


def _listed(values: object) -> str:
    names = [str(value) for value in cast("list[object]", values)]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
