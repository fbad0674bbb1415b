"""`/v1/completions` through the official `openai` SDK, on both engines, and on scripted models."""

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion

from tests.contract.strictness import unknown
from tests.support.clients import strict_openai
from tests.support.process import ServerProcess
from tests.support.server import LiveServer, sim_server

MODELS = ("tiny-gguf", "tiny-mlx")
PROMPT = "Once upon a time"


@pytest.fixture
def client(tiny_server: ServerProcess) -> Iterator[openai.OpenAI]:
    with strict_openai(tiny_server.url) as made:
        yield made


def stream(client: openai.OpenAI, **asked: Any) -> list[Completion]:
    """The parts of a streamed answer, each checked as strictly as the SDK checks a whole one.

    But for one thing: its types have no null for an answer that has not ended yet, which is
    what OpenAI's own streams say there.
    """
    lenient = client.copy(_extra_kwargs={"_strict_response_validation": False})
    parts = list(lenient.completions.create(**asked, stream=True))
    for part in parts:
        body = part.model_dump()
        for one in body["choices"]:
            one["finish_reason"] = one["finish_reason"] or "stop"
        assert not unknown(Completion.model_validate(body, strict=True))
    return parts


def texts(answer: Completion) -> list[str]:
    return [one.text for one in answer.choices]


def streamed(parts: list[Completion], answers: int) -> tuple[list[str], list[str | None]]:
    """The text and the end of each answer."""
    said, ends = [""] * answers, [None] * answers
    for part in parts:
        for one in part.choices:
            assert ends[one.index] is None, "something came after the end"
            said[one.index] += one.text
            ends[one.index] = one.finish_reason
    return said, ends


@pytest.mark.parametrize("model", MODELS)
def test_a_plain_answer_is_complete(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt=PROMPT, temperature=0)
    assert not unknown(answer)
    assert (answer.object, answer.model) == ("text_completion", model)
    assert answer.id.startswith("cmpl-")
    assert answer.system_fingerprint
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].text


@pytest.mark.parametrize("model", MODELS)
def test_streamed_answers_join_to_the_plain_ones(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "prompt": [PROMPT, "Two"],
        "n": 2,
        "temperature": 1.2,
        "seed": 5,
        "max_tokens": 8,
    }
    plain = client.completions.create(**asked)
    parts = stream(client, **asked, stream_options={"include_usage": True})
    said, ends = streamed(parts, 4)
    assert said == texts(plain)
    assert ends == [one.finish_reason for one in plain.choices]
    assert parts[-1].usage is not None
    assert plain.usage is not None
    assert parts[-1].usage.completion_tokens == plain.usage.completion_tokens == 32
    assert parts[-1].usage.prompt_tokens == plain.usage.prompt_tokens
    assert said[0] != said[1], "answers of one prompt have seeds of their own"


@pytest.mark.parametrize("model", MODELS)
def test_several_prompts_are_as_if_each_was_asked_alone(client: openai.OpenAI, model: str) -> None:
    prompts = [PROMPT, "A b c d e", "x"]
    asked: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": 6}
    alone = [client.completions.create(prompt=one, **asked) for one in prompts]
    together = client.completions.create(prompt=prompts, **asked)
    assert texts(together) == [texts(one)[0] for one in alone]
    counts = [one.usage.prompt_tokens for one in alone if one.usage]
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(counts)


@pytest.mark.parametrize("model", MODELS)
def test_token_ids_are_taken_and_echoed_as_text(client: openai.OpenAI, model: str) -> None:
    ids = [[70, 71, 72], [80, 81]]
    asked: dict[str, Any] = {"model": model, "prompt": ids, "temperature": 0, "max_tokens": 4}
    plain = client.completions.create(**asked)
    assert plain.usage is not None
    assert plain.usage.prompt_tokens == 5
    echoed = client.completions.create(**asked, echo=True)
    for with_prompt, alone in zip(texts(echoed), texts(plain), strict=True):
        assert with_prompt.endswith(alone)
        assert len(with_prompt) > len(alone)
    parts = stream(client, **asked, echo=True)
    assert streamed(parts, 2)[0] == texts(echoed)


