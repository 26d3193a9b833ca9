"""From documents to a vocabulary and to records on disk."""
