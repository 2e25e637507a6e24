"""Calm and wild days of a share: a Gaussian HMM, its states, how long they last, and what they mean.

The data are Google's first 1,046 trading days: log-return, log high-low range and change of log-volume.  A Gaussian HMM
cuts them into regimes that no one has labelled.  How many there are is a question of prediction: models with more
states are judged on blocks of days that none of them saw.
"""

import argparse
from pathlib import Path

import numpy as np

from dbn_vae import GaussianHMM, compare, plotting
from dbn_vae.datasets import load_goog

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="fewer numbers of states")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the pictures")
arguments = parser.parse_args()

days = load_goog()
X = days.features
print(f"{len(X)} days from {days.dates[0]} to {days.dates[-1]}: {', '.join(days.names)}\n")

sizes = (1, 2, 3) if arguments.quick else (1, 2, 3, 4, 5, 6)


def hmm(n_states: int) -> GaussianHMM:
    return GaussianHMM(n_states, "full", n_iter=200, tol=1e-3, n_init=8, random_state=0)


# Every third block of 35 days is held out. Differences between models are taken block by block, since what one block
# differs from the next is far more than what one model differs from the next.
table = compare([hmm(k) for k in sizes], X, block=35, hmmlearn=False)
print("states  held-out nats a day  more than 1 state, ± s.e.  parameters")
for _, row in table.sort_values("states").iterrows():
    gain = f"{row['gain']:+.3f} ± {row['gain s.e.']:.3f}"
    print(f"{row['states']:>6}  {row['per frame']:>19.3f}  {gain:>25}  {row['parameters']:>10}")

chosen = 3
model = hmm(chosen).fit(X)
print(
    f"\nThree states, fitted to all days ({model.monitor_.iter} updates, "
    f"{'converged' if model.monitor_.converged else 'stopped at the cap'}), calmest first:"
)

order = np.argsort(model.means_[:, 1])  # by mean log range, the measure of a day's turmoil
rank = np.argsort(order)
states = rank[model.predict(X)]
share = model.get_stationary_distribution()[order]
# The time a chain stays in state k is geometric with mean 1 / (1 − A_kk).
stay = 1 / (1 - model.transmat_.diagonal()[order])
returns = 100 * X[:, 0]
for k in range(chosen):
    here = returns[states == k]
    print(
        f"state {k}: mean stay {stay[k]:5.1f} days, {100 * share[k]:2.0f} % of the time, "
        f"return {here.mean():+.2f} % ± {here.std():.2f} % a day"
    )

pictures = {
    "03_states.png": plotting.series_by_state(days.dates, days.price, states, ylabel="price (USD)"),
    "03_probabilities.png": plotting.gammas(days.dates, model.predict_proba(X)[:, order]),
}
for name, picture in pictures.items():
    plotting.save(picture, arguments.out / name)
print(f"\nWrote {', '.join(pictures)} to {arguments.out}.")
