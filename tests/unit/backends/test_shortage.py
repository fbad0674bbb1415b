"""Short memory is told from models that do not work."""

import pytest

from opta_lmx.backends.shortage import is_out_of_memory

WORDS = {
    "[malloc_or_wait] Unable to allocate 8 bytes.": True,
    "[METAL] Command buffer execution failed: Insufficient Memory (00000008:"
    "kIOGPUCommandBufferCallbackErrorOutOfMemory)": True,
    "CUDA error: out of memory": True,
    "cudaGraphInstantiate failed: out of memory": True,
    "[matmul] Last dimension of first input must match.": False,
}


@pytest.mark.parametrize("words", WORDS)
def test_it_is_known_by_what_engines_say(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words)) is WORDS[words]
    assert is_out_of_memory(MemoryError())
