"""The main job: a real series fitted, decoded, compared and reported.

Google's share on 1,046 days is cut into blocks in time; every third is held out.  hmmlearn's Gaussian HMM and
ours climb from the same starts, the VAE-HMM and the deep Markov model are trained on the same blocks, and one table
says what each makes of days that none of them saw.  The checks at the end decide the exit status.
"""

import argparse
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

import dbn_vae
from dbn_vae import storage
from dbn_vae.datasets import load_goog
from dbn_vae.estimators import VAEHMM, DeepMarkovModel, GaussianHMM
from dbn_vae.estimators.naming import stationary_distribution
from dbn_vae.evaluation.comparison import Peer, Row, Split, hold_out, table
from dbn_vae.evaluation.states import effective_states
from dbn_vae.io import load

N_STARTS = 4
PLUS_MINUS = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"  # a number and its error stay on one line
SAME_START: dict[str, Any] = {"covars_prior": 0.0, "n_iter": 200, "tol": 1e-4}


class Check(NamedTuple):
    """One condition the run must meet, and what was seen."""

    claim: str
    holds: bool
    seen: str


class Series(NamedTuple):
    """The data in standardised units (of the training part) and the split."""

    days: Any
    features: np.ndarray
    split: Split
    held_out: np.ndarray  # (n,) bool


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


def prepare() -> Series:
    """The share's features, blocks held out, everything scaled by the training part alone."""
    days = load_goog()
    raw = hold_out(days.features, block=35, every=3)
    train = np.concatenate(raw.train)
    features = (days.features - train.mean(0)) / train.std(0)
    held_out = np.zeros(len(features), dtype=bool)
    for start, block in zip(raw.test_starts, raw.test, strict=True):
        held_out[start : start + len(block)] = True
    return Series(days, features, hold_out(features, block=35, every=3), held_out)


# -- fitting


