"""What is on disk: the catalogue, pulls and imports, header readers, memory estimates."""
