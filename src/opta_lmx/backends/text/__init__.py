"""Text of every backend: chat templates and the way from a prompt to token ids."""
