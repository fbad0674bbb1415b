"""Real headless OpenClaw turns against a server of this checkout: `python -m scripts.openclaw`."""
