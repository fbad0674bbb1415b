"""Ollama's native dialect under `/api`: chat, generate, embeddings, and what models there are."""
