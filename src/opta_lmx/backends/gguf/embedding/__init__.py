"""Vectors and rerank scores by llama.cpp."""
