"""A store with embedders and rerankers for both engines, made of the same weights."""

import contextlib
import tempfile
from collections.abc import Generator
from pathlib import Path

from opta_lmx.models.store import ModelStore
from tests.support.encoders import minilm, minilm_gguf, tiny_encoder, tiny_encoder_gguf
from tests.support.process import ServerProcess, running_server
from tests.support.starters import cache_root, starter_path

EMBEDDERS = ("minilm", "minilm-gguf")
RERANKERS = ("scorer", "scorer-gguf")


@contextlib.contextmanager
def vector_server(home: Path, *arguments: str, **environment: str) -> Generator[ServerProcess]:
    """The real program with all of them, and the small chat model `starter`, not yet loaded."""
    sources = {
        "minilm": minilm(),
        "minilm-gguf": minilm_gguf(),
        "scorer": tiny_encoder(rerank=True),
        "scorer-gguf": tiny_encoder_gguf(rerank=True),
        "starter": starter_path("starter"),
    }
    # On the caches' own disk, where files can be shared instead of copied.
    with tempfile.TemporaryDirectory(prefix=".vectors-", dir=cache_root().parent) as root:
        store = ModelStore(Path(root))
        for name, source in sources.items():
            store.add(source, name)
        settings = {"LMX_MODELS__DIR": root, "LMX_ENGINE__THREADS": "1", **environment}
        with running_server(home, *arguments, **settings) as server:
            yield server
