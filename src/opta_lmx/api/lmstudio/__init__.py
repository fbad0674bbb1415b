"""LM Studio's native routes under `/api/v1/models`, and the list of `/api/v0/models`."""
