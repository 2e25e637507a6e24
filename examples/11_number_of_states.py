"""How many states?  Four criteria on data whose number of states is known, right model and wrong.

A chain of three states gives each step a number from its state's distribution.  If that is a Gaussian, the models tried
contain the truth.  If it is Student's t, no Gaussian fits a state, and criteria that ask only for likelihood spend
further states on the tails (Pohle, Langrock, van Beest and Schmidt 2017).  The model is then told with intervals.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from dbn_vae import GaussianHMM, plotting, select, uncertainty

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="fewer steps and states")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the pictures")
arguments = parser.parse_args()

T, most = (400, 4) if arguments.quick else (2000, 6)
A = np.array([[0.95, 0.04, 0.01], [0.03, 0.94, 0.03], [0.01, 0.04, 0.95]])
means = np.array([-4.0, 0.0, 4.0])

rng = np.random.default_rng(0)
states = np.zeros(T, dtype=int)
for t in range(1, T):
    states[t] = rng.choice(3, p=A[states[t - 1]])
noise = {"Gaussian": rng.normal(size=T), "Student's t, 4 degrees of freedom": rng.standard_t(4, T)}

pictures = {}
for name, e in noise.items():
    X = (means[states] + e)[:, None]
    model = GaussianHMM(n_iter=200, tol=1e-3, n_init=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a choice at the edge shows in the table
        # "cv" adds five fits a row; AIC, BIC and ICL come with every criterion
        chosen = select(model, X, n_components=range(1, most + 1), criterion="cv")
    table = chosen.table
    best = {c: int(table.loc[table[c].idxmin(), "states"]) for c in ("aic", "bic", "icl")}
    best["cv"] = chosen.best.n_components
    print(f"{name}: 3 states in truth")
    print(
        "states  parameters  log p      AIC     BIC     ICL    held-out nats a step  behind the best, ± s.e."
    )
    for _, row in table.iterrows():
        behind = f"{row['cv behind']:.4f} ± {row['behind s.e.']:.4f}"
        print(
            f"{row['states']:>6}  {row['parameters']:>10}  {row['log-likelihood']:8.1f}  {row['aic']:6.0f}  "
            f"{row['bic']:6.0f}  {row['icl']:6.0f}  {row['cv']:>20.4f}  {behind:>23}"
        )
    print("chosen: " + ", ".join(f"{c} {k}" for c, k in best.items()) + "\n")
    key = "gaussian" if not pictures else "student"
    pictures[f"11_{key}.png"] = plotting.criteria(
        table["states"],
        {c: table[c] for c in ("aic", "bic", "icl")},
        chosen=best["bic"],
        ylabel=f"{name}, T = {T}",
    )

# With the right family: estimates of the three-state model, and how far off they may be.
X = (means[states] + noise["Gaussian"])[:, None]
model = GaussianHMM(3, n_iter=500, tol=1e-8, random_state=0).fit(X).sort_states()
table = uncertainty(model, X, level=0.95)
truth = {"means": means, "mean stay": 1 / (1 - A.diagonal())}
print("                state  truth  estimate  95 % interval")
for parameter, true in truth.items():
    for _, row in table[table["parameter"] == parameter].iterrows():
        interval = f"{row['lower']:6.2f} to {row['upper']:6.2f}"
        print(
            f"{parameter:<14}  {row['state']:>5}  {true[row['state']]:5.1f}  {row['estimate']:8.2f}  {interval}"
        )

for name, picture in pictures.items():
    plotting.save(picture, arguments.out / name)
print(f"\nWrote {', '.join(pictures)} to {arguments.out}.")
