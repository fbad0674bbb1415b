"""Operators' routes under `/admin`."""
