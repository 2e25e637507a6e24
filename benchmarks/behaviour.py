"""Exercises found in motion capture:  DBN_VAE_DATA=<folder of mocap6.npz> python benchmarks/behaviour.py

Six recordings, twelve channels, twelve exercises (Fox et al. 2014), every channel standardised over all six.  As in
the literature the models are fitted to all six recordings without labels and decode the same six; K = 12.  Seeds are
starts.

"Windows of n" are models of other frames: of every channel the mean and the logarithm of 0.1 + the standard deviation
over the n frames around the moment, n / 10 seconds.  They know the near future, as every decoding of a whole recording
does.

The second table has labels on a tenth of the frames, drawn at random with the seed; measured are the other frames,
decoded without any label, and under their own names: nothing is matched.  Two rules that know nothing of time series
stand beside: a logistic regression on the labelled frames, and the label of the labelled frame that is nearest in time,
which needs the labels of the very recording it is asked about.
"""

import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from hmmlearn import hmm as hmmlearn
from sklearn.linear_model import LogisticRegression
from tables import Rows, arguments, machine, markdown
from threadpoolctl import threadpool_limits

from dbn_vae import HSMM, VAEHMM, EmissionHMM, GaussianHMM, SwitchingDMM
from dbn_vae.datasets import load_mocap6
from dbn_vae.emissions import DiagonalGaussian
from dbn_vae.evaluation import compare_states
from dbn_vae.training.dynamics import autoregression
from dbn_vae.transitions import sticky

K = 12
LABELLED = 0.1

Build = Callable[[int, bool], Any]  # of seed and quick: an estimator


def hsmm(seed: int, quick: bool) -> HSMM:
    zero, one = torch.zeros(K, 12, dtype=torch.float64), torch.ones(K, 12, dtype=torch.float64)
    emission = DiagonalGaussian(zero, one, floor=torch.full((12,), 1e-2, dtype=torch.float64))
    effort = {"n_init": 1, "n_iter": 5} if quick else {"n_init": 4}
    return HSMM(emission, "negative_binomial", max_duration=100, random_state=seed, **effort)


def vae_hmm(seed: int, quick: bool, **options: Any) -> VAEHMM:
    updates = {"n_updates": 5, "n_pretrain": 50} if quick else {"n_updates": 300}
    return VAEHMM(K, 4, random_state=seed, **(updates | options))


def switching(seed: int, quick: bool) -> SwitchingDMM:
    updates = {"n_updates": 5, "n_pretrain": 50} if quick else {"n_updates": 100}
    return SwitchingDMM(K, 12, random_state=seed, **updates)


def autoregressive(seed: int, quick: bool) -> EmissionHMM:
    return EmissionHMM(autoregression(K, 12, 1), sticky(K), random_state=seed)


def gaussian(kind: str, **options: Any) -> Build:
    return lambda seed, _: GaussianHMM(K, kind, n_iter=100, random_state=seed, **options)


def theirs(seed: int, quick: bool) -> hmmlearn.GaussianHMM:
    return hmmlearn.GaussianHMM(K, "diag", n_iter=100, random_state=seed)


MODELS: dict[str, tuple[Build, int]] = {  # and the frames of a window
    "hmmlearn GaussianHMM, diagonal": (theirs, 1),
    "GaussianHMM, diagonal": (gaussian("diag"), 1),
    "GaussianHMM, diagonal, 100 pseudo-counts of staying": (
        gaussian("diag", transmat_prior=1 + 100 * np.eye(K)),
        1,
    ),
    "GaussianHMM, tied": (gaussian("tied"), 1),
    "AR(1)-HMM": (autoregressive, 1),
    "HSMM, negative binomial": (hsmm, 1),
    "VAEHMM": (vae_hmm, 1),
    "VAEHMM, label_weight 100": (partial(vae_hmm, label_weight=100), 1),
    "SwitchingDMM": (switching, 1),
    "hmmlearn GaussianHMM, windows of 11": (theirs, 11),
    "GaussianHMM, windows of 11": (gaussian("diag"), 11),
    "GaussianHMM, windows of 21": (gaussian("diag"), 21),
    "VAEHMM, windows of 11": (vae_hmm, 11),
}


def data() -> dict[str, Any]:
    recordings = load_mocap6()
    x = np.concatenate(recordings.x)
    return {
        "x": (x - x.mean(0)) / x.std(0),
        "labels": np.concatenate(recordings.labels),
        "lengths": np.array([len(r) for r in recordings.x]),
    }


