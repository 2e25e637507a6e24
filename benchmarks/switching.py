"""States that only the dynamics can tell apart:  python benchmarks/switching.py

A bouncing ball (rising or falling) and a noisy oscillation of three frequencies; see dbn_vae.datasets.  Every model
is fitted without labels to N training sequences and decodes N others; its states are then named as favourably as one to
one allows (Hungarian assignment), all frames of the N sequences together.  Each seed draws new data and a new start.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from hmmlearn import hmm as hmmlearn
from tables import Rows, arguments, machine, markdown
from threadpoolctl import threadpool_limits

from dbn_vae import VAEHMM, EmissionHMM, GaussianHMM, SwitchingDMM
from dbn_vae.datasets import bouncing_ball, three_mode
from dbn_vae.evaluation import compare_states
from dbn_vae.training.dynamics import autoregression
from dbn_vae.transitions import sticky


class Case(NamedTuple):
    draw: Callable[..., tuple[np.ndarray, np.ndarray]]
    n_states: int
    n_steps: int


CASES = {
    "bouncing ball": Case(bouncing_ball, 2, 100),
    "three modes": Case(three_mode, 3, 180),
}


Fit = Callable[[Case, np.ndarray, int, bool], Any]


def theirs(case: Case, x: np.ndarray, seed: int, quick: bool) -> Any:
    return hmmlearn.GaussianHMM(case.n_states, "full", n_iter=100, random_state=seed).fit(
        x.reshape(-1, x.shape[-1]), [case.n_steps] * len(x)
    )


def ours(case: Case, x: np.ndarray, seed: int, quick: bool) -> Any:
    return GaussianHMM(case.n_states, "full", n_iter=100, random_state=seed).fit(x)


def vae_hmm(case: Case, x: np.ndarray, seed: int, quick: bool) -> Any:
    updates = {"n_updates": 50, "n_pretrain": 100} if quick else {"n_updates": 150, "n_pretrain": 200}
    return VAEHMM(case.n_states, 2, random_state=seed, **updates).fit(x)


def order(p: int) -> Fit:
    def fit(case: Case, x: np.ndarray, seed: int, quick: bool) -> Any:
        emission = autoregression(case.n_states, 1, p)
        return EmissionHMM(emission, sticky(case.n_states), random_state=seed).fit(x)

    return fit


def switching(case: Case, x: np.ndarray, seed: int, quick: bool) -> Any:
    return SwitchingDMM(case.n_states, 6, n_updates=20 if quick else 150, random_state=seed).fit(x)


def by_chance(case: Case, x: np.ndarray, seed: int, quick: bool) -> Any:
    updates = {"n_updates": 40, "n_pretrain": 100} if quick else {"n_updates": 300, "n_pretrain": 300}
    return SwitchingDMM(case.n_states, 2, init="random", batch_size=32, random_state=seed, **updates).fit(x)


MODELS: dict[str, Fit] = {
    "hmmlearn GaussianHMM": theirs,
    "GaussianHMM": ours,
    "VAEHMM": vae_hmm,
    "AR(1)-HMM": order(1),
    "AR(2)-HMM": order(2),
    "AR(4)-HMM": order(4),
    "AR(6)-HMM": order(6),
    "SwitchingDMM": switching,
    "SwitchingDMM started at random": by_chance,
}


def decoded(model: Any, x: np.ndarray) -> np.ndarray:
    if isinstance(model, hmmlearn.GaussianHMM):
        return model.predict(x.reshape(-1, x.shape[-1]), [x.shape[1]] * len(x))
    return model.predict(x)


def run(rows: Rows, case_name: str, name: str, seed: int, n: int, quick: bool) -> None:
    case = CASES[case_name]
    train, _ = case.draw(n, case.n_steps, random_state=np.random.default_rng([seed, 0]))
    test, truth = case.draw(n, case.n_steps, random_state=np.random.default_rng([seed, 1]))
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what did not converge says so in its numbers
        model = MODELS[name](case, train, seed, quick)
    seconds = time.process_time() - start
    report = compare_states(truth.reshape(-1), decoded(model, test), [case.n_steps] * n)
    rows.add(data=case_name, model=name, seed=seed, **report._asdict(), cpu_seconds=seconds)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Medians over seeds; of the accuracy also its range."""
    groups = frame.groupby(["data", "model"], sort=False)
    accuracy = groups["matched_accuracy"]
    table = pd.DataFrame(
        {
            "accuracy": accuracy.median().map("{:.3f}".format),
            "lowest to highest": [
                f"{low:.3f} to {high:.3f}" for low, high in zip(accuracy.min(), accuracy.max(), strict=True)
            ],
        }
    )
    for name in ("nmi", "ari", "boundary_f1", "effective_states"):
        table[name.replace("_", " ")] = groups[name].median().map("{:.3f}".format)
    table["CPU s a fit"] = groups["cpu_seconds"].median().map("{:.1f}".format)
    return table.reset_index()


def main() -> None:
    parser = arguments(__doc__ or "", seeds=5)
    parser.add_argument("--first-seed", type=int, default=0, help="others than 0 to 4 for choosing settings")
    parser.add_argument("--data", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sequences", type=int, default=100, help="N")
    args: argparse.Namespace = parser.parse_args()
    n, seeds = (60, 1) if args.quick else (args.sequences, args.seeds)
    torch.set_num_threads(1)
    rows = Rows(args.out)
    with threadpool_limits(1):
        for name in args.only or MODELS:
            for case in args.data:
                for seed in range(args.first_seed, args.first_seed + seeds):
                    run(rows, case, name, seed, n, args.quick)
    print("\n" + markdown(summary(rows.frame())))
    print(f"\n{seeds} seeds, {n} sequences to fit and {n} to decode; medians; {machine()}")


if __name__ == "__main__":
    main()
