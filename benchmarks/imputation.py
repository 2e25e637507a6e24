"""Filling in failed sensors and forecasting, on the office of Candanedo and Feldheim:  python benchmarks/imputation.py

Five sensors once a minute, two weeks cut into half-days.  Models are fitted to half of these with a fifth of their
entries removed, chosen on others, with holes too, and tested on every third, from which entries are removed in two
ways: at random, and a sensor for an hour.  Scored are the removed entries alone: root mean squared error in standard
deviations of the training half-days, and the negative log-density of all of them together given all that was left, per
removed entry.  That is log p(left) − log p(whole), exact for HMMs and a difference of two SMC bounds, an estimate, for
the deep models.

Then, from many moments of the test, the ten minutes to come given the last thirty: RMSE, CRPS and how often central
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

SHARE, HOUR, PAST, HORIZON = 0.2, 60, 30, 10


class Size(NamedTuple):
    """How much of everything."""

    frames: int = 17895  # of the two stretches one after the other
    piece: int = 720
    updates: int = 1000
    particles: int = 60  # to fill in
    bound: int = 50  # particles of the bounds
    samples: int = 500  # of a forecast
    every: int = 30  # minutes between origins of forecasts
    seeds: int = 3


QUICK = Size(2000, 250, 10, 10, 10, 100, 100, 1)


class Data(NamedTuple):
    """Half-days (T, 5) in standard deviations of the training ones."""

    train: list[np.ndarray]  # with holes
    validation: list[np.ndarray]  # with holes
    test: list[np.ndarray]
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
    stretches = [load_occupancy("train"), load_occupancy("test2")]
    whole = [s.x[: size.frames] for s in stretches]
    pieces = [p for x in whole for p in np.array_split(x, max(round(len(x) / size.piece), 1))]
    kinds: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for i, piece in enumerate(pieces):
        kinds["test" if i % 3 == 1 else "validation" if i % 6 == 0 else "train"].append(piece)
    past = np.concatenate(kinds["train"])
    scaled = {kind: [(p - past.mean(0)) / past.std(0) for p in ps] for kind, ps in kinds.items()}
    rng = np.random.default_rng(100)
    for kind in ("train", "validation"):
        for i, piece in enumerate(scaled[kind]):
            piece[list(MASKS.values())[i % 2](piece.shape, rng)] = np.nan
    return Data(scaled["train"], scaled["validation"], scaled["test"], stretches[0].names)


# -- models


def settings(size: Size) -> dict[str, dict[str, Callable[[], Any]]]:
    """Of every model what was tried; validation chooses."""
    common: dict[str, Any] = {
        "hidden": (32,), "n_updates": size.updates, "max_length": 60, "batch_size": 24, "random_state": 0,
        "n_samples": size.particles, "n_pretrain": min(1000, 5 * size.updates), "read_missing": True, "device": "cpu",
    }  # fmt: skip
    return {
        "GaussianHMM, full": {
            f"K = {K}": lambda K=K: GaussianHMM(K, "full", n_init=2, random_state=0)
            for K in (2, 3, 5, 7, 10, 20)
        },
        "VAEHMM": {
            f"K = {K}": lambda K=K: VAEHMM(K, 4, **common | {"batch_size": 16, "max_length": 200})
            for K in (5, 10)
        },
        "DeepMarkovModel": {
            f"{t}, {q}": lambda t=t, q=q: DeepMarkovModel(5, transition=t, inference=q, **common)
            for t, q in (("linear", "product-filter"), ("linear", "smoother"), ("gated", "product-filter"))
        },
        "SwitchingDMM": {
            f"K = 2, linear, {q}": lambda q=q: SwitchingDMM(2, 5, inference=q, **common)
            for q in ("product-filter", "product")
        },
    }


def bound(model: Any, X: list[np.ndarray], size: Size) -> Any:
    """The exact log-likelihood of an HMM, the SMC bound of a deep model."""
    deep = {"method": "smc", "n_samples": size.bound}
    return model.evaluate(X, **({} if isinstance(model, GaussianHMM) else deep))


def chosen(name: str, tried: dict[str, Callable[[], Any]], data: Data, size: Size) -> Any:
    """The setting with the best score a frame of the validation half-days."""
    best, highest = None, -np.inf
    for setting, make in tried.items():
        start = time.process_time()
        model = make().fit(data.train)
        score = bound(model, data.validation, size)
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


FILLS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "last value": carried,
    "line between neighbours": line,
    "mean of the column": lambda x: x.fillna(0.0),
}


def filled(models: dict[str, Any], data: Data, size: Size) -> Iterator[dict[str, Any]]:
    """Rows of results as they come."""
    whole = {name: bound(model, data.test, size) for name, model in models.items()}
    for name, score in whole.items():
        print(f"{name}: test {score.per_frame:.3f} nats a frame, {score.kind}", flush=True)
    truth = np.concatenate(data.test)
    for seed in range(size.seeds):
        for pattern, remove in MASKS.items():
            rng = np.random.default_rng(seed)
            masks = [remove(x.shape, rng) for x in data.test]
            holes = [np.where(m, np.nan, x) for m, x in zip(masks, data.test, strict=True)]
            gone = np.concatenate(masks)
            for name in [*FILLS, *models]:
                nll, start = np.nan, time.process_time()
                if name in models:
                    guess = models[name].impute(holes, **draws(models[name]))
                    took = time.process_time() - start
                    if seed == 0:  # it takes longer than filling in
                        nll = (bound(models[name], holes, size).total - whole[name].total) / gone.sum()
                else:
                    guess = np.concatenate([FILLS[name](pd.DataFrame(x)) for x in holes])
                    took = time.process_time() - start
                    if name == "mean of the column":  # with the variance of the column
                        nll = 0.5 * (np.log(2 * np.pi) + (truth[gone] ** 2).mean())
                assert np.array_equal(guess[~gone], truth[~gone])
                error = np.where(gone, guess - truth, np.nan) ** 2
                each = dict(zip(data.names, np.sqrt(np.nanmean(error, 0)), strict=True))
                row = {"removed": pattern, "method": name, "seed": seed, "RMSE": np.sqrt(np.nanmean(error))}
                yield row | {"NLL": nll, "s": took} | each


def draws(model: Any) -> dict[str, Any]:
    return {} if isinstance(model, GaussianHMM) else {"random_state": 0}


# -- forecasts


def predicted(models: dict[str, Any], data: Data, size: Size) -> Iterator[dict[str, Any]]:
    """Every method's forecasts of the same minutes, as samples (S, origins, 10, 5) and a point."""
    origins = [(x, o) for x in data.test for o in range(PAST, len(x) - HORIZON, size.every)]
    past = np.stack([x[o - PAST : o] for x, o in origins])
    truth = np.stack([x[o : o + HORIZON] for x, o in origins])
    # of the last value, errors as they were in the training half-days
    steps = range(1, HORIZON + 1)
    levels = (np.arange(size.samples) + 0.5) / size.samples
    moved = [np.concatenate([x[h:] - x[:-h] for x in data.train]) for h in steps]
    errors = np.stack([np.nanquantile(m, levels, axis=0) for m in moved], 1)
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
        hmm.GaussianHMM(2).fit(np.concatenate(data.train))
    except ValueError as refusal:
        print(f"hmmlearn: {str(refusal).splitlines()[0]}")
    tried = settings(size)
    if arguments.quick:
        tried = {name: dict(list(each.items())[:1]) for name, each in tried.items()}
    models = {name: chosen(name, each, data, size) for name, each in tried.items()}
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
