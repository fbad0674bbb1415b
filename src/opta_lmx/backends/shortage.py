"""Telling short memory, which says nothing of a model, from what is wrong with it."""

OUT_OF_MEMORY = "out_of_memory"
"""The code of a `frames.Fault`: the worker ended for want of memory."""
_SIGNS = ("alloc", "out of memory", "outofmemory", "insufficient memory")


def is_out_of_memory(error: BaseException) -> bool:
    """True where memory is short, ours or the device's; MLX has no type for it."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in words for sign in _SIGNS)
