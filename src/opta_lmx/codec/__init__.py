"""Words around tokens, pure: normaliser, UTF-8 joining, stop strings, tool-call dialects."""
