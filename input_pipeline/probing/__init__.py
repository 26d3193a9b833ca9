"""What frozen encoders are measured on: words in context, pairs of words, paraphrases."""
