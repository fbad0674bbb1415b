"""What the first token that a loaded model is asked for says of it."""

from pathlib import Path

import pytest

from opta_lmx.backends.gguf.canary import try_once
from opta_lmx.backends.protocol import LoadError


def test_an_engine_that_does_not_answer_says_nothing_of_the_model(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as told:
        try_once(str(tmp_path / "nobody.sock"), 100)
    assert told.value.code == "load_failed"
