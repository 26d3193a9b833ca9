"""The only training loop, and what it needs: first state, optimiser, step, evaluation, log."""
