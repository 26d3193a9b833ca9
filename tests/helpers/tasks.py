"""Objectives small enough to be computed by hand."""

from helpers import synthetic


def shallow_config(**changes):
    return synthetic.tiny_config(**{'model.num_layers': 1, **changes})
