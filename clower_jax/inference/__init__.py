"""A trained encoder in use: texts in, vectors out."""
