"""A deterministic engine without a model: scripted tokens, step times and faults."""