@pytest.mark.parametrize("model", MODELS)
def test_echo_alone_gives_the_prompt_back(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt=[PROMPT, "b"], echo=True, max_tokens=0)
    assert not unknown(answer)
    assert texts(answer) == [PROMPT, "b"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    parts = stream(client, model=model, prompt="b", echo=True, max_tokens=0)
    assert streamed(parts, 1) == (["b"], ["length"])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wanted", [0, 2, 5])
def test_logprobs_are_real_and_aligned(client: openai.OpenAI, model: str, wanted: int) -> None:
    answer = client.completions.create(
        model=model, prompt=PROMPT, temperature=0, max_tokens=8, logprobs=wanted
    )
    assert not unknown(answer)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.token_logprobs is not None
    assert found.text_offset is not None
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset) > 0
    assert all(-50 < one <= 0 for one in found.token_logprobs)
    if not wanted:
        assert found.top_logprobs is None
        return
    assert found.top_logprobs is not None
    for token, logprob, top in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, strict=True
    ):
        assert wanted <= len(top) <= wanted + 1
        assert top[token] == pytest.approx(max(top.values())) == pytest.approx(logprob)
        assert math.fsum(math.exp(one) for one in top.values()) <= 1.001


@pytest.mark.parametrize("model", MODELS)
def test_best_of_gives_the_likeliest_and_counts_all(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": 6,
        "temperature": 1.5,
        "seed": 11,
        "logprobs": 0,
    }
    every = client.completions.create(**asked, n=4)
    best = client.completions.create(**asked, n=2, best_of=4)

    def mean(answer: Completion, place: int) -> float:
        found = answer.choices[place].logprobs
        assert found is not None
        assert found.token_logprobs
        return sum(found.token_logprobs) / len(found.token_logprobs)

    means = sorted((mean(every, place) for place in range(4)), reverse=True)
    assert [mean(best, place) for place in range(2)] == pytest.approx(means[:2], abs=1e-3)
    assert every.usage is not None
    assert best.usage is not None
    assert best.usage.completion_tokens == every.usage.completion_tokens


@pytest.mark.parametrize("model", MODELS)
def test_a_suffix_needs_a_model_that_can(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=model, prompt="a", suffix="b")
    assert (refused.value.param, refused.value.code) == ("suffix", "unsupported_parameter")


@pytest.mark.parametrize("model", MODELS)
def test_what_fits_no_window_is_refused_in_openais_words(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is") as refused:
        client.completions.create(model=model, prompt=["short", "long " * 20_000])
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt.1")
    with pytest.raises(openai.BadRequestError, match="in the prompt, 5 in the completion") as one:
        client.completions.create(model=model, prompt="long " * 9000, max_tokens=5)
    assert one.value.param == "prompt"


@pytest.mark.parametrize("model", MODELS)
def test_a_token_beyond_the_vocabulary_names_the_prompt(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=model, prompt=[1, 2**31 - 1])
    assert refused.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as one_of_two:
        client.completions.create(model=model, prompt=[[1, 2], [2**31 - 1]])
    assert one_of_two.value.param == "prompt.1"


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("tiny-gguf:mlx", 200, None),
        ("tiny-mlx:gguf", 400, "backend_mismatch"),
        ("tiny-embed-gguf:mlx", 400, "backend_mismatch"),
    ],
)
def test_a_model_is_found_with_the_engines_that_can_run_it(
    tiny_server: ServerProcess, model: str, status: int, code: str | None
) -> None:
    found = tiny_server.http.get(f"{tiny_server.url}/v1/models/{model}")
    assert found.status_code == status
    if code is not None:
        body = {"model": model, "prompt": "a"}
        asked = tiny_server.http.post(f"{tiny_server.url}/v1/completions", json=body)
        for reply in (found, asked):
            error = reply.json()["error"]
            assert (reply.status_code, error["code"], error["param"]) == (400, code, "model")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    scripts: dict[str, dict[str, Any]] = {
        "m": {},
        "filling": {"infill": True},
        "slow": {"reply": "word " * 2000, "step_ms": 5},
        "mortal": {"reply": "word " * 2000, "step_ms": 2, "die_at_step": 4},
        "thinking": {"reply": "<think>no</think><tool_call>{}</tool_call>", "reasoning": "think"},
    }
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, scripts, slots=2, max_waiting=4) as running:
        yield running


