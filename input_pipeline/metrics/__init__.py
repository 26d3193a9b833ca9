"""How good predictions and vectors are: pure functions."""
