"""How many kinds of year are there for earthquakes?  Poisson HMMs against published fits.

The counts of major earthquakes (magnitude 7 or more) from 1900 to 2006 spread more than one Poisson distribution can:
their variance is some two and a half times their mean.  A Poisson HMM lets the rate jump between a few values.

Source of the data and of the published numbers: Zucchini and MacDonald (2009), Hidden Markov Models for Time Series.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from dbn_vae import PoissonHMM, plotting
from dbn_vae.datasets import load_earthquakes

PUBLISHED = {1: 391.9189, 2: 341.8787, 3: 328.5275}  # −log L, maximum likelihood with a free start

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="no difference here: it is quick anyway")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the picture")
arguments = parser.parse_args()

try:
    years, counts = load_earthquakes()
except FileNotFoundError as error:
    print(
        "This example needs earthquakes.csv, which does not come with the package: 107 rows with the columns\n"
        "year and count. data/README.md says where to get it. Put it into a folder and name that folder in the\n"
        f"environment variable DBN_VAE_DATA, then run again.\n\n{error}"
    )
    sys.exit(0)

X = counts[:, None]  # one sequence of 107 frames with one entry each
print(f"{len(X)} years, {counts.mean():.1f} earthquakes a year on average, variance {counts.var():.1f}\n")

# n_init starts guard against poor local maxima; a small tol lets EM run until nothing moves in the digits we print.
models = {k: PoissonHMM(k, n_iter=1000, tol=1e-8, n_init=8, random_state=0).fit(X) for k in PUBLISHED}

print("states  −log L     published  AIC     BIC     rates")
for k, model in models.items():
    rates = ", ".join(f"{rate:.2f}" for rate in np.sort(model.lambdas_[:, 0]))
    print(
        f"{k:>6}  {-model.score(X):.4f}   {PUBLISHED[k]:.4f}   "
        f"{model.aic(X):.2f}  {model.bic(X):.2f}  {rates}"
    )

best = min(models, key=lambda k: models[k].bic(X))
print(
    f"\nBy BIC {best} states are enough; AIC, which punishes parameters less, prefers "
    f"{min(models, key=lambda k: models[k].aic(X))}."
)

# Number the states by their rate, so that 0 is the quietest whatever start EM came from.
model = models[3]
rank = np.argsort(np.argsort(model.lambdas_[:, 0]))
states = rank[model.predict(X)]
for k in range(3):
    spans = years[states == k]
    print(
        f"state {k}: {len(spans)} years, {counts[states == k].mean():.1f} earthquakes a year, e.g. {spans[0]}"
    )

dates = years.astype(str).astype("datetime64[Y]")
picture = plotting.series_by_state(dates, counts, states, ylabel="major earthquakes a year")
plotting.save(picture, arguments.out / "02_earthquakes.png")
print(f"\nWrote {arguments.out / '02_earthquakes.png'}.")
