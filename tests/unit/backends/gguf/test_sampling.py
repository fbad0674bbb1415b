"""Every sampling choice is spelled out in the request body."""

import pytest

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.gguf.sampling import completion_body
from opta_lmx.core.types import SamplingParams

NEUTRAL = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)


def body(top_logprobs: int | None = None, **sampling: float) -> dict[str, object]:
    params = SamplingParams(**sampling).resolve(NEUTRAL)  # type: ignore[arg-type]
    request = Submit(1, (5, 6), params, 7, top_logprobs)
    return completion_body(request, 3, cache_prompt=False, markers=("<tool_call>",))


def test_request_is_low_level_streamed_and_pinned_to_a_slot() -> None:
    made = body()
    assert (made["prompt"], made["id_slot"], made["n_predict"]) == ([5, 6], 3, 7)
    assert made["stream"] is True
    assert made["return_tokens"] is True
    assert made["return_progress"] is True
    assert made["cache_prompt"] is False
    assert made["preserved_tokens"] == ["<tool_call>"]


def test_no_engine_default_applies() -> None:
    made = body()
    assert made["samplers"] == ["penalties", "top_k", "top_p", "min_p", "temperature"]
    assert (made["temperature"], made["top_k"], made["top_p"], made["min_p"]) == (1.0, 0, 1.0, 0.0)
    assert (made["repeat_penalty"], made["repeat_last_n"], made["dry_multiplier"]) == (1.0, 0, 0.0)
    assert (made["xtc_probability"], made["typical_p"], made["mirostat"]) == (0.0, 1.0, 0)
    assert (made["presence_penalty"], made["frequency_penalty"]) == (0.0, 0.0)
    assert made["stop"] == []
    assert made["ignore_eos"] is False


def test_given_values_are_used() -> None:
    made = body(temperature=0.5, top_k=4, top_p=0.9, min_p=0.1, seed=11)
    assert [made[name] for name in ("temperature", "top_k", "top_p", "min_p", "seed")] == [
        *(0.5, 4, 0.9, 0.1, 11)
    ]


def test_temperature_zero_is_greedy_whatever_else_is_set() -> None:
    made = body(temperature=0.0, top_k=4, top_p=0.1)
    assert made["samplers"] == ["penalties", "temperature"]
    assert made["temperature"] == 0.0


@pytest.mark.parametrize("seed", [-1, -(2**70), 2**32 - 1, 2**32, 2**70])
def test_any_seed_becomes_one_that_is_not_random(seed: int) -> None:
    made = body(seed=seed)["seed"]
    assert isinstance(made, int)
    assert 0 <= made < 2**32 - 1


def test_no_seed_means_a_random_one() -> None:
    assert body()["seed"] == 2**32 - 1


@pytest.mark.parametrize(("asked", "sent"), [(None, 0), (0, 1), (1, 1), (5, 5)])
def test_logprobs(asked: int | None, sent: int) -> None:
    assert body(top_logprobs=asked)["n_probs"] == sent


def test_what_frequency_and_presence_take_off_the_prompt_is_given_back() -> None:
    params = SamplingParams(frequency_penalty=0.5, presence_penalty=0.25)
    request = Submit(1, (7, 8, 7), params, 10, logit_bias=((7, 1.0), (9, -100.0)))
    made = completion_body(request, 0, cache_prompt=True)
    assert dict(made["logit_bias"]) == {7: 1.0 + 2 * 0.5 + 0.25, 8: 0.5 + 0.25, 9: -100.0}
    assert made["repeat_last_n"] == 3 + 10


def test_repetition_leaves_the_prompt_counted() -> None:
    request = Submit(1, (7, 8, 7), SamplingParams(repetition_penalty=1.3), 10)
    made = completion_body(request, 0, cache_prompt=True)
    assert (made["logit_bias"], made["repeat_penalty"]) == ([], 1.3)


def test_tokens_that_grammars_misread_are_banned() -> None:
    request = Submit(1, (7,), SamplingParams(), 10, logit_bias=((4, 2.0),))
    made = completion_body(request, 0, cache_prompt=True, grammar="start: X", banned=(5,))
    assert (made["grammar"], made["logit_bias"]) == ("start: X", [(4, 2.0), [5, False]])
