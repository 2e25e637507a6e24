"""Our classical HMMs against the libraries people use, in one run:  python benchmarks/engine.py [--quick]

Every library gets the same parameters and the same float64 data through its public face and must give the same
answer before it is timed.  Repeats are interleaved, so that a slow moment of the machine slows all alike, with a
pause before each and short calls in bunches; a number is a median.  hmmlearn with both its implementations; dynamax
(whole batches compiled with jit; sequences of one length) and pomegranate where they can be imported:
pip install "dbn-vae[bench]".

Work: score, posterior, Viterbi, and one EM iteration (a fit of N updates from a fixed start, divided by N).  N is 3, or
for a short sequence the 10 that are the default; what a fit does once weighs most there, so one of 50 follows, which is
left out of the means.

A task that takes long is timed once.  `GEMM` is the share of the multiply-adds of the recursion (one a cell (t, K, K)
going forward, three there and back) that this machine's matrix product would do in the same time.  `MB` is what the
resident memory grew by at its peak, results included.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from engine_peers import FAMILIES, LIBRARIES, QUICK, SHAPES, WORK, Case, Task, make

PAUSE = 0.3  # s before a call: XLA frees its buffers in the background, which held up the next call by 0.15 s
BUNCH = 0.02  # s of calls that are timed as one
LONG = 50  # updates of the second fit that a short case is timed with
PRODUCTS = {"score": 1, "posterior": 3, "EM": 3}  # multiply-adds a cell


def difference(work: str, case: Case, got: Any, want: Any) -> float:
    """How far an answer is from ours: relative for log-likelihoods, absolute for probabilities, a share for paths."""
    import numpy as np

    if work == "posterior":
        return float(np.abs(np.asarray(got) - np.asarray(want)).max())
    if work == "Viterbi":
        return float((np.asarray(got[1]) != np.asarray(want[1])).mean())
    got, want = (
        np.atleast_1d(got)[:1],
        np.atleast_1d(want)[:1],
    )  # EM: priors may differ from the first update on
    return float((np.abs(got - want) / np.abs(want)).max())


def measure(
    case: Case, names: list[str], seconds: float, repeats: int, notes: set[str], kinds: list[str] = WORK
) -> list[dict[str, Any]]:
    """A record for each kind of work; libraries take turns."""
    tasks: dict[str, dict[str, Task]] = {}
    for name in names:
        try:
            tasks[name] = LIBRARIES[name](case)
        except ImportError as error:
            notes.add(f"{name} left out: {error}")
        except ValueError as error:
            notes.add(f"{name} on {case.family} {case.shape} left out: {error}")
    records = []
    for work in kinds:
        here: dict[str, Task] = {}
        want, differences = tasks["ours"][work](), {}
        memory, first = {}, {}
        for name in tasks:
            if work not in tasks[name]:
                continue
            try:
                start, before = time.perf_counter(), reset_peak()
                differences[name] = difference(work, case, tasks[name][work](), want)
                first[name], memory[name] = time.perf_counter() - start, peak() - before
            except Exception as error:  # a peer that fails is not timed
                notes.add(f"{name} on {case.family} {case.shape} {work}: {type(error).__name__}: {error}")
                continue
            if differences[name] > (1e-3 if work == "Viterbi" else 1e-6):
                notes.add(
                    f"{name} on {case.family} {case.shape} {work} disagrees by {differences[name]:.1e}: not timed"
                )
                continue
            here[name] = tasks[name][work]
        slow = {name for name in here if name != "ours" and first[name] > 3 * seconds + 1}
        bunch = {name: in_a_bunch(task, first[name]) for name, task in here.items()}
        times: dict[str, list[float]] = {name: [] for name in here}
        begin = time.perf_counter()
        while len(times["ours"]) < 3 or (
            len(times["ours"]) < repeats and time.perf_counter() - begin < seconds
        ):
            for name, task in here.items():
                if name in slow and times[name]:
                    continue
                time.sleep(PAUSE)
                start = time.perf_counter()
                for _ in range(bunch[name]):
                    task()
                times[name].append((time.perf_counter() - start) / bunch[name])
        divide = case.updates if work == "EM" else 1
        median = {name: sorted(t)[len(t) // 2] / divide for name, t in times.items()}
        records.append(
            {
                "family": case.family, "shape": case.shape, "work": work, "updates": case.updates, "seconds": median,
                "lowest": {name: min(t) / divide for name, t in times.items()},
                "ns_per_cell": 1e9 * median["ours"] / case.cells,
                "difference": differences, "repeats": len(times["ours"]), "peak_mb": memory,
            }
        )  # fmt: skip
    return records


def in_a_bunch(task: Task, first: float) -> int:
    """How many calls are timed as one: short ones in a bunch, as in a loop, or waking up from the pause is timed."""
    if first > 1:  # even where a compiler was at work in it
        return 1
    start = time.perf_counter()
    task()
    return max(1, int(BUNCH / (time.perf_counter() - start)))


def reset_peak() -> float:
    """MB of resident memory now, from where a new peak is counted; NaN where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return math.nan
    return peak()


