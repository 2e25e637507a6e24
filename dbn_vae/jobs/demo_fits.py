"""The models of the main job: fitted to the same blocks from the same starts, and what the best one decodes."""

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dbn_vae.datasets import load_goog
from dbn_vae.estimators import VAEHMM, DeepMarkovModel, GaussianHMM
from dbn_vae.estimators.naming import stationary_distribution
from dbn_vae.evaluation.comparison import Peer, Row, Split, hold_out

N_STARTS = 4
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
