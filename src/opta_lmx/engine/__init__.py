"""Which models are loaded, in which worker processes, and who holds their slots."""
