"""Packs a weight some rows at a time: on a CPU some modes take forty times its size meanwhile."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (mlx is only partly typed)

from typing import Any, NamedTuple, cast

import mlx.core as mx

_AT_ONCE = 4 << 20
"""Weights; each packed by itself, so the outcome is that of all at once."""


class Unpacked(NamedTuple):
    """A layer's weight that is yet to be packed."""

    weight: Any
    group_size: int
    bits: int
    mode: str

    def packed(self) -> dict[str, Any]:
        """The arrays in its place (`weight`, `scales`, and for some modes `biases`), computed."""
        *outer, width = self.weight.shape
        rows = self.weight.reshape(-1, width)
        step = max(1, _AT_ONCE // width)
        pieces = [self._pack(rows[at : at + step]) for at in range(0, rows.shape[0], step)]
        joined = [mx.concatenate(list(parts)) for parts in zip(*pieces, strict=True)]
        found = [array.reshape(*outer, -1) for array in joined]
        mx.eval(found)
        return dict(zip(("weight", "scales", "biases"), found, strict=False))

    def _pack(self, rows: Any) -> list[Any]:
        piece = mx.quantize(rows, group_size=self.group_size, bits=self.bits, mode=self.mode)
        mx.eval(piece)
        return list(cast("tuple[Any, ...]", piece))


def unpacked_layers(model: Any) -> dict[str, Any]:
    """The weights of all layers that can be packed, by the layers' names."""
    return {
        name: module.weight
        for name, module in model.named_modules()
        if hasattr(module, "to_quantized") and "weight" in module
    }


def to_pack(model: Any, weights: dict[str, Any]) -> dict[str, Unpacked]:
    """The layers of a quantised model that are packed as any: one weight in rows.

    Args:
        model: after quantising.
        weights: of the layers before that (`unpacked_layers`).
    """
    return {
        name: Unpacked(weights[name], module.group_size, module.bits, module.mode)
        for name, module in model.named_modules()
        if name in weights
        and {"weight", "scales"} <= set(module) <= {"weight", "scales", "biases", "bias"}
        and module.weight.shape[:-1] == weights[name].shape[:-1]
    }
