"""The llama.cpp adapter: its server inside the worker process, driven over a UNIX socket."""
