"""Opta LMX: the private inference endpoint that a fleet of bots shares."""

__version__ = "0.1.0"
