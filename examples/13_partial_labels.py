"""How many labels does an HMM need?  The same model with none, a few and all states known, judged on held-out data.

Labels are evidence: a step labelled j has probability 0 in every other state, and a step without a label is summed
out.  With no label at all that is unsupervised learning, whose states have no names; with every step labelled EM
counts, which is supervised learning.  In between the unlabelled steps go on teaching, and a few labels give the states
their names, and tell apart what the data alone do not.
"""

import argparse
from pathlib import Path

import numpy as np

from dbn_vae import GaussianHMM, plotting
from dbn_vae.evaluation.states import match_states

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="two data sets instead of ten")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the picture")
arguments = parser.parse_args()

SHARES = (0.0, 0.01, 0.05, 1.0)
K, TRAIN, TEST, LENGTH = 3, 5, 20, 80
# States 0 and 1 have one mean and differ in spread alone; k-means, which starts EM, does not see that.
MEANS = np.array([[0.0, 0.0], [0.0, 0.0], [1.5, 1.5]])
SCALES = np.array([0.8, 1.6, 1.0])
TRANSMAT = np.array([[0.94, 0.03, 0.03], [0.03, 0.94, 0.03], [0.03, 0.03, 0.94]])


def generate(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """n sequences: X (n · LENGTH, 2) and the states that gave it."""
    states = np.empty((n, LENGTH), dtype=np.int64)
    for row in states:
        row[0] = rng.integers(K)
        for t in range(1, LENGTH):
            row[t] = rng.choice(K, p=TRANSMAT[row[t - 1]])
    s = states.ravel()
    return MEANS[s] + SCALES[s, None] * rng.normal(size=(len(s), 2)), s


def accuracy(true: np.ndarray, found: np.ndarray) -> float:
    return float((true == found).mean())


repeats = 2 if arguments.quick else 10
named, matched = np.zeros((2, len(SHARES), repeats))
counted = np.zeros(repeats)
for r in range(repeats):
    rng = np.random.default_rng(r)
    (X, states), (unseen, truth) = generate(rng, TRAIN), generate(rng, TEST)
    lengths, held_out = [LENGTH] * TRAIN, [LENGTH] * TEST
    for i, share in enumerate(SHARES):
        labels = np.where(rng.random(len(X)) < share, states, -1)
        model = GaussianHMM(K, n_iter=1000, tol=1e-3, covars_prior=0.0, random_state=r)
        found = model.fit(X, lengths, labels=labels).predict(unseen, held_out)
        named[i, r] = accuracy(truth, found)
        matched[i, r] = accuracy(truth, match_states(truth, found)[found])
    # Supervised learning by hand: count starts and moves, average the frames of each state.
    count = GaussianHMM(K)
    paths = states.reshape(TRAIN, LENGTH)
    moves = np.zeros((K, K))
    np.add.at(moves, (paths[:, :-1], paths[:, 1:]), 1)
    count.startprob_ = np.bincount(paths[:, 0], minlength=K) / TRAIN
    count.transmat_ = moves / moves.sum(1, keepdims=True)
    count.means_ = np.array([X[states == k].mean(0) for k in range(K)])
    count.covars_ = np.array([X[states == k].var(0) for k in range(K)])
    counted[r] = accuracy(truth, count.predict(unseen, held_out))

print(f"held-out frames whose state is right, mean of {repeats} data sets\n")
print("labels                 as named   names matched to the truth")
for share, a, b in zip(SHARES, named.mean(1), matched.mean(1), strict=True):
    print(f"{f'{share:.0%} of {TRAIN * LENGTH} frames':<21}  {a:>8.3f}   {b:>8.3f}")
print(f"{'counting by hand':<21}  {counted.mean():>8.3f}")
print(
    "\nA hundredth is four frames or so: not every state gets its name. Five times that is nearly supervised."
)
picture = plotting.transition_matrix(count.transmat_)
plotting.save(picture, arguments.out / "13_partial_labels.png")
print(f"\nWrote {arguments.out / '13_partial_labels.png'}.")
