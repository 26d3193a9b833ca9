"""Value and gradient of symmetric NT-Xent over N pairs: tiled (this project), dense JAX and dense PyTorch.

    python bench/contrast.py [--sizes 2048,8192,16384] [--rounds 3] [--json FILE]   CPU, about ten minutes
    python bench/contrast.py --gpu [--json FILE]                                    GPU, up to a million pairs

Each contender is a process of its own, in random order (bench/harness.py). All get the same vectors, in fp32,
and must come to the same loss; those called bf16 round the factors of their products. The speeds are how many
times as fast as dense PyTorch and as dense JAX a contender is: median and quartiles over the rounds.
Temporary memory is what is needed beyond the vectors and their gradients: with JAX what the compiled program
asks for, with PyTorch what the allocator (GPU) or the process (CPU) grew by. Sizes that a contender cannot
hold, or not finish in minutes, it is left out of.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench import harness, step_case  # noqa: E402

TEMPERATURE = 0.05
CONTENDERS = ('tiled', 'tiled bf16', 'dense', 'torch', 'torch bf16')
CPU_SIZES = (2048, 8192, 16384)
GPU_SIZES = (2048, 8192, 16384, 65536, 1_000_000)
LARGEST_DENSE = 65536  # 16 GiB for one array of scores
LARGEST_FP32 = 262144  # beyond it an exact pass takes minutes on any GPU


def vectors(items: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """fp32 [N, D] twice; partners are alike, so that the loss is not trivial."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((items, width), np.float32)
    return a, a + 3 * rng.standard_normal((items, width), np.float32)


def jax_contender(name: str, a: np.ndarray, b: np.ndarray):
    """(a step that waits for its end and returns the loss, a function for its temporary bytes)."""
    import jax
    import jax.numpy as jnp

    from clower_jax.ops.nt_xent import nt_xent

    def dense(a, b):
        a, b = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        scores = jnp.matmul(a, b.T, precision='highest') / TEMPERATURE
        rows, columns = (jax.nn.logsumexp(scores, axis) for axis in (1, 0))
        return ((rows + columns) / 2 - jnp.diagonal(scores)).mean()

    def tiled(a, b):
        operands = 'bfloat16' if name.endswith('bf16') else 'float32'
        return nt_xent(a, b, jnp.ones(len(a), bool), TEMPERATURE, operands=operands).loss / len(a)

    function = jax.value_and_grad(dense if name == 'dense' else tiled, argnums=(0, 1))
    pair = jax.device_put((a, b))
    compiled = jax.jit(function).lower(*pair).compile()

    def step() -> float:
        return float(jax.block_until_ready(compiled(*pair))[0])

    return step, lambda: compiled.memory_analysis().temp_size_in_bytes


def torch_contender(name: str, a: np.ndarray, b: np.ndarray):
    """As `jax_contender`."""
    import torch
    import torch.nn.functional as F  # noqa: N812  (as everyone calls it)

    device = 'cpu' if os.environ.get('JAX_PLATFORMS') == 'cpu' else 'cuda'
    pair = [torch.from_numpy(x).to(device).requires_grad_() for x in (a, b)]
    partner = torch.arange(len(a), device=device)

    def held() -> int:
        return torch.cuda.max_memory_allocated() if device == 'cuda' else step_case.peak_rss()

    def step() -> float:
        for x in pair:
            x.grad = None
        with torch.autocast(device, torch.bfloat16, enabled=name.endswith('bf16')):
            scores = F.normalize(pair[0]) @ F.normalize(pair[1]).T / TEMPERATURE
            loss = (F.cross_entropy(scores, partner) + F.cross_entropy(scores.T, partner)) / 2
        loss.backward()
        return loss.item()

    before = held()
    gradients = 2 * a.nbytes
    return step, lambda: max(held() - before - gradients, 0)


def contend(name: str, items: int, width: int, seconds: float) -> None:
    """Times one contender for so many seconds, at least once, and prints a JSON object."""
    with step_case.memory_may_run_out():
        make = torch_contender if name.startswith('torch') else jax_contender
        step, temporary_bytes = make(name, *vectors(items, width))
        loss = step()
        spent: list[float] = []
        while not spent or sum(spent) < seconds:
            start = time.perf_counter()
            step()
            spent.append(time.perf_counter() - start)
        print(json.dumps({'seconds': spent, 'temporary_bytes': temporary_bytes(), 'loss': loss}))


def fits(name: str, items: int) -> bool:
    """Whether it is worth starting a contender at this size."""
    return items <= (LARGEST_FP32 if name == 'tiled' else LARGEST_DENSE) or name == 'tiled bf16'


def compare(items: int, flags: argparse.Namespace) -> tuple[harness.Launches, list[list[str]]]:
    """All launches at one size, and the rows of the table. Ends the program where the losses differ."""
    own = [sys.executable, __file__, '--width', str(flags.width), '--seconds', str(flags.seconds)]
    commands = {
        name: [*own, '--sizes', str(items), '--one', name] for name in flags.contenders if fits(name, items)
    }
    env = os.environ | {'JAX_PLATFORMS': 'cuda' if flags.gpu else 'cpu'}
    launches = harness.alternate(commands, flags.rounds, env=env)
    done = {name: runs for name, runs in launches.items() if all('seconds' in run for run in runs)}
    losses = {name: runs[0]['loss'] for name, runs in done.items()}
    if losses and max(losses.values()) > 1.01 * min(losses.values()):  # bf16 rounds
        sys.exit(f'error: at {items} pairs the contenders do not compute the same loss: {losses}')
    columns = {name: harness.speedups(done, name) if name in done else {} for name in ('torch', 'dense')}
    rows = []
    for name in commands:
        if name not in done:
            rows.append([f'{items:,}', name, '—', '—', 'out of memory', ''])
            continue
        speeds = [harness.span(speeds_of[name]) if speeds_of else '—' for speeds_of in columns.values()]
        memory = statistics.median(run['temporary_bytes'] for run in done[name]) / 2**20
        seconds = statistics.median(statistics.median(run['seconds']) for run in done[name])
        rows.append([f'{items:,}', name, *speeds, f'{memory:,.0f}', f'{seconds * 1e3:,.1f}'])
    return launches, rows


def main() -> None:
    """Prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--sizes', type=harness.integers, help='pairs')
    parser.add_argument('--width', type=int, default=768, help='of a vector')
    parser.add_argument('--contenders', type=harness.names, default=tuple(CONTENDERS))
    parser.add_argument('--rounds', type=int, default=3, help='launches of each contender at each size')
    parser.add_argument('--seconds', type=float, default=3.0, help='of timing in each launch')
    parser.add_argument('--gpu', action='store_true')
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    parser.add_argument('--one', choices=CONTENDERS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if unknown := set(flags.contenders) - set(CONTENDERS):
        parser.error(f'no such contender: {", ".join(unknown)}; there are {", ".join(CONTENDERS)}')
    sizes = flags.sizes or (GPU_SIZES if flags.gpu else CPU_SIZES)
    if flags.one:
        contend(flags.one, sizes[0], flags.width, flags.seconds)
        return
    launches, rows = {}, []
    for items in sizes:
        launches[items], more = compare(items, flags)
        rows += more
        harness.save(flags.json, width=flags.width, launches=launches)
    header = ['pairs', 'contender', '× torch', '× dense', 'temporary MiB', 'ms']
    cut = len(header) if flags.gpu else -1  # times on a CPU say little elsewhere
    print(harness.table(header[:cut], [row[:cut] for row in rows]))


if __name__ == '__main__':
    main()
