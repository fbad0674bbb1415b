"""TLS of this server's own: contexts, handshakes, what certificates say, how they are made."""
