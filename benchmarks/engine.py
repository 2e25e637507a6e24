"""Our classical HMMs against the libraries people use, in one run:  python benchmarks/engine.py [--quick]

Every library gets the same parameters and the same float64 data through its public face and must give the same
answer before it is timed.  Repeats are interleaved, so that a slow moment of the machine slows all alike; a
number is a median.  Work: score, posterior, Viterbi, and one EM iteration (a fit of N updates from a fixed start,
divided by N).  hmmlearn with both its implementations; dynamax (score of whole batches compiled with jit;
sequences of one length) and pomegranate where they can be imported.
"""

import argparse
import bisect
import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

SHAPES = {  # name: sequences, length (lowest, highest), states, entries of a frame
    "1x100000x4x2": (1, (100_000, 100_000), 4, 2),
    "1x100000x32x8": (1, (100_000, 100_000), 32, 8),
    "100x1000x8x4": (100, (1000, 1000), 8, 4),
    "1000x200x16x8": (1000, (200, 200), 16, 8),
    "10000x50x5x2": (10_000, (50, 50), 5, 2),
    "1x1000000x4x2": (1, (1_000_000, 1_000_000), 4, 2),
    "64x500x128x16": (64, (500, 500), 128, 16),
    "ragged-1000x20-400x8x4": (1000, (20, 400), 8, 4),
    "1x100x3x1": (1, (100, 100), 3, 1),
}
QUICK = ["1x100000x4x2", "100x1000x8x4", "10000x50x5x2", "1x100x3x1"]
FAMILIES = ["diag", "full", "categorical"]
WORK = ["score", "posterior", "Viterbi", "EM"]
SYMBOLS = 32
UPDATES = 3  # of the fit that times EM

Task = Callable[[], Any]


class Case(NamedTuple):
    """One model with its data."""

    family: str
    shape: str
    X: Any  # (n, D)
    lengths: Any  # (B,)
    parameters: dict[str, Any]  # hmmlearn's attributes

    @property
    def cells(self) -> float:
        """Σ_t K²."""
        return float(len(self.X)) * len(self.parameters["startprob_"]) ** 2


def make(family: str, shape: str) -> Case:
    """Data drawn from a model, and a start some way from it."""
    import numpy as np

    B, (low, high), K, D = SHAPES[shape]
    rng = np.random.default_rng(0)
    lengths = rng.integers(low, high + 1, B)
    n = int(lengths.sum())
    transmat = rng.dirichlet(np.ones(K), K) * 0.5 + 0.5 * np.eye(K)
    cumulated, path = transmat[:, :-1].cumsum(1).tolist(), [0]
    for u in rng.random(n - 1).tolist():
        path.append(bisect.bisect(cumulated[path[-1]], u))
    states = np.array(path)
    parameters: dict[str, Any] = {"startprob_": np.full(K, 1 / K), "transmat_": transmat}
    if family == "categorical":
        probs = rng.dirichlet(np.ones(SYMBOLS), K)
        X = (probs.cumsum(1)[states] < rng.random(n)[:, None]).sum(1).clip(max=SYMBOLS - 1)[:, None]
        parameters["emissionprob_"] = 0.8 * probs + 0.2 / SYMBOLS
    else:
        means = 2 * rng.normal(size=(K, D))
        X = means[states] + rng.normal(size=(n, D))
        parameters["means_"] = means + 0.2 * rng.normal(size=(K, D))
        parameters["covars_"] = np.ones((K, D)) if family == "diag" else np.tile(np.eye(D) + 0.1, (K, 1, 1))
    return Case(family, shape, X, lengths, parameters)


# ---- The libraries: each gives the four tasks, as functions of nothing ---------------------------------


def estimator(case: Case, make_model: Callable[..., Any], **options: Any) -> dict[str, Task]:
    """Tasks of an estimator with hmmlearn's face."""

    def fresh(**more: Any) -> Any:
        model = make_model(n_components=len(case.parameters["startprob_"]), **options, **more)
        if case.family == "categorical":
            model.n_features = SYMBOLS
        for name, value in case.parameters.items():
            setattr(model, name, value.copy())
        return model

    model = fresh()
    fitted = {"n_iter": UPDATES, "tol": -math.inf, "init_params": ""}
    return {
        "score": lambda: model.score(case.X, case.lengths),
        "posterior": lambda: model.predict_proba(case.X, case.lengths),
        "Viterbi": lambda: model.decode(case.X, case.lengths),
        "EM": lambda: list(fresh(**fitted).fit(case.X, case.lengths).monitor_.history)[:UPDATES],
    }


