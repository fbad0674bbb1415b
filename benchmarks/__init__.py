"""Load generator and comparison benchmarks; needs only a running OpenAI endpoint to measure."""
