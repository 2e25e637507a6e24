"""From hmmlearn with one import changed: the same script run with both, and their numbers side by side.

Names, arguments, shapes and fitted attributes are hmmlearn's.  From the same start and without a prior both climb the
same hill by the same steps.  Left to themselves they differ on purpose: here four starts are tried, and a floor holds
variances (see docs/guide/from_hmmlearn.md for the whole table).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from hmmlearn import hmm as theirs

import dbn_vae as ours
from dbn_vae import from_hmmlearn, plotting, to_hmmlearn

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="no difference here: it is quick anyway")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the picture")
arguments = parser.parse_args()

TRANSMAT = np.array([[0.95, 0.05, 0.0], [0.0, 0.9, 0.1], [0.1, 0.0, 0.9]])
rng = np.random.default_rng(0)
lengths = [120, 80, 100]
states: list[int] = []
for n in lengths:
    states.append(0)
    for _ in range(n - 1):
        states.append(int(rng.choice(3, p=TRANSMAT[states[-1]])))
CENTRES = np.array([[0.0, 0.0], [3.0, 1.0], [0.0, 4.0]])
X = CENTRES[states] + rng.normal(size=(sum(lengths), 2))


def script(hmm: Any) -> Any:
    """What a user of hmmlearn has written; hmm is hmmlearn.hmm, or dbn_vae."""
    model = hmm.GaussianHMM(3, covariance_type="full", n_iter=60, tol=1e-9, covars_prior=0.0, init_params="")
    model.startprob_ = np.full(3, 1 / 3)
    model.transmat_ = np.full((3, 3), 0.05) + 0.85 * np.eye(3)
    model.means_ = X[[10, 150, 250]]
    model.covars_ = np.stack([2 * np.eye(2)] * 3)
    return model.fit(X, lengths)


a, b = script(theirs), script(ours)
print(f"{'from the same start':<32}  {'hmmlearn':>12}  {'dbn_vae':>12}")
steps = zip(a.monitor_.history, b.monitor_.history, strict=False)
for i, (x, y) in enumerate(list(steps)[:5]):
    print(f"{f'log-likelihood, update {i}':<32}  {x:>12.6f}  {y:>12.6f}")
print(f"{'score of the fitted model':<32}  {a.score(X, lengths):>12.6f}  {b.score(X, lengths):>12.6f}")
print(f"{'log p of the best path':<32}  {a.decode(X, lengths)[0]:>12.6f}  {b.decode(X, lengths)[0]:>12.6f}")
for k in range(3):
    print(f"{f'mean of state {k}, first column':<32}  {a.means_[k, 0]:>12.6f}  {b.means_[k, 0]:>12.6f}")
names = ("startprob_", "transmat_", "means_", "covars_")
largest = max(float(np.abs(getattr(a, name) - getattr(b, name)).max()) for name in names)
print(f"largest difference of any parameter: {largest:.0e}")

# A fitted model goes over, and back, with its parameters as they are.
moved = from_hmmlearn(a)
back = to_hmmlearn(moved)
print(f"\nmoved over: score {moved.score(X, lengths):.6f}; back: {back.score(X, lengths):.6f}")

# What differs when nothing is said: how EM starts, how often, and what X may hold.
print("\nby their own defaults, five seeds (hmmlearn: one start; dbn_vae: the best of four):")
for name, hmm in (("hmmlearn", theirs), ("dbn_vae", ours)):
    fits = [hmm.GaussianHMM(3, "full", n_iter=60, random_state=seed).fit(X, lengths) for seed in range(5)]
    scores = [model.score(X, lengths) for model in fits]
    print(f"  {name}: log-likelihood from {min(scores):.2f} to {max(scores):.2f}")
holes = np.where(rng.random(X.shape) < 0.1, np.nan, X)
print("with a tenth of X missing:")
for name, model in (("hmmlearn", a), ("dbn_vae", b)):
    try:
        print(f"  {name}: log-likelihood {model.fit(holes, lengths).score(holes, lengths):.2f}")
    except ValueError as error:
        print(f"  {name}: {type(error).__name__}, {str(error).splitlines()[0]}")

plotting.save(plotting.transition_matrix(b.transmat_), arguments.out / "12_from_hmmlearn.png")
print(f"\nWrote {arguments.out / '12_from_hmmlearn.png'}.")
