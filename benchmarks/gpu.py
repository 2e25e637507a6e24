"""How near the CUDA kernels come to the card's memory: one command, one table.

    python benchmarks/gpu.py

The unit is the time that reading the potentials (B, T, K) once and writing as much once takes at the copy bandwidth
measured on the same card; the least that forward-backward could take.  Before it is timed, every shape must agree
with the reference on its first sequences.  A number is the median of repeated calls between CUDA events, the first
calls (compilation) left out.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dbn_vae.inference import Chain, filter, log_partition, smooth, using, viterbi

SHAPES = {  # name: sequences, steps, states, shortest sequence, precision
    "4096x1000x16": (4096, 1000, 16, 1000, torch.float32),
    "ragged 4096x50-1000x16": (4096, 1000, 16, 50, torch.float32),
    "16384x200x4": (16384, 200, 4, 200, torch.float32),
    "4096x500x32": (4096, 500, 32, 500, torch.float32),
    "1024x500x64": (1024, 500, 64, 500, torch.float32),
    "256x500x128": (256, 500, 128, 500, torch.float32),
    "64x200x300": (64, 200, 300, 200, torch.float32),
    "1x100000x4": (1, 100_000, 4, 100_000, torch.float32),
    "4096x1000x16 float64": (4096, 1000, 16, 1000, torch.float64),
}
WORK: dict[str, Callable[[Chain], Any]] = {
    "log Z": log_partition,
    "filter": filter,
    "forward-backward": smooth,
    "Viterbi": viterbi,
}


def milliseconds(task: Callable[[], Any], repeats: int) -> float:
    """Median of calls, each between two events."""
    for _ in range(3):
        task()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        task()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def copy_bandwidth(repeats: int) -> float:
    """Bytes read and written a second by a copy of 1 GiB."""
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (milliseconds(lambda: target.copy_(source), repeats) * 1e-3)


def make(shape: str) -> Chain:
    B, T, K, shortest, dtype = SHAPES[shape]
    g = torch.Generator("cuda").manual_seed(0)
    A = torch.randn(K, K, generator=g, device="cuda", dtype=torch.float64).log_softmax(-1)
    emission = 2 * torch.randn(B, T, K, generator=g, device="cuda", dtype=dtype)
    lengths = torch.randint(shortest, T + 1, (B,), generator=g, device="cuda")
    start = torch.full((K,), -torch.tensor(float(K)).log().item(), device="cuda", dtype=dtype)
    return Chain(start, A.to(dtype), emission, lengths)


def check(chain: Chain) -> None:
    """A few sequences, a few hundred steps, against the reference in float64."""
    few = chain._replace(log_emission=chain.log_emission[:3, :300], lengths=chain.lengths[:3].clamp(max=300))
    got, path = smooth(few), viterbi(few)
    with using("reference"):
        want = smooth(Chain(*(x.double() for x in few[:3]), few.lengths))
        best = viterbi(few)
    tolerance = 5e-5 if chain.log_emission.dtype == torch.float32 else 1e-10
    torch.testing.assert_close(got.gamma.double(), want.gamma, rtol=0.0, atol=tolerance)
    torch.testing.assert_close(got.log_z.double(), want.log_z, rtol=tolerance, atol=tolerance)
    assert torch.equal(path.states, best.states)


@torch.no_grad()
def measure(shape: str, bandwidth: float, repeats: int) -> dict[str, Any]:
    chain = make(shape)
    check(chain)
    frames = int(chain.lengths.sum())
    least = 2 * frames * chain.log_emission.shape[2] * chain.log_emission.element_size() / bandwidth * 1e3
    times = {name: milliseconds(lambda task=task: task(chain), repeats) for name, task in WORK.items()}
    return {"shape": shape, "read and write once": least, **times}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="SHAPE")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="where the numbers go as well")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py measures on a GPU, and torch finds none here")
    try:
        import triton
    except ImportError:
        sys.exit("benchmarks/gpu.py times Triton kernels, and triton is not installed: pip install triton")
    bandwidth = copy_bandwidth(args.repeats)
    print(
        f"{torch.cuda.get_device_name()}, copy {bandwidth / 1e9:.0f} GB/s, torch {torch.__version__}, ",
        end="",
    )
    print(f"triton {triton.__version__}; milliseconds, and multiples of reading and writing once")
    print(f"{'':24}{'least':>9}" + "".join(f"{name:>24}" for name in WORK))
    records = []
    for shape in args.shapes:
        record = measure(shape, bandwidth, args.repeats)
        least = record["read and write once"]
        cells = "".join(f"{record[name]:>15.3f}{record[name] / least:>8.2f}x" for name in WORK)
        print(f"{shape:24}{least:>9.3f}{cells}", flush=True)
        records.append(record)
    if args.json:
        numbers = {"device": torch.cuda.get_device_name(), "bandwidth": bandwidth, "records": records}
        args.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
