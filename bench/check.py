"""Has anything become slower? Measured ratios against those of bench/reference.json; ratios only.

    make bench-check                                             everything in bench/reference.json
    python bench/check.py [NAME …] [--file FILE] [--update]      some of it; --update writes the new figures

A check is the command line of a benchmark and the figures to look at in what it writes with --json:

    "step": {
      "command": ["bench/step.py", "--sizes", "small"],
      "ratios": {"ratios/small float32 dropout 0/ours/plain": {"reference": 2.0, "margin": 0.3}}
    }

The figure at the path is a number, or [first quartile, median, third quartile], of which the median counts;
more is better. Below (1 − margin) × reference the check fails. Ratios of one machine say little about another
one: `about` says which it was. A busy machine favours some contenders, so let this run alone.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent


def measure(command: list[str]) -> dict:
    """The figures that a benchmark writes. Raises RuntimeError, with its last lines, where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, 'figures.json')
        line = [sys.executable, *command, '--json', str(out)]
        done = subprocess.run(line, cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
        if done.returncode or not out.is_file():
            told = '\n'.join(done.stdout.strip().splitlines()[-15:])
            raise RuntimeError(f'it ended with {done.returncode}, see above: {" ".join(line)}\n{told}')
        return json.loads(out.read_text(encoding='utf-8'))


def figure(figures: dict, path: str) -> float:
    """The number at 'key/key/…', the median of quartiles. Raises ValueError, with what there is, for none."""
    figures_there = figures
    for key in path.split('/'):
        if not isinstance(figures_there, dict) or key not in figures_there:
            there = ', '.join(figures_there) if isinstance(figures_there, dict) else 'a figure'
            raise ValueError(f'the benchmark wrote no {path!r}: where {key!r} should be there is {there}')
        figures_there = figures_there[key]
    value = figures_there[1] if isinstance(figures_there, list) and len(figures_there) == 3 else figures_there
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f'{path!r} is neither a number nor three quartiles: {value!r}')
    return float(value)


def verdict(path: str, measured: float, expected: dict) -> tuple[bool, str]:
    """(whether the figure is good enough, a line that says so)."""
    reference, margin = expected['reference'], expected['margin']
    if reference is None:
        return False, f'{path}: {measured:.2f}, and there is no reference yet. --update makes it one'
    floor = reference * (1 - margin)
    against = f'the reference is {reference:.2f}, the margin {margin:.0%}'
    if measured < floor:
        return False, f'{path}: {measured:.2f} is too slow, less than {floor:.2f}; {against}'
    return True, f'{path}: {measured:.2f} is good; {against}'


def run(reference: dict, names: list[str]) -> tuple[bool, dict]:
    """Measures the named checks and prints every verdict.

    Returns:
      (whether all are good, the reference with what was measured in place of it).
    """
    fine, updated = True, json.loads(json.dumps(reference))
    for name in names:
        check = reference['checks'][name]
        print(f'{name}: {" ".join(check["command"])}', flush=True)
        try:
            figures = measure(check['command'])
        except RuntimeError as error:
            fine = False
            print(f'  FAILED {error}', flush=True)
            continue
        for path, expected in check['ratios'].items():
            try:
                measured = figure(figures, path)
            except ValueError as error:
                good, line = False, str(error)
            else:
                good, line = verdict(path, measured, expected)
                updated['checks'][name]['ratios'][path]['reference'] = round(measured, 3)
            fine &= good
            print(f'  {"ok" if good else "FAILED"} {line}', flush=True)
    updated['about'] = {
        'date': date.today().isoformat(),
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'python': platform.python_version(),
    }
    return fine, updated


def main() -> None:
    """Exits with 1 where a ratio fell below its reference."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('names', nargs='*', help='checks; default all')
    parser.add_argument('--file', type=Path, default=HERE / 'reference.json')
    parser.add_argument('--update', action='store_true', help='write what is measured as the new reference')
    flags = parser.parse_args()
    reference = json.loads(flags.file.read_text(encoding='utf-8'))
    known = list(reference['checks'])
    if unknown := set(flags.names) - set(known):
        parser.error(f'{flags.file} has no check {", ".join(sorted(unknown))}; it has {", ".join(known)}')
    fine, updated = run(reference, flags.names or known)
    if flags.update:
        flags.file.write_text(json.dumps(updated, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
        print(f'{flags.file} has what was measured.')
    elif not fine:
        sys.exit('Something became slower, or was not measured: see FAILED above.')


if __name__ == '__main__':
    main()