def fit_all(series: Series, arguments: argparse.Namespace) -> tuple[list[Row], list[Check]]:
    first, last = arguments.states
    rows: list[Row] = []
    checks: list[Check] = []
    split, seed, updates = series.split, arguments.seed, arguments.updates
    rows.append(fitted("Gaussian, days independent", GaussianHMM(1, "full", random_state=seed), split))
    for K in range(first, last + 1):
        pair, check = same_starts(K, split, seed)
        rows += pair
        checks.append(check)
    deep: dict[str, Any] = {"n_updates": updates, "random_state": seed, "verbose": True, "n_samples": 100}
    for K in range(first, last + 1):
        model = VAEHMM(K, 2, n_pretrain=updates, warm_up=updates // 2, **deep)
        rows.append(fitted(f"VAE-HMM, {K} states", model, split))
    for transition in ("linear", "gated"):
        dmm = DeepMarkovModel(2, transition=transition, n_pretrain=updates, max_length=50, **deep)
        rows.append(fitted(f"deep Markov model, {transition}", dmm, split))
    return rows, checks


def fitted(name: str, model: Any, split: Split) -> Row:
    began = time.perf_counter()
    model.fit(split.train)
    return Row(name, model, model.evaluate(split.test), time.perf_counter() - began)


def same_starts(K: int, split: Split, seed: int) -> tuple[list[Row], Check]:
    """hmmlearn and ours from the same starts: the best of each, and how closely they agree all the way."""
    from hmmlearn.hmm import GaussianHMM as Theirs

    X, lengths = np.concatenate(split.train), [len(x) for x in split.train]
    pairs: list[tuple[Any, Any]] = []
    seconds = np.zeros(2)
    for start in tqdm(range(N_STARTS), desc=f"Gaussian HMM, {K} states", leave=False):
        begin = GaussianHMM(K, "full", random_state=seed + start, n_iter=0, n_init=1).fit(X, lengths)
        models = [make(K, "full", init_params="", **SAME_START) for make in (Theirs, GaussianHMM)]
        for i, model in enumerate(models):
            for name in ("startprob_", "transmat_", "means_", "covars_"):
                setattr(model, name, getattr(begin, name))
            began = time.perf_counter()
            model.fit(X, lengths)
            seconds[i] += time.perf_counter() - began
        pairs.append((models[0], models[1]))
    gap = max(disagreement(theirs, ours) for theirs, ours in pairs)
    theirs, ours = max(pairs, key=lambda pair: pair[1].monitor_.history[-1])
    rows = [
        Row(f"hmmlearn GaussianHMM, {K} states", Peer(theirs), Peer(theirs).evaluate(split.test), seconds[0]),
        Row(f"GaussianHMM, {K} states", ours, ours.evaluate(split.test), seconds[1]),
    ]
    claim = f"{K} states: log-likelihoods agree with hmmlearn's over all iterations of {N_STARTS} starts"
    return rows, Check(claim, gap < 1e-8, f"largest relative difference {gap:.1e}")


def disagreement(theirs: Any, ours: Any) -> float:
    """The largest relative difference over the iterations both made."""
    a, b = np.asarray(theirs.monitor_.history), np.asarray(ours.monitor_.history)
    n = min(len(a), len(b))
    return float(np.abs(a[:n] / b[:n] - 1).max())


def has_states(row: Row) -> bool:
    """One of our own models with more than one state."""
    return isinstance(row.model, GaussianHMM | VAEHMM) and row.model.n_components > 1


# -- decoding


class Decoded(NamedTuple):
    """The states of all days, in order of rising volatility."""

    states: np.ndarray  # (n,) Viterbi
    gamma: np.ndarray  # (n, K)
    transmat: np.ndarray  # (K, K)


def decode(row: Row, series: Series) -> Decoded:
    """Decode the whole series; states are numbered by the volatility of the days they hold."""
    model: Any = row.model
    _, states = model.decode(series.features)
    gamma = model.predict_proba(series.features)
    returns = series.days.features[:, 0]
    order = np.argsort([weighted_std(returns, gamma[:, k]) for k in range(gamma.shape[1])])
    rank = np.argsort(order)
    return Decoded(rank[states], gamma[:, order], model.transmat_[np.ix_(order, order)])


def weighted_std(x: np.ndarray, w: np.ndarray) -> float:
    w = w / max(w.sum(), 1e-300)
    return float(np.sqrt(w @ (x - w @ x) ** 2))


def describe(decoded: Decoded, series: Series) -> pd.DataFrame:
    """What each state is, in the share's own units and in words."""
    returns = series.days.features[:, 0]
    stationary = stationary_distribution(decoded.transmat)
    records = []
    for k, share in enumerate(stationary):
        w = decoded.gamma[:, k] / max(decoded.gamma[:, k].sum(), 1e-300)
        mean, spread = float(w @ returns), weighted_std(returns, decoded.gamma[:, k])
        stay = 1 / max(1 - decoded.transmat[k, k], 1e-12)
        records.append(
            {
                "state": k,
                "mean return, % a day": 100 * mean,
                "volatility, % a day": 100 * spread,
                "mean stay, days": stay,
                "stationary share": share,
                "days decoded": int((decoded.states == k).sum()),
                "in words": (
                    f"state {k}: {ordinal_calm(k, len(stationary))}; the price {'rises' if mean > 0 else 'falls'} "
                    f"{abs(100 * mean):.2f} % on the average day, with a daily volatility of {100 * spread:.2f} %; "
                    f"it lasts {stay:.1f} days and holds {100 * share:.0f} % of the time"
                ),
            }
        )
    return pd.DataFrame(records)


def ordinal_calm(k: int, K: int) -> str:
    if k in (0, K - 1):
        return "the calmest days" if k == 0 else "the wildest days"
    return f"number {k + 1} of {K} from calm to wild"


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


def write_page(
    arguments: argparse.Namespace,
    series: Series,
    rows: list[Row],
    result: pd.DataFrame,
    best: Row,
    decoded: Decoded,
    described: pd.DataFrame,
    checks: list[Check],
) -> None:
    from dbn_vae import plotting
    from dbn_vae.report import Section, write_report

    dates, K = series.days.dates, decoded.gamma.shape[1]
    n_train, n_test = int((~series.held_out).sum()), int(series.held_out.sum())
    dots = plotting.held_out_table(
        result["model"].tolist(),
        result["per frame"].tolist(),
        result["s.e."].tolist(),
        result["kind"].tolist(),
        xlabel="held-out log-likelihood (nats per day), ± 1 standard error",
    )
    price = plotting.series_by_state(
        dates, series.days.price, decoded.states, ylabel="price (USD)", held_out=series.held_out
    )
    plotting.save(dots, arguments.out / "comparison.png")
    plotting.save(price, arguments.out / "states.png")
    comparison = Section(
        "What each model says of days it never saw",
        [
            f"{n_test} of {len(dates)} days were held out in {len(series.split.test)} blocks; every model was fitted "
            f"to the other {n_train}. Numbers are nats per day in standardised units, higher is better. "
            "“exact” is the log-likelihood itself; a bound lies below it by an unknown amount, so a "
            "bound that wins, wins, and a bound that loses may be losing only its slack.",
            verdict(result, rows),
        ],
        [("Held-out log-likelihood per day, with its standard error over blocks", dots)],
        [("All models, best first; ± one standard error; gains are paired block by block", readable(result))],
    )
    states = Section(
        f"The states of the best model with states: {best.name}",
        [
            *(f"{line[0].upper()}{line[1:]}." for line in described["in words"]),
            f"On average the days use {effective_states(decoded.gamma):.1f} of the {K} states. The model was chosen by "
            "the table above, on the same held-out days, so its lead there is a little flattering.",
        ],
        [
            ("Price by decoded state; held-out blocks shaded", price),
            ("Probability of each state, given the whole series", plotting.gammas(dates, decoded.gamma)),
            ("Transition matrix, from row to column", plotting.transition_matrix(decoded.transmat)),
        ],
        [("States by rising volatility", described.drop(columns="in words"))],
    )
    pages = [comparison, states, learning(rows), checked(checks)]
    write_report(
        arguments.out / "report.html",
        title="Google's share, 2004 to 2008: hidden states and their models",
        lead=f"Held-out comparison of {len(rows)} models, from independent days to deep Markov models.",
        sections=pages,
        facts=facts(),
    )


def readable(result: pd.DataFrame) -> pd.DataFrame:
    """The table with each number beside its standard error, rounded to what it can bear."""
    return pd.DataFrame(
        {
            "model": result["model"],
            "nats per day": [
                f"{v:.3f}{PLUS_MINUS}{e:.3f}"
                for v, e in zip(result["per frame"], result["s.e."], strict=True)
            ],
            "gain": [
                "reference" if e == 0 else f"{round(v, 3) + 0.0:+.3f}{PLUS_MINUS}{e:.3f}"
                for v, e in zip(result["gain"], result["gain s.e."], strict=True)
            ],
            "kind": result["kind"],
            "states": result["states"],
            "parameters": result["parameters"],
            "seconds": result["seconds"].round(1),
        }
    )


def verdict(result: pd.DataFrame, rows: list[Row]) -> str:
    """Who won, and whether by more than the noise."""
    winner = result.iloc[0]
    difference, error, reference = winner["gain"], winner["gain s.e."], result.attrs["reference"]
    if winner["model"] == reference or abs(difference) < 1e-6:
        return f"{reference} and ours from the same starts lead; no other model beats them."
    sure = "more" if difference > 2 * error else "no more"
    return (
        f"{winner['model']} leads. Against {reference}, the best of hmmlearn's, it gains "
        f"{difference:.3f} ± {error:.3f} nats per day: {sure} than two standard errors of that difference."
    )


def learning(rows: list[Row]) -> Any:
    from dbn_vae import plotting
    from dbn_vae.report import Section

    hmms: dict[str, Sequence[float]] = {
        row.name: row.model.monitor_.history
        for row in rows
        if isinstance(row.model, GaussianHMM) and row.model.n_components > 1
    }
    deep: dict[str, Sequence[float]] = {
        row.name: [c.validation for c in row.model.history_]
        for row in rows
        if isinstance(row.model, VAEHMM | DeepMarkovModel)
    }
    return Section(
        "Learning",
        ["EM climbs the exact log-likelihood of the training days; the deep models climb a bound."],
        [
            (
                "EM: training log-likelihood after each iteration, best start of each size",
                plotting.learning_curves(hmms, ylabel="log-likelihood (nats)", xlabel="iteration"),
            ),
            (
                "Deep models: importance bound (S = 8) on validation pieces cut from the training part",
                plotting.learning_curves(deep, ylabel="bound (nats per day)", xlabel="look (20 in all)"),
            ),
        ],
        [],
    )


def checked(checks: list[Check]) -> Any:
    from dbn_vae.report import Section

    frame = pd.DataFrame(
        [{"check": c.claim, "holds": "yes" if c.holds else "NO", "seen": c.seen} for c in checks]
    )
    return Section(
        "Checks", ["The run exits with status 0 only when all of these hold."], [], [("Checks", frame)]
    )


def facts() -> dict[str, str]:
    """What it takes to make this page again."""
    from importlib.metadata import version

    packages = ("torch", "numpy", "hmmlearn", "scikit-learn")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return {
        "command": shlex.join(["dbn-vae", *sys.argv[1:]]),
        "versions": f"dbn_vae {dbn_vae.__version__}, Python {platform.python_version()}, {versions}",
        "data": "goog.npz of matplotlib's sample data: log-return, log high-low range, log-volume change",
    }


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-").replace("--", "-")
