"""OpenAI's dialect: wire format, routes, errors."""