def ours(case: Case) -> dict[str, Task]:
    import dbn_vae

    if case.family == "categorical":
        return estimator(case, dbn_vae.CategoricalHMM)
    return estimator(case, dbn_vae.GaussianHMM, covariance_type=case.family)


def hmmlearn(implementation: str) -> Callable[[Case], dict[str, Task]]:
    def tasks(case: Case) -> dict[str, Task]:
        from hmmlearn import hmm

        if case.family == "categorical":
            return estimator(case, hmm.CategoricalHMM, implementation=implementation)
        return estimator(case, hmm.GaussianHMM, covariance_type=case.family, implementation=implementation)

    return tasks


def dynamax(case: Case) -> dict[str, Task]:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    from dynamax import hidden_markov_model as dhmm

    if len(set(case.lengths.tolist())) > 1:
        raise ValueError("sequences of one length only")
    K, B = len(case.parameters["startprob_"]), len(case.lengths)
    start = {
        "initial_probs": jnp.array(case.parameters["startprob_"]),
        "transition_matrix": jnp.array(case.parameters["transmat_"]),
    }
    if case.family == "categorical":
        model = dhmm.CategoricalHMM(K, 1, SYMBOLS)
        start["emission_probs"] = jnp.array(case.parameters["emissionprob_"])[:, None]
        x = jnp.array(case.X.reshape(B, -1, 1))
    elif case.family == "diag":
        model = dhmm.DiagonalGaussianHMM(K, case.X.shape[1])
        start |= {
            "emission_means": jnp.array(case.parameters["means_"]),
            "emission_scale_diags": jnp.sqrt(jnp.array(case.parameters["covars_"])),
        }
        x = jnp.array(case.X.reshape(B, -1, case.X.shape[1]))
    else:
        model = dhmm.GaussianHMM(K, case.X.shape[1])
        start |= {
            "emission_means": jnp.array(case.parameters["means_"]),
            "emission_covariances": jnp.array(case.parameters["covars_"]),
        }
        x = jnp.array(case.X.reshape(B, -1, case.X.shape[1]))
    params, props = model.initialize(**start)
    score = jax.jit(jax.vmap(lambda y: model.marginal_log_prob(params, y)))
    posterior = jax.jit(jax.vmap(lambda y: model.smoother(params, y).smoothed_probs))
    viterbi = jax.jit(jax.vmap(lambda y: model.most_likely_states(params, y)))

    @jax.jit
    def update(p: Any, m: Any, y: Any) -> Any:
        statistics, log_z = jax.vmap(lambda one: model.e_step(p, one))(y)
        p, m = model.m_step(p, props, statistics, m)
        return p, m, log_z.sum()

    def em() -> list[float]:
        p, m, history = params, model.initialize_m_step_state(params, props), []
        for _ in range(UPDATES):
            p, m, value = update(p, m, x)
            history.append(value)
        return [float(v) for v in history]

    return {
        "score": lambda: float(score(x).sum()),
        "posterior": lambda: posterior(x).block_until_ready().reshape(-1, K),
        "Viterbi": lambda: (None, viterbi(x).block_until_ready().reshape(-1)),
        "EM": em,
    }


def pomegranate(case: Case) -> dict[str, Task]:
    import numpy as np
    import torch
    from pomegranate import distributions
    from pomegranate.hmm import DenseHMM

    if len(set(case.lengths.tolist())) > 1:
        raise ValueError("sequences of one length only")
    if len(case.X) > 200_000 and len(case.lengths) == 1:
        raise ValueError("minutes a call")
    P, K = case.parameters, len(case.parameters["startprob_"])
    if case.family == "categorical":
        parts = [distributions.Categorical(torch.tensor(p[None])) for p in P["emissionprob_"]]
    else:
        kind = {"diag": "diag", "full": "full"}[case.family]
        parts = [
            distributions.Normal(torch.tensor(m), torch.tensor(c), covariance_type=kind)
            for m, c in zip(P["means_"], P["covars_"], strict=True)
        ]
    model = DenseHMM(parts, edges=torch.tensor(P["transmat_"]), starts=torch.tensor(P["startprob_"]),
                     ends=torch.full((K,), 1.0, dtype=torch.float64))  # fmt: skip
    x = torch.tensor(case.X.reshape(len(case.lengths), -1, case.X.shape[1]))
    return {
        "score": lambda: float(model.log_probability(x).sum()),
        "posterior": lambda: np.asarray(model.predict_proba(x)).reshape(-1, K),
    }


