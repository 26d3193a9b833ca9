"""Tasks whose outcome is a vector of a text: what each reads, and how vectors are judged."""
