"""Embedders and rerankers in real worker processes: both engines on the same weights."""

import math
import os
import signal
from collections.abc import Iterator
from operator import mul
from typing import Any

import numpy as np
import pytest

from opta_lmx.backends.embedding.slices import SLICE
from tests.support.encoder_reference import Reference
from tests.support.encoders import minilm, tiny_encoder
from tests.support.process import ServerProcess, wait_gone
from tests.support.vector_models import EMBEDDERS, RERANKERS, vector_server

pytestmark = pytest.mark.engine

SENTENCES = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A cheetah chases its prey across the savannah.",
    "Stocks fell sharply on Tuesday after the central bank raised rates.",
    "Café, naïve, 東京 and 🎉 in one line.",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with vector_server(tmp_path_factory.mktemp("home")) as running:
        yield running


def post(server: ServerProcess, path: str, **body: Any) -> Any:
    return server.http.post(f"{server.url}{path}", json=body, timeout=120)


def embed(server: ServerProcess, model: str, value: Any, **more: Any) -> list[list[float]]:
    reply = post(server, "/v1/embeddings", model=model, input=value, **more)
    assert reply.status_code == 200, reply.text
    return [item["embedding"] for item in reply.json()["data"]]


def cosine(one: list[float], two: list[float]) -> float:
    return sum(map(mul, one, two)) / math.hypot(*one) / math.hypot(*two)


@pytest.mark.parametrize("model", EMBEDDERS)
def test_the_vectors_are_those_of_the_reference(server: ServerProcess, model: str) -> None:
    reference = Reference(minilm())
    ids = [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
    mean = reference.tokens(ids).mean(axis=0)
    wanted = (mean / np.linalg.norm(mean)).tolist()
    by_text, by_ids = embed(server, model, [SENTENCES[0]])[0], embed(server, model, ids)[0]
    assert cosine(by_text, wanted) > 0.99999
    assert cosine(by_ids, wanted) > 0.99999
    assert math.hypot(*by_text) == pytest.approx(1, abs=1e-5)


def test_both_engines_make_the_same_vectors(server: ServerProcess) -> None:
    many = [f"{sentence} {'and so on ' * (n % 7)}" for n in range(8) for sentence in SENTENCES]
    left, right = (embed(server, model, many) for model in EMBEDDERS)
    assert min(map(cosine, left, right)) > 0.9999


@pytest.mark.parametrize("model", EMBEDDERS)
def test_what_means_the_same_is_closer(server: ServerProcess, model: str) -> None:
    vectors = embed(server, model, list(SENTENCES))
    near = cosine(vectors[0], vectors[1])
    far = [cosine(vectors[0], vectors[place]) for place in (2, 3, 4)]
    assert near > 0.7
    assert max(far) < 0.3


@pytest.mark.parametrize("model", EMBEDDERS)
def test_usage_is_exact_and_a_batch_changes_nothing(server: ServerProcess, model: str) -> None:
    replies = [
        post(server, "/v1/embeddings", model=model, input=sentence).json() for sentence in SENTENCES
    ]
    together = post(server, "/v1/embeddings", model=model, input=list(SENTENCES)).json()
    counts = [reply["usage"]["prompt_tokens"] for reply in replies]
    assert counts[0] == 8
    assert together["usage"] == {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
    for alone, batched in zip(replies, together["data"], strict=True):
        assert cosine(alone["data"][0]["embedding"], batched["embedding"]) > 0.9999
    assert [item["index"] for item in together["data"]] == list(range(len(SENTENCES)))


@pytest.mark.parametrize(("model", "window"), [("minilm", 256), ("minilm-gguf", 512)])
def test_an_input_beyond_the_window_is_refused_with_its_numbers(
    server: ServerProcess, model: str, window: int
) -> None:
    reply = post(server, "/v1/embeddings", model=model, input=["fine", "word " * 700])
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input.1")
    told = f"maximum context length is {window} tokens. However, you requested 702 tokens"
    assert told in error["message"]
    reply = post(server, "/v1/embeddings", model=model, input="word " * (window - 2))
    assert reply.json()["usage"]["prompt_tokens"] == window
    reply = post(server, "/v1/embeddings", model=model, input=[[101, 102], [101, 30_522]])
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input.1")


@pytest.mark.parametrize("model", EMBEDDERS)
def test_a_huge_text_is_not_read_to_its_end(server: ServerProcess, model: str) -> None:
    reply = post(server, "/v1/embeddings", model=model, input="word " * 400_000)
    assert reply.status_code == 400
    assert "However, you requested at least " in reply.json()["error"]["message"]
    assert reply.elapsed.total_seconds() < 5


@pytest.mark.parametrize(("model", "words"), [("minilm-gguf", 510), ("minilm", 254)])
def test_text_across_pieces_is_counted_exactly(
    server: ServerProcess, model: str, words: int
) -> None:
    reply = post(server, "/v1/embeddings", model=model, input="x " * words)
    assert reply.json()["usage"]["prompt_tokens"] == words + 2
    long = (" " * 200 + "x") * words
    assert len(long) > SLICE
    reply = post(server, "/v1/embeddings", model=model, input=long)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["prompt_tokens"] == words + 2


def test_both_engines_score_as_the_reference(server: ServerProcess) -> None:
    reference = Reference(tiny_encoder(rerank=True))
    documents = ["abc abc", "the quick brown fox", "x", "what is it?"]
    scores: list[dict[int, float]] = []
    for model in RERANKERS:
        body = {"model": model, "query": "what is it?", "documents": documents}
        reply = post(server, "/v1/rerank", **body)
        assert reply.status_code == 200, reply.text
        results = reply.json()["results"]
        listed = [result["relevance_score"] for result in results]
        assert listed == sorted(listed, reverse=True)
        scores.append({result["index"]: result["relevance_score"] for result in results})
        assert reply.json()["usage"]["total_tokens"] == sum(
            len(_pair("what is it?", document)) for document in documents
        )
    for place, document in enumerate(documents):
        logit = reference.logit(_pair("what is it?", document))
        wanted = 1 / (1 + math.exp(-logit))
        assert scores[0][place] == pytest.approx(wanted, abs=1e-4)
        assert scores[1][place] == pytest.approx(wanted, abs=1e-3)


def _pair(query: str, document: str) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_encoder(rerank=True) / "tokenizer.json"))
    tokenizer.no_truncation()
    return tokenizer.encode(query, document).ids


