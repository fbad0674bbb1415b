"""A fleet of OpenClaw-shaped bots and background jobs, played against a server over HTTP."""
