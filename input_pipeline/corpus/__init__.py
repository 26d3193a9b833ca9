"""From files of text to a vocabulary and to records on disk."""
