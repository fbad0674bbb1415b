"""Encoders of the BERT family on MLX: sentence vectors and rerank scores."""
