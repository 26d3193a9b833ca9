"""What is trained: pure losses over a batch."""
