"""python -m fuzz --inputs 1000000 --output runs/fuzz/fuzz.json [--only NAME,NAME] [--seed 0]

Attacks every target in a process of its own; prints a line for each, keeps the figures as JSON, and every
input that a target failed on as a file beside it. Ends with 1 where there is one.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

from fuzz import targets
from fuzz.processes import attack_apart


def main() -> None:
    """The command; see above."""
    parser = argparse.ArgumentParser(prog='python -m fuzz', description=(__doc__ or '').split('\n\n')[1])
    parser.add_argument('--inputs', type=int, default=1_000_000, help='of all targets together')
    parser.add_argument('--output', type=Path, default=Path('runs/fuzz/fuzz.json'))
    parser.add_argument('--only', default='', help='names of targets, a,b')
    parser.add_argument('--seed', type=int, default=0)
    flags = parser.parse_args()
    known = targets.all_targets()
    names = flags.only.split(',') if flags.only else list(known)
    shares = sum(known[name].share for name in names)
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    # Targets by themselves join those that were attacked before.
    before = json.loads(flags.output.read_text('utf-8')) if flags.only and flags.output.exists() else {}
    outcomes = before.get('targets', {})
    for name in names:
        count = max(len(known[name].seeds), round(flags.inputs * known[name].share / shares))
        outcome = attack_apart(name, count, flags.seed)
        for number, failure in enumerate(outcome['failures']):
            kept = flags.output.parent / f'{name}-{number}.bin'
            kept.write_bytes(bytes.fromhex(failure.pop('input')))
            print(f'  {name}: {failure["problem"]}  ({kept})', flush=True)
        outcomes[name] = outcome
        said = (
            f'{outcome["inputs"]:,} inputs, {outcome["read"]:,} read, {outcome["refused"]:,} refused',
            f'{len(outcome["failures"])} failures, slowest {outcome["slowest_ms"]:.0f} ms',
            f'memory +{outcome["peak_growth_mb"]:.0f} MB, {outcome["seconds"]:.0f} s',
        )
        print(f'{name}: {"; ".join(said)}', flush=True)
        figure = summary(outcomes, flags.seed)  # also of what is cut off
        flags.output.write_text(json.dumps(figure, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    print(f'{figure["inputs"]:,} inputs, {figure["failures"]} failures: {flags.output}')
    sys.exit(bool(figure['failures']))


def summary(outcomes: dict[str, dict], seed: int) -> dict:
    """The outcomes of all targets, and what they come to."""
    each = outcomes.values()
    return {
        'inputs': sum(outcome['inputs'] for outcome in each),
        'failures': sum(len(outcome['failures']) for outcome in each),
        'slowest_ms': max(outcome['slowest_ms'] for outcome in each),
        'peak_growth_mb': max(outcome['peak_growth_mb'] for outcome in each),
        'seed': seed,
        'python': platform.python_version(),
        'targets': outcomes,
    }


if __name__ == '__main__':
    main()
