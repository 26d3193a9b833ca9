"""What of a run's checkpoints is intact:

    python -m clower_jax.checkpoints verify runs/pretrain

A line for each, of several seeds too; the status is 1 where any is damaged.
"""

import argparse
import sys
from pathlib import Path

from clower_jax.checkpoints import digests


def main() -> None:
    """Reads every file of every checkpoint of a workdir."""
    parser = argparse.ArgumentParser(
        prog='python -m clower_jax.checkpoints', description=__doc__.split('\n')[0]
    )
    commands = parser.add_subparsers(dest='command', required=True)
    verify = commands.add_parser('verify', help='a line for each checkpoint: intact, or what is damaged')
    verify.add_argument('workdir', type=Path, help='of a run, or of one with several seeds')
    args = parser.parse_args()
    try:
        lines, intact = digests.verify(args.workdir)
    except (ValueError, OSError) as error:
        sys.exit(f'checkpoints: {error}')
    print('\n'.join(lines))
    sys.exit(0 if intact else 1)
