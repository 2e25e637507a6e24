"""The main job: a real series fitted, decoded, compared and reported.

Google's share on 1,046 days is cut into blocks in time; every third is held out.  hmmlearn's Gaussian HMM and
ours climb from the same starts, the VAE-HMM and the deep Markov model are trained on the same blocks, and one table
says what each makes of days that none of them saw.  The checks at the end decide the exit status.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from dbn_vae import storage
from dbn_vae.estimators import GaussianHMM
from dbn_vae.evaluation.comparison import Peer, Row, table
from dbn_vae.io import load
from dbn_vae.jobs.demo_fits import Check, Decoded, Series, decode, describe, fit_all, has_states, prepare
from dbn_vae.jobs.demo_page import readable, write_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo-report"), help="folder to write")
    parser.add_argument("--states", type=int, nargs=2, default=(2, 6), metavar=("FROM", "TO"))
    parser.add_argument("--updates", type=int, default=250, help="gradient steps of each deep model")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> int:
    """Fit, compare, decode, report; 0 when every check holds."""
    # One thread for everyone, hmmlearn's linear algebra too: matrices this small only lose time to a second one
    torch.set_num_threads(1)
    with threadpool_limits(1), warnings.catch_warnings():
        # hmmlearn and ours get the same number of updates; that some would take more is no news to the reader
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit_compare_report(arguments)


def fit_compare_report(arguments: argparse.Namespace) -> int:
    began = time.perf_counter()
    series = prepare()
    rows, checks = fit_all(series, arguments)
    reference = max((r for r in rows if isinstance(r.model, Peer)), key=lambda r: r.score.per_frame)
    result = table(rows, reference.name)
    print(readable(result).to_string(index=False))
    print(f"nats per held-out day, higher is better; gain: over {reference.name}, paired block by block")
    best = next(r for name in result["model"] for r in rows if r.name == name and has_states(r))
    decoded = decode(best, series)
    checks += [*write_models(rows, series, arguments.out), *sane(rows, decoded)]
    described = describe(decoded, series)
    print(f"\nBest model with states: {best.name}.  What its states are:")
    print("\n".join(f"  {line}" for line in described["in words"]))
    write_tables(arguments.out, result, decoded, series.days.dates)
    write_page(arguments, series, rows, result, best, decoded, described, checks)
    print()
    for check in checks:
        print(f"{'ok  ' if check.holds else 'FAIL'} {check.claim}: {check.seen}")
    seconds = time.perf_counter() - began
    print(f"\nWrote {arguments.out / 'report.html'} and the tables and models beside it in {seconds:.0f} s.")
    return 0 if all(check.holds for check in checks) else 1


# -- fitting


# -- decoding


# -- writing


def write_models(rows: list[Row], series: Series, out: Path) -> Iterator[Check]:
    """Every model of ours to a file; each must load again and give the same numbers."""
    for row in rows:
        if isinstance(row.model, Peer):
            continue
        model: Any = row.model
        path = out / "models" / f"{slug(row.name)}.dbn"
        model.save(path)
        again = load(path).evaluate(series.split.test).total
        yield Check(
            f"{path.name} loads again and scores the same", again == row.score.total, f"{again:.6f} nats"
        )


def sane(rows: list[Row], decoded: Decoded) -> list[Check]:
    finite = all(np.isfinite(r.score.total) for r in rows)
    off = float(np.abs(decoded.gamma.sum(1) - 1).max())
    histories = [r.model.monitor_.history for r in rows if has_states(r) and isinstance(r.model, GaussianHMM)]
    falls = [float(np.diff(history).min()) for history in histories]
    return [
        Check("every held-out score is finite", finite, f"{len(rows)} models"),
        Check("state probabilities sum to 1 on every day", off < 1e-5, f"largest deviation {off:.1e}"),
        Check("EM never decreased the log-likelihood", min(falls) > -1e-8, f"smallest gain {min(falls):.1e}"),
    ]


def write_tables(out: Path, result: pd.DataFrame, decoded: Decoded, dates: np.ndarray) -> None:
    states = pd.DataFrame({"date": dates.astype(str), "state": decoded.states})
    for k in range(decoded.gamma.shape[1]):
        states[f"p{k}"] = decoded.gamma[:, k]
    storage.write_bytes(out / "states.csv", states.to_csv(index=False).encode())
    storage.write_bytes(out / "comparison.csv", result.to_csv(index=False).encode())


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-").replace("--", "-")
