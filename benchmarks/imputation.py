"""Filling in failed sensors and forecasting, on the office of Candanedo and Feldheim:  python benchmarks/imputation.py

Five sensors once a minute.  Models are fitted to the first days with a fifth of their entries removed, chosen on days
after these (with holes too), and asked about the later days of test2, from which entries are removed in two ways: at
random, and a sensor for an hour.  Scored are the removed entries alone: root mean squared error in standard deviations
of the training days, and the negative log-density of all of them together given all that was left, a removed entry.
That is log p(left) − log p(whole), exact for HMMs and a difference of two SMC bounds, an estimate, for the deep models.

Then, from many moments of test2, the ten minutes to come given the last hour: RMSE, CRPS and how often central
intervals hold.  Mean over steps and sensors; every forecast is judged by as many samples.

--quick: short stretches, hardly trained models, one mask; to see that it runs.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from hmmlearn import hmm

from dbn_vae import VAEHMM, DeepMarkovModel, GaussianHMM, SwitchingDMM
from dbn_vae.datasets import load_occupancy
from dbn_vae.evaluation.forecasting import crps_sample

SHARE, HOUR, PAST, HORIZON = 0.2, 60, 60, 10


class Size(NamedTuple):
    """How much of everything."""

    train: int = 6500  # frames of the first stretch to learn from; the rest of it is for choosing
    validation: int = 1643
    test: int = 9752
    piece: int = 700  # frames of a sequence of the test
    updates: int = 1500
    particles: int = 100
    samples: int = 500  # of a forecast
    every: int = 30  # minutes between origins of forecasts
    seeds: int = 4


QUICK = Size(1200, 300, 700, 350, 20, 10, 100, 100, 1)


class Data(NamedTuple):
    """Frames (n, 5) in standard deviations of the training days, and what is said of the test's sequences."""

    train: np.ndarray  # with holes
    validation: np.ndarray  # with holes
    test: np.ndarray
    lengths: list[int]
    names: tuple[str, ...]


