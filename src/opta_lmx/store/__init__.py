"""Tables on disk: one engine factory, one writer thread, forward-only migrations."""
