"""The command that verifies checkpoints; see clower_jax/checkpoints/verify.py."""

from clower_jax.checkpoints import verify

if __name__ == '__main__':
    verify.main()
