"""Embeddings and reranking, field by field."""

from tests.contract.matrix import common
from tests.contract.matrix.model import Surface, accepted, by_model, nested, refused, supported

EMBEDDINGS = Surface(
    name="OpenAI embeddings",
    path="/v1/embeddings",
    least={"input": "hello"},
    rows=(
        supported("input", ["a", "b"], "Texts, token ids, or up to 2048 of either."),
        supported("encoding_format", "base64", "`float` or `base64` (32-bit, little-endian)."),
        by_model("dimensions", 8, "The model's own width, or less where it was made to be cut."),
        common.USER,
        common.STAY,
        refused("truncate", "END", "What is too long is refused with its length."),
    ),
    sdk="openai.types.embedding_create_params:EmbeddingCreateParams",
    watch="`tests/contract/test_sdk_fields.py` (openai SDK)",
    kind="embedding",
)

_RERANK = {"query": "which", "documents": ["one", "two"]}

RERANK_V1 = Surface(
    name="Rerank, first form (Cohere, Jina)",
    path="/v1/rerank",
    least=_RERANK,
    rows=(
        supported("query", "who", "What the documents are scored against."),
        nested("documents", "supported", "Up to 1000 texts or objects.", documents=["a", "b"]),
        nested("documents.text", "supported", "A document's text.", documents=[{"text": "a"}]),
        nested(
            "documents.title", "refused", "`text` only.", documents=[{"text": "a", "title": "b"}]
        ),
        supported("top_n", 1, "How many results; all by default."),
        supported("return_documents", True, "Give the documents back."),
        supported("max_tokens_per_doc", 4, "Cut documents here; else what is too long is refused."),
        accepted("rank_fields", ["text"], "Only `text`: documents have no other field."),
        accepted("max_chunks_per_doc", 1, "Only 1: documents are scored whole."),
    ),
    sdk=None,
    watch="`tests/contract/test_rerank_sdk.py` (cohere SDK, where it is installed)",
    kind="rerank",
)

RERANK_V2 = Surface(
    name="Rerank, second form (Cohere)",
    path="/v2/rerank",
    least=_RERANK,
    rows=(
        supported("query", "who", "What the documents are scored against."),
        supported("documents", ["a", "b"], "Up to 1000 texts."),
        supported("top_n", 1, "How many results; all by default."),
        supported("max_tokens_per_doc", 4, "Cut documents here; else what is too long is refused."),
        refused("priority", 5, "Only 0: requests are served in turn."),
        refused("return_documents", True, "A field of the first form."),
        refused("relevant_spans", {"mode": "enabled"}, "Only `disabled`."),
    ),
    sdk=None,
    watch="`tests/contract/test_rerank_sdk.py` (cohere SDK, where it is installed)",
    kind="rerank",
)
