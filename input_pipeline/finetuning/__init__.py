"""From labelled texts to batches, and from outputs to predictions and scores."""
