"""OpenAI's Responses API, as the Open Responses specification of 2026-04-24 describes it."""
