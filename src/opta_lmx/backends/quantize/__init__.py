"""Quantises a model to an MLX folder; `rules` imports no inference library."""
