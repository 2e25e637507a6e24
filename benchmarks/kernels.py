"""The inference kernels alone, on one thread:  OMP_NUM_THREADS=1 python benchmarks/kernels.py [--quick]

Processor time of log_partition, expect (an E-step with the statistics of the M-step) and viterbi on chains whose
emissions the kernels compute, float64, the lowest of a few calls; ns a cell (t, K, K).

`products` is the share of the multiply-adds that a large matrix product does in the same time, measured in the same
run.  A step's: K² for log_partition and 3 K² for expect; with the emissions', per state and step D for a diagonal
Gaussian's density and 2 D for its sums, D (D + 1) / 2 each for a full one's, none for a symbol's.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dbn_vae.inference import Chain, Quadratic, Table, Whitened, expect, log_partition, viterbi

SHAPES = [
    (1, 100_000, 4, 2),
    (100, 1000, 8, 4),
    (200, 200, 16, 8),
    (5000, 50, 5, 2),
    (1, 20_000, 32, 8),
    (16, 500, 128, 16),
]
SYMBOLS = 32


def chain(family: str, B: int, T: int, K: int, D: int) -> Chain:
    """A random chain under random frames."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    if family == "categorical":
        symbols = torch.randint(0, SYMBOLS, (B, T), generator=draw).double()
        emission = Table(symbols, torch.ones(B, T, dtype=torch.bool), normal(K, SYMBOLS).log_softmax(1))
    elif family == "diag":
        emission = Quadratic(
            normal(B, T, D), torch.ones(B, T, D, dtype=torch.bool), normal(K, D), 0.1 * normal(K, D)
        )
    else:
        L = torch.linalg.cholesky(torch.eye(D, dtype=torch.float64) + 0.1).expand(K, D, D).contiguous()
        emission = Whitened(normal(B, T, D), torch.ones(B, T, dtype=torch.bool), normal(K, D), L)
    return Chain(normal(K).log_softmax(0), normal(K, K).log_softmax(1), emission, torch.full((B,), T))


def lowest(work: Callable[[], object], repeats: int) -> float:
    """Seconds of processor time, after one call that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def products(family: str, work: str, K: int, D: int) -> tuple[float, float]:
    """Multiply-adds of a step: the recursion's, and with the emissions'."""
    rest = {"diag": (D, 2 * D), "full": (D * (D + 1) / 2, D * (D + 1) / 2), "categorical": (0, 0)}[family]
    if work == "score":
        return K * K, K * K + K * rest[0]
    return 3 * K * K, 3 * K * K + K * sum(rest)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the small shapes, two calls each")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 2 if options.quick else options.repeats
    a = torch.randn(1024, 1024, dtype=torch.float64)
    gemm = 1e9 * lowest(lambda: a @ a, repeats) / 1024**3
    print(f"a multiply-add of a matrix product takes {gemm:.4f} ns\n")
    columns = ["emissions", "shape"]
    for work in ("score", "E-step"):
        columns += [f"{work}, ns a cell", "products", "with emissions'"]
    print("| " + " | ".join([*columns, "Viterbi, ns a cell"]) + " |")
    print("|---|---|---|---|---|---|---|---|---|")
    for B, T, K, D in SHAPES[1:4] if options.quick else SHAPES:
        for family in ("diag", "full", "categorical"):
            c, weights = chain(family, B, T, K, D), torch.ones(B, dtype=torch.float64)
            cells = [f"| {family} | {B}×{T}×{K}×{D} "]
            for work, call in (("score", lambda: log_partition(c)), ("E-step", lambda: expect(c, weights))):  # noqa: B023
                ns = 1e9 * lowest(call, repeats) / (B * T)  # a step
                shares = (f"{100 * n * gemm / ns:.0f} %" for n in products(family, work, K, D))
                cells.append(f"| {ns / K**2:.3f} | {' | '.join(shares)} ")
            ns = 1e9 * lowest(lambda: viterbi(c), repeats) / (B * T)  # noqa: B023
            print("".join(cells), f"| {ns / K**2:.3f} |", flush=True)


if __name__ == "__main__":
    main()
