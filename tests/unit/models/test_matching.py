"""Which stored model a client means by a name that is not quite its own."""

import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.matching import Known, bits_of, resolve
from opta_lmx.models.names import split_ref, valid_name

STORE = [
    Known("starter", "Q4_1"),
    Known("starter-long", "Q4_K_M"),
    Known("mlx-community/Qwen3-4B-4bit", "4bit", "mlx"),
    Known("mlx-community/Qwen3-4B-8bit", "8bit", "mlx"),
    Known("unsloth/Qwen3-8B-GGUF", "Q4_K_M"),
    Known("one/same", "Q8_0"),
    Known("two/same", "Q8_0"),
]
ALIASES = {
    "gpt-4o": "starter",
    "Fast": "qwen3-4b-4bit",
    "long": "starter-long:mlx",
    "gone": "nobody",
}


def meant(ref: str) -> str:
    found = resolve(ref, STORE, ALIASES)
    return found.name if found.backend is None else f"{found.name}:{found.backend}"


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("starter", "starter"),
        ("starter:mlx", "starter:mlx"),
        ("STARTER:gguf", "starter:gguf"),
        ("opta/starter", "starter"),
        ("lmstudio/starter-long", "starter-long"),
        ("openrouter/mlx-community/Qwen3-4B-4bit", "mlx-community/Qwen3-4B-4bit"),
        ("gpt-4o", "starter"),
        ("GPT-4O", "starter"),
        ("opta/gpt-4o", "starter"),
        ("gpt-4o:mlx", "starter:mlx"),
        ("fast", "mlx-community/Qwen3-4B-4bit"),
        ("long", "starter-long:mlx"),
        ("long:gguf", "starter-long:gguf"),
        ("starter-Q4_1", "starter"),
        ("starter@q4_1", "starter"),
        ("Starter-4bit", "starter"),
        ("starter-MLX-4bit", "starter"),
        ("starter.Q4_K_M.gguf", "starter"),
        ("starter-GGUF", "starter"),
        ("qwen3-4b@4bit", "mlx-community/Qwen3-4B-4bit"),
        ("qwen3-4b-Q8_0", "mlx-community/Qwen3-4B-8bit"),
        ("Qwen3-8B", "unsloth/Qwen3-8B-GGUF"),
        ("qwen3-8b-ud-q4_k_xl", "unsloth/Qwen3-8B-GGUF"),
        ("unsloth/qwen3-8b@q4_k_m", "unsloth/Qwen3-8B-GGUF"),
        ("one/SAME", "one/same"),
    ],
)
def test_names_near_enough(ref: str, name: str) -> None:
    assert meant(ref) == name


@pytest.mark.parametrize(
    ("ref", "candidates"),
    [
        ("same", ["one/same", "two/same"]),
        ("Qwen3-4B", ["mlx-community/Qwen3-4B-4bit", "mlx-community/Qwen3-4B-8bit"]),
        ("opta/qwen3-4b-mlx", ["mlx-community/Qwen3-4B-4bit", "mlx-community/Qwen3-4B-8bit"]),
    ],
)
def test_several_fit(ref: str, candidates: list[str]) -> None:
    with pytest.raises(LmxError) as caught:
        meant(ref)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.MODEL_NOT_FOUND, "model_ambiguous")
    assert caught.value.param == "model"
    assert all(name in caught.value.message for name in candidates)
    assert "starter" not in caught.value.message


def test_at_most_ten_candidates_are_listed() -> None:
    crowd = [Known(f"org{number:02}/m") for number in range(25)]
    with pytest.raises(LmxError) as caught:
        resolve("m", crowd, {})
    assert caught.value.message.count("/m") == 10
    assert "15 more" in caught.value.message


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("starter-Q8_0", "'starter'"),  # another width is another model
        ("startr", "'starter'"),
        ("unsloth/starter", ""),  # a known org is no provider's prefix
        ("three/qwen3-4b-2bit", "'mlx-community/Qwen3-4B-4bit'"),
        ("gone", ""),
        ("", ""),
        ("/", ""),
        (":mlx", ""),
        ("nothing like it", ""),
    ],
)
def test_nothing_fits(ref: str, hint: str) -> None:
    with pytest.raises(LmxError) as caught:
        meant(ref)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.MODEL_NOT_FOUND, "model_not_found")
    assert hint in caught.value.message


