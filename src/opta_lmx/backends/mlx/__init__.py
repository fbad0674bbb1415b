"""The MLX adapter: mlx-lm's batched generation behind the engine protocol."""