def peak() -> float:
    """MB of resident memory at its highest since then."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def gemm() -> float:
    """ns that a multiply-add takes in a large float64 matrix product, on as many threads."""
    import torch

    n, times = 1024, []
    a = torch.randn(n, n, dtype=torch.float64)
    for _ in range(7):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 1e9 * sorted(times)[3] / n**3


def start_up(name: str) -> float:
    """Seconds from a fresh interpreter to the first score of 100 steps, imports and compilation included."""
    code = (
        f"from engine_peers import LIBRARIES, make; LIBRARIES[{name!r}](make('diag', '1x100x3x1'))['score']()"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True)
    return time.perf_counter() - start if done.returncode == 0 else math.nan


def is_long(record: dict[str, Any]) -> bool:
    """Whether it is the longer of two fits of the same case."""
    return record["updates"] == LONG


def table(records: list[dict[str, Any]], gemm_ns: float) -> str:
    """Seconds of ours, and how many times longer each peer takes."""
    peers = [name for name in LIBRARIES if name != "ours" and any(name in r["seconds"] for r in records)]
    lines = [f"{'':44}{'seconds':>11}{'ns/cell':>9}{'GEMM':>6}{'MB':>7}" + "".join(f"{p:>18}" for p in peers)]
    for r in records:
        seconds = r["seconds"]
        ratios = "".join(
            f"{seconds[p] / seconds['ours']:>17.2f}x" if p in seconds else f"{'–':>18}" for p in peers
        )
        label = f"{r['family']} {r['shape']} {r['work']}" + (f" of {r['updates']}" if is_long(r) else "")
        ns, products = r["ns_per_cell"], PRODUCTS.get(r["work"])
        share = f"{100 * products * gemm_ns / ns:.0f}%" if products else "–"
        megabytes = f"{r['peak_mb']['ours']:.0f}"
        lines.append(f"{label:44}{seconds['ours']:>11.6f}{ns:>9.3f}{share:>6}{megabytes:>7}{ratios}")
    counted = [r for r in records if not is_long(r)]
    for work in [*WORK, "all"]:
        cells = []
        for p in peers:
            chosen = [r["seconds"] for r in counted if work in (r["work"], "all") and p in r["seconds"]]
            logs = [math.log(s[p] / s["ours"]) for s in chosen]
            cells.append(f"{math.exp(sum(logs) / len(logs)):>17.2f}x" if logs else f"{'–':>18}")
        lines.append(f"{'geometric mean, ' + work:44}{'':33}" + "".join(cells))
    for work in WORK[:3]:
        best = [
            math.log(min(r["seconds"][p] for p in peers if p in r["seconds"]) / r["seconds"]["ours"])
            for r in counted
            if work == r["work"] and len(r["seconds"]) > 1
        ]
        if best:
            mean = math.exp(sum(best) / len(best))
            lines.append(f"{'against the best peer of each case, ' + work:44}{mean:>17.2f}x")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few shapes, a few repeats")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--peers", nargs="+", choices=[n for n in LIBRARIES if n != "ours"], metavar="PEER")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--seconds", type=float, help="at most so long for each kind of work, beyond three repeats"
    )
    parser.add_argument("--json", type=Path, help="where the numbers go as well")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before any library counts the cores
    warnings.filterwarnings("ignore")
    import logging

    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(args.threads)
    names = ["ours", *(args.peers or [n for n in LIBRARIES if n != "ours"])]
    seconds = args.seconds if args.seconds is not None else (1.0 if args.quick else 10.0)
    records: list[dict[str, Any]] = []
    notes: set[str] = set()
    gemm_ns, starts = gemm(), {name: start_up(name) for name in names}
    for shape in args.shapes or (QUICK if args.quick else list(SHAPES)):
        for family in args.families:
            print(f"{family} {shape}", file=sys.stderr, flush=True)  # the slowest take minutes
            case = make(family, shape)
            records += measure(case, names, seconds, 15, notes)
            if case.is_short:
                records += measure(case._replace(updates=LONG), names, seconds, 15, notes, ["EM"])
            if args.json:
                report = {"threads": args.threads, "gemm_ns": gemm_ns, "start_up": starts, "records": records,
                          "notes": sorted(notes)}  # fmt: skip
                args.json.write_text(json.dumps(report, indent=1))
    print(table(records, gemm_ns))
    print("start-up, s: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in starts.items()))
    print(f"matrix product: {gemm_ns:.4f} ns a multiply-add")
    print(
        f"threads {args.threads}; {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    for note in sorted(notes):
        print(f"note: {note}")


if __name__ == "__main__":
    main()
