"""The command that verifies checkpoints; see clower_jax/checkpoints/verify.py."""

from input_pipeline.utils import garbage

if __name__ == '__main__':
    garbage.collect_seldom()
    from clower_jax.checkpoints import verify

    verify.main()
