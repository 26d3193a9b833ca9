"""One file per job; each has `get_config(variant)`."""
