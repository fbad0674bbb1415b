"""Rerank requests as they stand on the wire, and what they ask for."""

from typing import Annotated, Any

import msgspec
from pydantic import Discriminator, Field, StringConstraints, Tag

from opta_lmx.api.fields import (
    OTHER,
    TEXT,
    ModelName,
    Positive,
    WireModel,
    only,
    text_or_other,
    validated,
)
from opta_lmx.serving.reranking import RerankRequest

MAX_DOCUMENTS = 1000
_Text = Annotated[str, StringConstraints(min_length=1)]


class Document(WireModel):
    """A document as an object."""

    text: _Text


_Document = Annotated[
    Annotated[_Text, Tag(TEXT)] | Annotated[Document, Tag(OTHER)], Discriminator(text_or_other)
]


class RerankV2Request(WireModel):
    """Body of `POST /v2/rerank`."""

    model: ModelName
    query: _Text
    documents: Annotated[list[_Text], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)]
    top_n: Positive | None = Field(None, description="How many results to return; all by default.")
    max_tokens_per_doc: Positive | None = Field(
        None,
        description="Cut documents at this many tokens, and at what the model can take. Without "
        "it a document that is too long is refused.",
    )
    priority: Annotated[Any, only(0)] = Field(
        None, description="Requests are served in turn: only 0 is accepted."
    )
    relevant_spans: Annotated[Any, only({"mode": "disabled"})] = Field(
        None, description="Spans are not found: only `disabled` is accepted."
    )


class RerankRequestBody(WireModel):
    """Body of `POST /v1/rerank`."""

    model: ModelName
    query: _Text
    documents: Annotated[
        list[_Document], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)
    ]
    top_n: Positive | None = Field(None, description="How many results to return; all by default.")
    return_documents: bool | None = Field(None, description="Give the documents back with theirs.")
    rank_fields: Annotated[Any, only(["text"])] = Field(
        None, description="Documents have one field, `text`."
    )
    max_chunks_per_doc: Annotated[Any, only(1)] = Field(
        None, description="Documents are scored whole: only 1 is accepted."
    )
    max_tokens_per_doc: Positive | None = Field(None, description="As in `/v2/rerank`.")


class RerankCall(msgspec.Struct, frozen=True):
    """A parsed request."""

    request: RerankRequest
    top_n: int
    return_documents: bool = False


def parse_v1(fields: dict[str, Any]) -> RerankCall:
    """Check a decoded body of `/v1/rerank`. Raises LmxError with the dotted `param`."""
    wire = validated(RerankRequestBody, fields)
    documents = tuple(one if isinstance(one, str) else one.text for one in wire.documents)
    request = RerankRequest(wire.model, wire.query, documents, wire.max_tokens_per_doc)
    return RerankCall(request, wire.top_n or len(documents), bool(wire.return_documents))


def parse_v2(fields: dict[str, Any]) -> RerankCall:
    """Check a decoded body of `/v2/rerank`. Raises LmxError with the dotted `param`."""
    wire = validated(RerankV2Request, fields)
    documents = tuple(wire.documents)
    request = RerankRequest(wire.model, wire.query, documents, wire.max_tokens_per_doc)
    return RerankCall(request, wire.top_n or len(documents))
