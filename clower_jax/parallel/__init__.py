"""The mesh and the rules by which arrays lie on it; the dtypes of products."""
