"""Vocabulary shared by every room: requests, events, errors, clock, ids, telemetry port. No I/O."""
