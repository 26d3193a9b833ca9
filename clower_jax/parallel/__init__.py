"""The mesh and the rules by which arrays lie on it; dtypes of products; several processes."""
