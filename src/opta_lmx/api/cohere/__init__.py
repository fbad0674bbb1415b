"""Cohere's dialect: `/v1/rerank` and `/v2/rerank`, which Jina's clients speak too."""
