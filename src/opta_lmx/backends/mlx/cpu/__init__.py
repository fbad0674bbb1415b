"""What MLX does slowly on a Linux CPU, done with numpy while prompts are processed."""
