"""From labelled texts and questions to rows of token ids, and to batches of few shapes."""