def ask(server: LiveServer, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "prompt": "hi", **fields}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=30)


def test_a_model_that_can_fills_in(server: LiveServer) -> None:
    with strict_openai(server.url) as client:
        answer = client.completions.create(model="filling", prompt="ab", suffix="cd")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4


def test_the_answer_is_raw(server: LiveServer) -> None:
    (one,) = ask(server, "thinking").json()["choices"]
    assert one["text"] == "<think>no</think><tool_call>{}</tool_call> "


def test_a_call_is_admitted_with_all_its_places_or_not_at_all(server: LiveServer) -> None:
    assert ask(server, "m", prompt=["a"] * 3, n=2).status_code == 200
    refused = ask(server, "m", prompt=["a"] * 7)
    assert refused.status_code == 400
    with httpx.Client(timeout=30) as http:
        body = {"model": "slow", "prompt": ["a"] * 4, "stream": True, "max_tokens": 2000}
        with http.stream("POST", f"{server.url}/v1/completions", json=body) as running:
            lines = running.iter_lines()
            assert "text_completion" in next(lines)
            full = ask(server, "slow", prompt=["a", "b", "c"])
            assert full.status_code == 429
            assert full.json()["error"]["code"] == "queue_full"
            assert int(full.headers["retry-after"]) >= 1
    assert ask(server, "m").status_code == 200


def test_a_worker_that_dies_ends_every_prompt_once(server: LiveServer) -> None:
    body = {"model": "mortal", "prompt": ["a", "b"], "stream": True, "max_tokens": 500}
    reply = httpx.post(f"{server.url}/v1/completions", json=body, timeout=30)
    lines = [line[6:] for line in reply.text.split("\n") if line.startswith("data: ")]
    errors = [line for line in lines if "error" in json.loads(line)]
    assert len(errors) == 1
    assert lines[-1] == errors[0], "nothing follows a failure"


def test_a_client_that_goes_frees_every_place(server: LiveServer) -> None:
    with httpx.Client(timeout=30) as http:
        body = {"model": "slow", "prompt": ["a", "b", "c"], "stream": True, "max_tokens": 2000}
        with http.stream("POST", f"{server.url}/v1/completions", json=body) as running:
            next(running.iter_lines())
    # The line is empty again as soon as a call that needs all of it is let in.
    eventually_admitted(server)


def eventually_admitted(server: LiveServer) -> None:
    body = {"model": "slow", "prompt": ["a"] * 6, "max_tokens": 1}
    for _ in range(200):
        if httpx.post(f"{server.url}/v1/completions", json=body, timeout=30).status_code == 200:
            return
    raise AssertionError(server.status("slow"))


@pytest.mark.engine
def test_the_starter_goes_on_with_a_text_on_both_engines(starter_server: ServerProcess) -> None:
    prompt = ["The capital of France is", "One, two, three, four,"]
    with strict_openai(starter_server.url) as client:
        for model in ("starter", "starter:mlx"):
            asked: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 6}
            answer = client.completions.create(**asked, temperature=0, logprobs=1)
            assert not unknown(answer)
            assert "Paris" in answer.choices[0].text
            assert "five" in answer.choices[1].text
            assert streamed(stream(client, **asked, temperature=0), 2)[0] == texts(answer)