def at_random(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.random(shape) < SHARE


def an_hour(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Sensors that are out for an hour, until the share is reached."""
    gone = np.zeros(shape, dtype=bool)
    while gone.mean() < SHARE:
        start = rng.integers(shape[0])
        gone[start : start + HOUR, rng.integers(shape[1])] = True
    return gone


MASKS: dict[str, Callable[[tuple[int, int], np.random.Generator], np.ndarray]] = {
    "at random": at_random,
    "an hour": an_hour,
}


def load(size: Size) -> Data:
    first, later = load_occupancy("train"), load_occupancy("test2")
    past = first.x[: size.train]
    scaled = [
        (x - past.mean(0)) / past.std(0)
        for x in (past, first.x[size.train :][: size.validation], later.x[: size.test])
    ]
    rng = np.random.default_rng(100)
    for x in scaled[:2]:
        half = len(x) // 2
        x[:half][at_random((half, 5), rng)] = np.nan
        x[half:][an_hour((len(x) - half, 5), rng)] = np.nan
    n = max(round(len(scaled[2]) / size.piece), 1)
    lengths = [len(part) for part in np.array_split(np.arange(len(scaled[2])), n)]
    return Data(scaled[0], scaled[1], scaled[2], lengths, first.names)


# -- models


def settings(size: Size) -> dict[str, dict[str, Callable[[], Any]]]:
    """Of every model what was tried; validation chooses."""
    common: dict[str, Any] = {
        "hidden": (32,), "n_updates": size.updates, "max_length": 60, "batch_size": 24, "random_state": 0,
        "n_samples": size.particles, "n_pretrain": min(1000, 5 * size.updates), "device": "cpu",
    }  # fmt: skip
    filtering = common | {"inference": "product-filter"}
    return {
        "GaussianHMM, full": {
            f"K = {K}": lambda K=K: GaussianHMM(K, "full", n_init=2, random_state=0)
            for K in (5, 10, 20, 40, 60)
        },
        "VAEHMM": {
            f"K = {K}": lambda K=K: VAEHMM(K, 4, **common | {"batch_size": 16, "max_length": 200})
            for K in (5, 10, 20)
        },
        "DeepMarkovModel": {
            f"{t}, {i}": lambda t=t, i=i: DeepMarkovModel(5, transition=t, **common | {"inference": i})
            for t, i in (("linear", "product-filter"), ("gated", "product-filter"), ("gated", "product"))
        },
        "SwitchingDMM": {f"K = {K}, linear": lambda K=K: SwitchingDMM(K, 5, **filtering) for K in (2, 4)},
    }


def bound(model: Any, X: np.ndarray, lengths: Any = None) -> Any:
    """The exact log-likelihood of an HMM, the SMC bound of a deep model."""
    return model.evaluate(X, lengths, **({} if isinstance(model, GaussianHMM) else {"method": "smc"}))


def chosen(name: str, tried: dict[str, Callable[[], Any]], data: Data) -> Any:
    """The setting with the best score a frame of the validation days."""
    best, highest = None, -np.inf
    for setting, make in tried.items():
        start = time.process_time()
        model = make().fit(data.train)
        score = bound(model, data.validation)
        took = time.process_time() - start
        print(f"{name}, {setting}: validation {score.per_frame:.3f} ({score.kind}), {took:.0f} s", flush=True)
        if score.per_frame > highest:
            best, highest = model, score.per_frame
    return best


# -- filling in


def carried(x: pd.DataFrame) -> pd.DataFrame:
    return x.ffill().fillna(0.0)


def line(x: pd.DataFrame) -> pd.DataFrame:
    return x.interpolate(limit_direction="both").fillna(0.0)


def by_piece(fill: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[..., np.ndarray]:
    def impute(holes: np.ndarray, lengths: list[int]) -> np.ndarray:
        return np.concatenate([fill(pd.DataFrame(x)) for x in np.split(holes, np.cumsum(lengths)[:-1])])

    return impute


FILLS = {
    "last value": by_piece(carried),
    "line between neighbours": by_piece(line),
    "mean of the column": by_piece(lambda x: x.fillna(0.0)),
}


def filled(models: dict[str, Any], data: Data, size: Size) -> Iterator[dict[str, Any]]:
    """Rows of results as they come."""
    whole = {name: bound(model, data.test, data.lengths).total for name, model in models.items()}
    for pattern, remove in MASKS.items():
        for seed in range(size.seeds):
            gone = remove(data.test.shape, np.random.default_rng(seed))
            holes = np.where(gone, np.nan, data.test)
            for name in [*FILLS, *models]:
                nll, start = np.nan, time.process_time()
                if name in models:
                    guess = models[name].impute(holes, data.lengths, **draws(models[name]))
                    took = time.process_time() - start
                    nll = (bound(models[name], holes, data.lengths).total - whole[name]) / gone.sum()
                else:
                    guess, took = FILLS[name](holes, data.lengths), time.process_time() - start
                    if name == "mean of the column":
                        nll = 0.5 * (np.log(2 * np.pi) + (data.test[gone] ** 2).mean())
                assert np.array_equal(guess[~gone], data.test[~gone])
                error = np.where(gone, guess - data.test, np.nan) ** 2
                each = dict(zip(data.names, np.sqrt(np.nanmean(error, 0)), strict=True))
                row = {"removed": pattern, "method": name, "seed": seed, "RMSE": np.sqrt(np.nanmean(error))}
                yield row | {"NLL": nll, "s": took} | each


def draws(model: Any) -> dict[str, Any]:
    return {} if isinstance(model, GaussianHMM) else {"random_state": 0}


# -- forecasts


def predicted(models: dict[str, Any], data: Data, size: Size) -> Iterator[dict[str, Any]]:
    """Every method's forecasts of the same minutes, as samples (S, origins, 10, 5) and a point."""
    origins = np.arange(PAST, len(data.test) - HORIZON, size.every)
    past = np.stack([data.test[o - PAST : o] for o in origins])
    truth = np.stack([data.test[o : o + HORIZON] for o in origins])
    # of the last value, errors as they were in the training days
    steps = range(1, HORIZON + 1)
    levels = (np.arange(size.samples) + 0.5) / size.samples
    errors = np.stack([np.nanquantile(data.train[h:] - data.train[:-h], levels, axis=0) for h in steps], 1)
    last = np.repeat(past[:, -1:], HORIZON, 1)
    yield judged("last value, past errors", last + errors[:, None], last, truth)
    for name, model in models.items():
        start = time.process_time()
        f = model.forecast(past, horizon=HORIZON, n_samples=size.samples, random_state=0)
        took = time.process_time() - start
        yield judged(name, f.samples, f.mean, truth) | {"s": took, "origins": len(origins)}


def judged(name: str, samples: np.ndarray, point: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    low, lower, upper, high = np.quantile(samples, [0.05, 0.25, 0.75, 0.95], axis=0)
    error = np.sqrt(((point - truth) ** 2).mean((0, 2)))
    crps = crps_sample(truth, samples).mean((1, 2))
    return {
        "method": name,
        "RMSE": np.sqrt(((point - truth) ** 2).mean()),
        "RMSE, 1 step": error[0],
        "RMSE, 10 steps": error[-1],
        "CRPS": crps.mean(),
        "± s.e.": crps.std(ddof=1) / np.sqrt(len(crps)),
        "in 50 %": ((truth >= lower) & (truth <= upper)).mean(),
        "in 90 %": ((truth >= low) & (truth <= high)).mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="to see that it runs")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    size = QUICK if arguments.quick else Size()
    data = load(size)
    try:
        hmm.GaussianHMM(2).fit(data.train)
    except ValueError as refusal:
        print(f"hmmlearn: {str(refusal).splitlines()[0]}")
    tried = settings(size)
    if arguments.quick:
        tried = {name: dict(list(each.items())[:1]) for name, each in tried.items()}
    models = {name: chosen(name, each, data) for name, each in tried.items()}
    print(f"\nForecasts of {HORIZON} minutes", flush=True)
    for row in predicted(models, data, size):
        print(short(row), flush=True)
    print("\nRemoved entries", flush=True)
    rows = []
    for row in filled(models, data, size):
        print(short(row), flush=True)
        rows.append(row)
    table = pd.DataFrame(rows).drop(columns="seed").groupby(["removed", "method"], sort=False)
    print(table.agg(["mean", "std"]).round(3).to_string())


def short(row: dict[str, Any]) -> str:
    return "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{v}" for k, v in row.items())


if __name__ == "__main__":
    main()
