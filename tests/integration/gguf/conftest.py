"""Models served by real worker processes, one for each kind of question."""

from collections.abc import Iterator

import pytest

from tests.support.gguf_child import Child
from tests.support.starters import starter_path
from tests.support.tiny import tiny_gguf


@pytest.fixture(scope="module")
def starter() -> Iterator[Child]:
    """The starter with four slots of 2,048 tokens."""
    with Child(starter_path("starter"), context=2048) as child:
        child.ready()
        yield child


@pytest.fixture(scope="module")
def long() -> Iterator[Child]:
    """The long-context starter with two slots."""
    with Child(starter_path("starter-long"), context=8192, slots=2) as child:
        child.ready()
        yield child


@pytest.fixture(scope="module")
def tiny() -> Iterator[Child]:
    """The tiny model, whose answers never end by themselves, with a window of 256 tokens."""
    with Child(tiny_gguf(), context=256) as child:
        child.ready()
        yield child
