"""How far will a share move tomorrow?  One-step forecasts of a Gaussian HMM against two plain baselines.

A model is fitted to the first 700 days and then predicts each of the 346 days after, a day ahead, from all days before
it.  A forecast is a distribution and judged as one: by the log-density of what came (log score), by the distance of the
distribution from what came (CRPS, in percent of price), and by how often its 90 % interval holds.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import kstest, norm

from dbn_vae import GaussianHMM, plotting
from dbn_vae.datasets import load_goog
from dbn_vae.evaluation import crps, log_score, pit
from dbn_vae.evaluation.forecasting import crps_gaussian_mixture

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="fewer starts of EM")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the picture")
arguments = parser.parse_args()

days = load_goog()
X = 100 * days.features[:, :1]  # log-returns in percent
TRAIN, WINDOW = 700, 60
new = slice(TRAIN, None)
y = X[new, 0]


def row(name: str, log_scores: np.ndarray, distance: np.ndarray, u: np.ndarray, against: np.ndarray) -> None:
    """Means over the new days; a gain with the standard error of its mean; and whether the PIT looks uniform."""
    gain = log_scores - against
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    inside = ((u > 0.05) & (u < 0.95)).mean()
    print(
        f"{name:<28} {log_scores.mean():>9.3f}  {gain.mean():+.3f} ± {error:.3f}  {distance.mean():>6.3f}  "
        f"{100 * inside:>7.1f} %  {kstest(u, 'uniform').pvalue:>7.3f}"
    )


# Baselines: the Gaussian of the training days for ever, and the Gaussian of the last 60 days, moving along.
window = np.stack([X[t - WINDOW : t, 0] for t in range(TRAIN, len(X))])
constant = np.full(len(y), X[:TRAIN].mean()), np.full(len(y), X[:TRAIN].std())
moving = window.mean(1), window.std(1, ddof=1)
reference = norm.logpdf(y, *constant)

print(f"{len(y)} days from {days.dates[TRAIN]}, each predicted from all before it\n")
print("forecast                     log score  gain ± s.e.     CRPS  90 % interval  PIT p-value")
for name, (mean, scale) in {"constant Gaussian": constant, f"Gaussian of {WINDOW} days": moving}.items():
    distance = crps_gaussian_mixture(y, np.ones(1), mean[:, None], scale[:, None])
    row(name, norm.logpdf(y, mean, scale), distance, norm.cdf(y, mean, scale), reference)
models = {
    k: GaussianHMM(k, n_iter=300, tol=1e-3, n_init=2 if arguments.quick else 8, random_state=0).fit(X[:TRAIN])
    for k in (2, 3, 4)
}
for k, model in models.items():
    row(
        f"HMM, {k} states", log_score(model, X)[new], crps(model, X)[new, 0], pit(model, X)[new, 0], reference
    )

# The width of the forecast is what changes from day to day: the states differ in their variance.
model, last = models[3], X[: TRAIN + 200]
forecast = model.forecast(last, horizon=20)
print(f"\nAfter {days.dates[len(last) - 1]}, standard deviation of the return, by days ahead (3 states):")
print("  ".join(f"{h}: {np.sqrt(forecast.variance[0, h - 1, 0]):.2f} %" for h in (1, 2, 5, 10, 20)))

# Every prefix of the series is a sequence of its own: one call forecasts the day after each.
bands = model.forecast([X[:t] for t in range(TRAIN, len(X))]).quantiles[:, :, 0, 0]
figure, axes = plotting.canvas(9, 3.2)
axes.fill_between(days.dates[new], bands[:, 0], bands[:, 2], color="0.8", label="90 % interval, a day ahead")
axes.plot(days.dates[new], y, ".", ms=3, color="tab:blue", label="what came")
axes.set_ylabel("return (%)")
axes.legend(loc="upper left", frameon=False, ncols=2)
plotting.save(figure, arguments.out / "07_forecast.png")
print(f"\nWrote 07_forecast.png to {arguments.out}.")
