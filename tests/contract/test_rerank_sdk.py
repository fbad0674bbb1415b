"""The official `cohere` SDK against the real program, on both engines."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.process import ServerProcess
from tests.support.vector_models import EMBEDDERS, RERANKERS, vector_server

cohere: Any = pytest.importorskip("cohere", reason="the cohere SDK is not installed")
pytestmark = pytest.mark.engine

QUERY = "What do cats eat?"
DOCUMENTS = ["The stock market fell.", "A cat eats fish and mice.", "Rain is expected."]
MODELS = [*EMBEDDERS, *RERANKERS]
EXTRAS_OF_V1 = {"model", "usage"}
"""For clients of Jina's form of this call; documented."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with vector_server(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """The SDK has no way to close its own."""
    with httpx.Client(timeout=60) as client:
        yield client


def check(answer: Any, extras: set[str]) -> None:
    """Types and fields as the SDK's models name them, and no others."""
    kind = type(answer)
    kind.model_validate(answer.model_dump(), strict=True)
    assert set(answer.model_extra or {}) == extras
    assert answer.id
    assert answer.meta.model_extra == {}
    assert answer.meta.tokens.input_tokens > 0
    scores = [result.relevance_score for result in answer.results]
    assert scores == sorted(scores, reverse=True)
    for result in answer.results:
        assert not result.model_extra


@pytest.mark.parametrize("model", MODELS)
def test_the_first_form(server: ServerProcess, http: httpx.Client, model: str) -> None:
    client = cohere.Client(api_key="unused", base_url=server.url, httpx_client=http)
    answer = client.rerank(model=model, query=QUERY, documents=DOCUMENTS, return_documents=True)
    check(answer, EXTRAS_OF_V1)
    assert sorted(result.index for result in answer.results) == [0, 1, 2]
    assert all(result.document.text == DOCUMENTS[result.index] for result in answer.results)
    if model in EMBEDDERS:
        assert answer.results[0].index == 1
    objects = [{"text": text} for text in DOCUMENTS]
    fewer = client.rerank(model=model, query=QUERY, documents=objects, top_n=2)
    check(fewer, EXTRAS_OF_V1)
    assert [r.index for r in fewer.results] == [r.index for r in answer.results[:2]]
    assert fewer.results[0].document is None


@pytest.mark.parametrize("model", MODELS)
def test_the_second_form(server: ServerProcess, http: httpx.Client, model: str) -> None:
    client = cohere.ClientV2(api_key="unused", base_url=server.url, httpx_client=http)
    answer = client.rerank(model=model, query=QUERY, documents=DOCUMENTS, max_tokens_per_doc=50)
    check(answer, set())
    assert len(answer.results) == 3
    assert answer.meta.api_version.version == "2"
    if model in RERANKERS:
        assert all(0 <= result.relevance_score <= 1 for result in answer.results)


def test_errors_are_the_sdks_own_types(server: ServerProcess, http: httpx.Client) -> None:
    client = cohere.ClientV2(api_key="unused", base_url=server.url, httpx_client=http)
    with pytest.raises(cohere.NotFoundError) as unknown:
        client.rerank(model="nobody", query=QUERY, documents=DOCUMENTS)
    assert "nobody" in unknown.value.body["message"]
    with pytest.raises(cohere.BadRequestError) as wrong:
        client.rerank(model="minilm", query=QUERY, documents=[])
    assert wrong.value.body["error"]["param"] == "documents"
