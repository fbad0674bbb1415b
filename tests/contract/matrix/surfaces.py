"""All requests the matrix describes."""

from tests.contract.matrix import lmstudio, messages, ollama, responses, vectors
from tests.contract.matrix.chat import CHAT
from tests.contract.matrix.completions import COMPLETIONS
from tests.contract.matrix.model import Surface

SURFACES: tuple[Surface, ...] = (
    CHAT,
    COMPLETIONS,
    responses.RESPONSES,
    responses.INPUT_TOKENS,
    responses.COMPACT,
    messages.MESSAGES,
    messages.COUNT_TOKENS,
    vectors.EMBEDDINGS,
    vectors.RERANK_V1,
    vectors.RERANK_V2,
    lmstudio.LOAD,
    ollama.CHAT,
    ollama.GENERATE,
    ollama.EMBED,
    ollama.EMBEDDINGS,
)

MODELS = {"chat": "tiny", "embedding": "tiny-embed", "rerank": "tiny-rerank"}
"""What the models of each kind are called, before `-mlx` and `-gguf`."""
