"""The starter models, fetched once and shared by every test run on this checkout."""

import fcntl
import os
from functools import cache
from pathlib import Path

from opta_lmx.models.starters import STARTERS, ensure
from opta_lmx.models.store import ModelStore


def cache_root() -> Path:
    """`$LMX_TEST_CACHE`, or `.cache/models` in the checkout."""
    given = os.environ.get("LMX_TEST_CACHE")
    return Path(given) if given else Path(__file__).parents[2] / ".cache" / "models"


@cache
def starter_store() -> Path:
    """Root of a model store that holds both starters. Safe from several processes at once.

    Shared: do not delete from it, and put conversions elsewhere unless they are to be shared.
    """
    for name in STARTERS:
        starter_path(name)
    return cache_root()


@cache
def starter_path(name: str = "starter") -> Path:
    """The GGUF file of `starter` or `starter-long`, downloaded on the first use."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    store = ModelStore(root)
    present = store.find(name)
    if present is not None:
        return present.path
    with (root / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait for the first to finish
        return ensure(store, name).path


def starter_settings() -> dict[str, str]:
    """The environment of a server that runs the starters with llama.cpp, unless told otherwise."""
    return {
        "LMX_MODELS__DIR": str(starter_store()),
        "LMX_ENGINE__BACKEND": "gguf",
        "LMX_ENGINE__THREADS": "1",
    }
