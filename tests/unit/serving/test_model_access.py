"""Which models a key may use: patterns, and that no other name of a model leads past them."""

from collections.abc import Sequence

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal
from opta_lmx.engine.plan import Plan
from opta_lmx.models.matching import Known, Reference, resolve
from opta_lmx.serving.access import ModelAccess

MODELS = ("small", "big", "org/big-Q4_K_M", "made:up", "tuned")
ALIASES = {"fast": "small", "smallest": "big", "voice": "tuned:soft", "gguf-big": "big:gguf"}


class Names:
    """Stored models by name, as a resolver finds them; none can be run."""

    def canonical(self, ref: str) -> str:
        wanted = self._asked(ref)
        # Everything here runs on MLX unless another backend is asked for.
        return f"{wanted.name}:gguf" if wanted.backend == "gguf" else wanted.name

    def adapter(self, ref: str) -> str:
        return self._asked(ref).adapter

    def _asked(self, ref: str) -> Reference:
        return resolve(ref, self.known(), ALIASES)

    def plan(self, ref: str, context: int | None = None) -> Plan:
        raise AssertionError("nothing is to be run")

    def known(self) -> Sequence[Known]:
        return [Known(name) for name in MODELS]


def code(ref: str, *patterns: str) -> str:
    """What becomes of a request by a key with these patterns."""
    try:
        ModelAccess(Names()).check(Principal(models=patterns), ref)
    except LmxError as error:
        return error.code
    return "ok"


@pytest.mark.parametrize(
    ("patterns", "ref"),
    [
        (["small"], "small"),
        (["small"], "SMALL"),
        (["small"], "openrouter/small"),
        (["small"], "fast"),
        (["s*l"], "fast"),
        (["*"], "big"),
        (["big"], "big:gguf"),
        (["big:gguf"], "big:gguf"),
        (["big:gguf"], "gguf-big"),
        (["org/*"], "org/big"),
        (["tuned"], "tuned:soft"),
        (["tuned:soft"], "tuned:soft"),
        (["tuned:soft"], "voice"),
        (["tuned:*"], "tuned:soft"),
        (["no", "fast"], "fast"),
        (["smallest"], "smallest"),
    ],
)
def test_what_is_granted(patterns: list[str], ref: str) -> None:
    assert code(ref, *patterns) == "ok"


@pytest.mark.parametrize(
    ("patterns", "ref"),
    [
        (["small"], "big"),
        (["small*"], "smallest"),  # an alias that fits, of a model that does not
        (["fast"], "small"),  # the alias was granted, not what it leads to
        (["s*"], "gguf-big"),
        (["big:gguf"], "big"),
        (["tuned:soft"], "tuned"),
        (["tuned:soft"], "tuned:loud"),
        (["tuned:*"], "tuned"),
        (["Small"], "small"),
        (["org/*"], "big"),
        (["?mall", "[s]mall", "small."], "small"),
        ([], "small"),
    ],
)
def test_what_is_not(patterns: list[str], ref: str) -> None:
    assert code(ref, *patterns) == "model_not_allowed"


def test_a_key_without_patterns_may_use_all() -> None:
    access = ModelAccess(Names())
    for ref in (*MODELS, *ALIASES, "none"):
        access.check(Principal(), ref)


def refusal(ref: str) -> LmxError:
    with pytest.raises(LmxError) as refused:
        ModelAccess(Names()).check(Principal(models=("small",)), ref)
    return refused.value


@pytest.mark.parametrize("ref", ["big", "bigg", "big-Q8_0", "none", "big:soft", "x" * 600])
def test_the_words_are_the_same_whether_a_model_exists(ref: str) -> None:
    error = refusal(ref)
    assert (error.kind, error.code) == (ErrorKind.FORBIDDEN, "model_not_allowed")
    assert error.param == "model"
    assert error.message == f"This key may not use the model '{ref[:200]}'."


def test_a_name_that_means_nothing_hints_at_no_other_model() -> None:
    with pytest.raises(LmxError) as refused:
        ModelAccess(Names()).check(Principal(models=("bi*",)), "bigg")
    assert refused.value.kind is ErrorKind.MODEL_NOT_FOUND
    assert refused.value.message == "The model 'bigg' does not exist."
