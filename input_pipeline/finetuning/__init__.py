"""The tasks: what each reads, what its batches hold beside the rows, its predictions and scores."""