def windows(x: np.ndarray, lengths: np.ndarray, n: int) -> np.ndarray:
    """(N, 2 D): mean and log(0.1 + standard deviation) over n frames, the ends repeated; x itself for n = 1."""
    if n == 1:
        return x
    out = []
    for recording in np.split(x, np.cumsum(lengths)[:-1]):
        padded = np.pad(recording, ((n // 2, n // 2), (0, 0)), mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(padded, n, axis=0)
        out.append(np.concatenate([around.mean(-1), np.log(0.1 + around.std(-1))], 1))
    return np.concatenate(out)


def fitted(model: Any, x: np.ndarray, lengths: np.ndarray, labels: np.ndarray | None = None) -> Any:
    known = {} if labels is None else {"labels": labels}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what did not converge says so in its numbers
        return model.fit(x, lengths=lengths, **known)


def unsupervised(rows: Rows, name: str, seed: int, quick: bool) -> None:
    given = data()
    build, window = MODELS[name]
    x = windows(given["x"], given["lengths"], window)
    start = time.process_time()
    model = fitted(build(seed, quick), x, given["lengths"])
    seconds = time.process_time() - start
    report = compare_states(given["labels"], model.predict(x, given["lengths"]), given["lengths"])
    rows.add(table="no labels", model=name, seed=seed, **report._asdict(), cpu_seconds=seconds)


def semi_supervised(rows: Rows, name: str, seed: int, quick: bool) -> None:
    given = data()
    truth, lengths = given["labels"], given["lengths"]
    labels = partly(truth, seed)
    start = time.process_time()
    if name in RULES:
        states = RULES[name](given["x"], labels, lengths)
    else:
        build, window = MODELS[name]
        x = windows(given["x"], lengths, window)
        states = fitted(build(seed, quick), x, lengths, labels).predict(x, lengths)
    seconds = time.process_time() - start
    asked = labels < 0
    rows.add(
        table="a tenth of the labels",
        model=name,
        seed=seed,
        accuracy=float(np.mean(states[asked] == truth[asked])),
        cpu_seconds=seconds,
    )


def partly(truth: np.ndarray, seed: int) -> np.ndarray:
    """The labels of a tenth of the frames, −1 elsewhere; every exercise keeps at least one."""
    rng = np.random.default_rng([seed, LABELLED_STREAM])
    kept = rng.random(len(truth)) < LABELLED
    for k in range(K):
        kept[rng.choice(np.flatnonzero(truth == k))] = True
    return np.where(kept, truth, -1)


LABELLED_STREAM = 7  # keeps the drawing of labels apart from the models' own seeds


def by_frame(x: np.ndarray, labels: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    known = labels >= 0
    return LogisticRegression(max_iter=2000).fit(x[known], labels[known]).predict(x)


def by_window(x: np.ndarray, labels: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return by_frame(windows(x, lengths, 11), labels, lengths)


def by_neighbour(x: np.ndarray, labels: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    out = []
    for y in np.split(labels, np.cumsum(lengths)[:-1]):
        known = np.flatnonzero(y >= 0)
        out.append(y[known[np.abs(np.arange(len(y))[:, None] - known).argmin(1)]])
    return np.concatenate(out)


RULES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "logistic regression of single frames": by_frame,
    "logistic regression of windows of 11": by_window,
    "nearest labelled frame in time": by_neighbour,
}


def summary(frame: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Medians over seeds; of the first measure also its range."""
    groups = frame.groupby("model", sort=False)
    first = groups[measures[0]]
    table = pd.DataFrame(
        {
            measures[0].replace("_", " "): first.median().map("{:.3f}".format),
            "lowest to highest": [
                f"{low:.3f} to {high:.3f}" for low, high in zip(first.min(), first.max(), strict=True)
            ],
            "seeds": first.count(),
        }
    )
    for name in measures[1:]:
        table[name.replace("_", " ")] = groups[name].median().map("{:.3f}".format)
    table["CPU s a fit"] = groups["cpu_seconds"].median().map("{:.1f}".format)
    return table.reset_index()


def main() -> None:
    args = arguments(__doc__ or "", seeds=10).parse_args()
    logging.disable(logging.WARNING)  # hmmlearn's
    torch.set_num_threads(1)
    rows, seeds = Rows(args.out), 1 if args.quick else args.seeds
    unlabelled = [name for name in MODELS if "label_weight" not in name]
    supervised = [*RULES, *(name for name in MODELS if not name.startswith("hmmlearn"))]
    with threadpool_limits(1):
        for names, run in ((unlabelled, unsupervised), (supervised, semi_supervised)):
            for name in args.only or names:
                for seed in range(seeds if name in names else 0):
                    run(rows, name, seed, args.quick)
    frame = rows.frame()
    tables = {
        "no labels": ["matched_accuracy", "nmi", "ari", "boundary_f1", "effective_states"],
        "a tenth of the labels": ["accuracy"],
    }
    for table, measures in tables.items():
        part = frame[frame["table"] == table]
        if len(part):
            print(f"\n{table}\n\n{markdown(summary(part, measures))}")
    print(f"\nmedians over seeds; {machine()}")


if __name__ == "__main__":
    main()