@pytest.mark.parametrize("ref", ["/" * 100_000, "-q4_0" * 20_000, "a/" * 50_000, "@" * 512])
def test_a_name_without_end_costs_nothing(ref: str) -> None:
    began = time.perf_counter()
    with pytest.raises(LmxError):
        resolve(ref, STORE, ALIASES)
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("ref", ["a/" * 255, "llama-q4_k_m/" * 39, "-q4_0" * 102, ".gguf" * 102])
def test_a_long_name_costs_little_however_many_models_there_are(ref: str) -> None:
    """The event loop waits for it."""
    many = [Known(f"org{n % 9}/Llama-{n}-Instruct-Q4_K_M", "Q4_K_M", "gguf") for n in range(300)]
    with pytest.raises(LmxError):
        resolve("warm", many, ALIASES)
    began = time.process_time()
    with pytest.raises(LmxError):
        resolve(ref, many, ALIASES)
    assert time.process_time() - began < 0.05


def test_an_alias_never_hides_a_model() -> None:
    assert resolve("starter", STORE, {"starter": "one/same"}).name == "starter"
    assert resolve("Starter", STORE, {"Starter": "one/same"}).name == "one/same"


@pytest.mark.parametrize(
    ("quantisation", "bits"),
    [
        *(("Q4_K_M", 4), ("IQ2_XXS", 2), ("4bit", 4), ("bf16", 16), ("F32", 32), ("MXFP4", 4)),
        *(("UD-Q4_K_XL", 4), ("TQ1_0", 1), ("int8", 8), ("fp16", 16), ("", None), ("awq", None)),
    ],
)
def test_nominal_bits(quantisation: str, bits: int | None) -> None:
    assert bits_of(quantisation) == bits


# --- whatever is stored and asked for -----------------------------------------------------

PART = st.text(alphabet=st.sampled_from("aAbB3.-_"), min_size=1, max_size=5)
SUFFIX = st.sampled_from(["", "", "-Q4_K_M", "-4bit", "-8bit", "-GGUF", ".gguf", "-MLX-4bit"])
NAME = st.builds(
    lambda org, base, suffix: f"{org}/{base}{suffix}" if org else base + suffix,
    st.one_of(st.just(""), PART),
    PART,
    SUFFIX,
).filter(valid_name)
STORED = st.lists(NAME, min_size=1, max_size=6, unique_by=str.lower)
REF = st.one_of(NAME, st.text(max_size=12), st.text(alphabet="aAbB/:@-_.Q4km", max_size=12))


def outcome(ref: str, names: list[str], aliases: dict[str, str]) -> str:
    """The model's name, or the code of the error."""
    try:
        found = resolve(ref, [Known(name) for name in names], aliases)
    except LmxError as refused:
        error = refused
    else:
        assert found.name in names
        assert aliases or found.backend == split_ref(ref)[1]
        return found.name
    assert (error.kind, error.param) == (ErrorKind.MODEL_NOT_FOUND, "model")
    assert len(error.message) < 3000
    return error.code


@given(names=STORED, ref=REF, data=st.data())
def test_the_outcome_is_a_stored_model_or_a_typed_error(
    names: list[str], ref: str, data: st.DataObject
) -> None:
    aliases = data.draw(st.dictionaries(REF, REF, max_size=3))
    first = outcome(ref, names, aliases)
    assert outcome(ref, data.draw(st.permutations(names)), aliases) == first


@given(names=STORED, data=st.data())
def test_every_model_is_reached_by_its_name_whatever_case_prefix_and_backend(
    names: list[str], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(names))
    assert outcome(name, names, {}) == name
    assert outcome(name.swapcase(), names, {}) == name
    assert outcome(f"{name}:mlx", names, {}) == name
    orgs = {one.partition("/")[0].lower() for one in names if "/" in one}
    assume("provider" not in orgs)
    assert outcome(f"provider/{name}", names, {}) == name
    assert outcome("alias", names, {"alias": name}) == name


@pytest.mark.parametrize(
    ("ref", "name", "backend", "adapter"),
    [
        ("starter:math", "starter", None, "math"),
        ("starter:mlx:math", "starter", "mlx", "math"),
        ("GPT-4o:math", "starter", None, "math"),
        ("long:math", "starter-long", "mlx", "math"),
        ("long:gguf:math", "starter-long", "gguf", "math"),
        ("opta/starter:Math.v2_x-1", "starter", None, "Math.v2_x-1"),
        ("whole:name", "starter", None, ""),
        ("legal", "starter", "gguf", "law"),
        ("legal:math", "starter", "gguf", "math"),
        ("legal:mlx", "starter", "mlx", "law"),
    ],
)
def test_an_adapter_is_what_follows_the_model(
    ref: str, name: str, backend: str | None, adapter: str
) -> None:
    aliases = {**ALIASES, "whole:name": "starter", "legal": "starter:gguf:law"}
    found = resolve(ref, STORE, aliases)
    assert (found.name, found.backend, found.adapter) == (name, backend, adapter)


@pytest.mark.parametrize("ref", ["starter:a:b", "starter:math:mlx", "starter:", ":math", "a:MLX"])
def test_no_other_order_names_an_adapter(ref: str) -> None:
    with pytest.raises(LmxError):
        resolve(ref, STORE, ALIASES)