LIBRARIES: dict[str, Callable[[Case], dict[str, Task]]] = {
    "ours": ours,
    "hmmlearn log": hmmlearn("log"),
    "hmmlearn scaling": hmmlearn("scaling"),
    "dynamax": dynamax,
    "pomegranate": pomegranate,
}


# ---- Agreement, then times ------------------------------------------------------------------------------


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
    case: Case, names: list[str], seconds: float, repeats: int, notes: set[str]
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
    for work in WORK:
        here: dict[str, Task] = {}
        want, differences = tasks["ours"][work](), {}
        for name in tasks:
            if work not in tasks[name]:
                continue
            try:
                differences[name] = difference(work, case, tasks[name][work](), want)
            except Exception as error:  # a peer that fails is not timed
                notes.add(f"{name} on {case.family} {case.shape} {work}: {type(error).__name__}: {error}")
                continue
            if differences[name] > (1e-3 if work == "Viterbi" else 1e-6):
                notes.add(
                    f"{name} on {case.family} {case.shape} {work} disagrees by {differences[name]:.1e}: not timed"
                )
                continue
            here[name] = tasks[name][work]
        times: dict[str, list[float]] = {name: [] for name in here}
        begin = time.perf_counter()
        while len(times["ours"]) < 3 or (
            len(times["ours"]) < repeats and time.perf_counter() - begin < seconds
        ):
            for name, task in here.items():
                # a call of microseconds is timed in a bunch
                bunch = 1 if not times[name] else max(1, min(200, int(2e-3 / times[name][0])))
                start = time.perf_counter()
                for _ in range(bunch):
                    task()
                times[name].append((time.perf_counter() - start) / bunch)
        divide = UPDATES if work == "EM" else 1
        median = {name: sorted(t)[len(t) // 2] / divide for name, t in times.items()}
        records.append(
            {
                "family": case.family, "shape": case.shape, "work": work, "seconds": median,
                "lowest": {name: min(t) / divide for name, t in times.items()},
                "ns_per_cell": 1e9 * median["ours"] / case.cells,
                "difference": differences, "repeats": len(times["ours"]),
            }
        )  # fmt: skip
    return records


def table(records: list[dict[str, Any]]) -> str:
    """Seconds of ours, and how many times longer each peer takes."""
    peers = [name for name in LIBRARIES if name != "ours" and any(name in r["seconds"] for r in records)]
    lines = [f"{'':44}{'seconds':>11}{'ns/cell':>9}" + "".join(f"{p:>18}" for p in peers)]
    for r in records:
        seconds = r["seconds"]
        ratios = "".join(
            f"{seconds[p] / seconds['ours']:>17.2f}x" if p in seconds else f"{'–':>18}" for p in peers
        )
        label = f"{r['family']} {r['shape']} {r['work']}"
        lines.append(f"{label:44}{seconds['ours']:>11.6f}{r['ns_per_cell']:>9.2f}{ratios}")
    for work in [*WORK, "all"]:
        cells = []
        for p in peers:
            chosen = [r["seconds"] for r in records if work in (r["work"], "all") and p in r["seconds"]]
            logs = [math.log(s[p] / s["ours"]) for s in chosen]
            cells.append(f"{math.exp(sum(logs) / len(logs)):>17.2f}x" if logs else f"{'–':>18}")
        lines.append(f"{'geometric mean, ' + work:44}{'':20}" + "".join(cells))
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
    for shape in args.shapes or (QUICK if args.quick else list(SHAPES)):
        for family in args.families:
            print(f"{family} {shape}", file=sys.stderr, flush=True)  # the slowest take minutes
            records += measure(make(family, shape), names, seconds, 15, notes)
            if args.json:
                args.json.write_text(
                    json.dumps(
                        {"threads": args.threads, "records": records, "notes": sorted(notes)}, indent=1
                    )
                )
    print(table(records))
    print(
        f"threads {args.threads}; {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    for note in sorted(notes):
        print(f"note: {note}")


if __name__ == "__main__":
    main()
