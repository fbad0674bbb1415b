"""What operators see: the metrics registry and the log. Everything else uses `core.Telemetry`."""
