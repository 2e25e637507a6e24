"""A weather HMM with given parameters: forward, Viterbi and the posterior by hand-checkable numbers.

A friend lives far away and says each day only what he did: walk (0), shop (1) or clean (2).  Whether it rained
(state 0) or was sunny (state 1) is hidden.  With everything known but the weather, three questions have exact answers:

    how probable is what he said?       Σ over all paths of p(s, x)        forward
    which weather explains it best?     the path with the largest p(s, x)  Viterbi
    what was the weather on day t?      p(s_t | all he said)               forward-backward

The example is the one of Wikipedia's article on the Viterbi algorithm; with three days there are only eight paths,
so every number below can be had by adding up products.
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np

from dbn_vae import CategoricalHMM, plotting

DID = ("walk", "shop", "clean")
WEATHER = ("rainy", "sunny")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="no difference here: it is quick anyway")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the picture")
arguments = parser.parse_args()

# The attributes of a fitted model are plain arrays. Set them by hand, and every verb works without a fit.
model = CategoricalHMM(n_components=2)
model.startprob_ = np.array([0.6, 0.4])
model.transmat_ = np.array([[0.7, 0.3], [0.4, 0.6]])
model.emissionprob_ = np.array([[0.1, 0.4, 0.5], [0.6, 0.3, 0.1]])

X = np.array([[0], [1], [2]])  # walk, shop, clean: three frames of one column
print("He said:", ", ".join(DID[i] for i in X[:, 0]))

# Forward. score is a log-probability in nats.
probability = np.exp(model.score(X))
print(f"\nProbability of that: {probability:.6f} (published: 0.033612)")

# The same by adding up all eight paths: what the forward recursion saves us.
paths = [np.array(path) for path in product(range(2), repeat=3)]


def joint(path: np.ndarray) -> float:
    """p(path, x)."""
    moves = model.transmat_[path[:-1], path[1:]].prod()
    return float(model.startprob_[path[0]] * moves * model.emissionprob_[path, X[:, 0]].prod())


print(f"Sum over {len(paths)} paths:   {sum(map(joint, paths)):.6f}")

# Viterbi. decode gives log p(path, x) and the path.
log_joint, states = model.decode(X)
print(
    f"\nBest path: {','.join(map(str, states))} (published: 1,0,0), that is "
    f"{', '.join(WEATHER[k] for k in states)}; its joint probability {np.exp(log_joint):.5f} (published: 0.01344)"
)

# Forward-backward looks at the whole sequence, filter only at the days so far.
smoothed, filtered = model.predict_proba(X), model.filter(X)
print("\nday  did    p(rainy | days so far)  p(rainy | all days)")
for t, (f, s) in enumerate(zip(filtered[:, 0], smoothed[:, 0], strict=True)):
    print(f"{t + 1:>3}  {DID[X[t, 0]]:<5}  {f:>22.4f}  {s:>19.4f}")
print("(published, all days: 0.2317, 0.6241, 0.8640)")

plotting.save(plotting.transition_matrix(model.transmat_, WEATHER), arguments.out / "01_weather.png")
print(f"\nWrote {arguments.out / '01_weather.png'}.")
