"""The official `openai` SDK's embeddings against the real program, on both engines."""

import base64
import struct
from collections.abc import Iterator

import openai
import pytest
from openai.types import CreateEmbeddingResponse

from tests.support.clients import strict_openai
from tests.support.process import ServerProcess
from tests.support.vector_models import EMBEDDERS, vector_server

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with vector_server(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with strict_openai(server.url) as sdk:
        yield sdk


def fields_of(made: CreateEmbeddingResponse) -> None:
    """Nothing beyond what the SDK's own types name, and all of that."""
    assert not made.model_extra
    assert made.object == "list"
    assert not made.usage.model_extra
    assert made.usage.total_tokens == made.usage.prompt_tokens > 0
    for index, item in enumerate(made.data):
        assert not item.model_extra
        assert (item.object, item.index) == ("embedding", index)


@pytest.mark.parametrize("model", EMBEDDERS)
def test_every_shape_of_input(client: openai.OpenAI, model: str) -> None:
    ids = [101, 7592, 2088, 102]
    one = client.embeddings.create(model=model, input="hello world", encoding_format="float")
    fields_of(one)
    assert one.model == model
    assert one.usage.prompt_tokens == 4
    for value in (["hello world"], ids, [ids]):
        same = client.embeddings.create(model=model, input=value, encoding_format="float")
        fields_of(same)
        assert same.usage.prompt_tokens == 4
        assert same.data[0].embedding == pytest.approx(one.data[0].embedding, abs=1e-5)
    several = client.embeddings.create(
        model=model, input=["hello world", "bye", "x" * 50], encoding_format="float"
    )
    fields_of(several)
    assert several.data[0].embedding == pytest.approx(one.data[0].embedding, abs=1e-4)


@pytest.mark.parametrize("model", EMBEDDERS)
def test_base64_is_the_same_numbers(
    server: ServerProcess, client: openai.OpenAI, model: str
) -> None:
    plain = client.embeddings.create(model=model, input="hello", encoding_format="float")
    # By default the SDK asks for base64 and unpacks it, which its own strict mode cannot pass.
    lenient = client.with_options()
    lenient._strict_response_validation = False
    packed = lenient.embeddings.create(model=model, input="hello")
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    body = {"model": model, "input": "hello", "encoding_format": "base64"}
    raw = server.http.post(f"{server.url}/v1/embeddings", json=body).json()
    data = base64.b64decode(raw["data"][0]["embedding"])
    numbers = struct.unpack("<384f", data)
    assert list(numbers) == pytest.approx(plain.data[0].embedding, abs=1e-6)


def test_the_largest_request(client: openai.OpenAI) -> None:
    many = [f"number {n}" for n in range(2048)]
    made = client.embeddings.create(model="minilm", input=many, encoding_format="float")
    fields_of(made)
    assert len(made.data) == 2048
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="minilm", input=["x"] * 2049)
    assert caught.value.param == "input"


@pytest.mark.parametrize("model", EMBEDDERS)
def test_widths(client: openai.OpenAI, model: str) -> None:
    whole = client.embeddings.create(
        model=model, input="hello", dimensions=384, user="someone", encoding_format="float"
    )
    assert len(whole.data[0].embedding) == 384
    with pytest.raises(openai.BadRequestError, match="384 dimensions") as caught:
        client.embeddings.create(model=model, input="hello", dimensions=128)
    assert caught.value.param == "dimensions"


def test_errors_are_the_sdks_own_types(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="nobody", input="x")
    assert unknown.value.code == "model_not_found"
    for value, param in (("", "input"), (["a", ""], "input.1"), ([], "input")):
        with pytest.raises(openai.BadRequestError) as empty:
            client.embeddings.create(model="minilm", input=value)
        assert empty.value.param == param
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.embeddings.create(model="minilm", input="x", extra_body={"truncate": "END"})
    assert (unsupported.value.code, unsupported.value.param) == (
        "unsupported_parameter",
        "truncate",
    )
    with pytest.raises(openai.BadRequestError) as chat:
        client.embeddings.create(model="starter", input="x")
    assert chat.value.code == "model_not_embedding"
