"""Converts GGUF models to MLX folders; a program of its own, run as a child process."""