@pytest.mark.parametrize("model", RERANKERS)
def test_documents_are_cut_only_when_asked(server: ServerProcess, model: str) -> None:
    body = {"model": model, "query": "what is it?", "documents": ["abc", "abc " * 200]}
    refused = post(server, "/v2/rerank", **body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "documents.1"
    assert "maximum context length is 96 tokens" in refused.json()["message"]
    endless = post(server, "/v2/rerank", **body | {"query": "abc " * 200}, max_tokens_per_doc=20)
    assert (endless.status_code, endless.json()["error"]["param"]) == (400, "query")
    cut = post(server, "/v2/rerank", **body, max_tokens_per_doc=20)
    assert cut.status_code == 200, cut.text
    short = body | {"documents": ["abc", "abc " * 6 + "ab"]}
    assert post(server, "/v2/rerank", **short).status_code == 200
    tokens = cut.json()["meta"]["tokens"]["input_tokens"]
    assert tokens <= len(_pair("what is it?", "abc")) + len(_pair("what is it?", "")) + 20


@pytest.mark.parametrize("model", EMBEDDERS)
def test_an_embedder_ranks_by_meaning(server: ServerProcess, model: str) -> None:
    documents = list(SENTENCES[1:])
    body = {"model": model, "query": SENTENCES[0], "documents": documents, "top_n": 2}
    reply = post(server, "/v1/rerank", **body, return_documents=True)
    first, second = reply.json()["results"]
    assert (first["index"], first["document"]["text"]) == (0, documents[0])
    assert first["relevance_score"] > second["relevance_score"]
    left, right = embed(server, model, [SENTENCES[0], documents[0]])
    assert first["relevance_score"] == pytest.approx(cosine(left, right), abs=1e-3)


def test_every_model_is_for_what_it_is_for(server: ServerProcess) -> None:
    messages = [{"role": "user", "content": "hi"}]
    cases = (
        ("/v1/embeddings", {"model": "starter", "input": "x"}, "model_not_embedding"),
        ("/v1/embeddings", {"model": "scorer", "input": "x"}, "model_not_embedding"),
        ("/v1/chat/completions", {"model": "minilm", "messages": messages}, "model_not_chat"),
        ("/v1/chat/completions", {"model": "scorer-gguf", "messages": messages}, "model_not_chat"),
        ("/v1/rerank", {"model": "starter", "query": "q", "documents": ["d"]}, "model_not_rerank"),
    )
    for path, body, code in cases:
        reply = post(server, path, **body)
        assert reply.status_code == 400, (path, reply.text)
        assert (reply.json()["error"]["code"], reply.json()["error"]["param"]) == (code, "model")
    assert "starter" not in server.models()  # refused before it was loaded


def test_mlx_does_not_convert_what_makes_no_text(server: ServerProcess) -> None:
    body = {"model": "minilm-gguf", "backend": "mlx"}
    reply = server.http.post(f"{server.url}/admin/models/load", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "backend_mismatch")


@pytest.mark.parametrize("model", EMBEDDERS)
def test_a_killed_worker_is_a_typed_error_and_comes_back(server: ServerProcess, model: str) -> None:
    embed(server, model, "load it")
    pid = server.models()[model]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid, 10)
    reply = post(server, "/v1/embeddings", model=model, input="again")
    if reply.status_code != 200:  # it met the worker's end, not yet the new one
        assert reply.json()["error"]["code"] in ("worker_died", "model_loading")
    assert len(embed(server, model, "and again")[0]) == 384
