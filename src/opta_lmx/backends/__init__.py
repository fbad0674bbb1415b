"""The worker program and its engine adapters; the only room that imports inference libraries."""
