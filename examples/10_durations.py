"""How long does a state last?  Stays with a typical length, against the geometric stays of an HMM.

A machine runs through three modes whose frames overlap; a mode lasts 7 to 11, 3 to 5 or 14 to 20 steps.  An HMM can say
how long a mode lasts on average, but its likeliest stay is always one step.  A hidden semi-Markov model (Yu 2010)
learns the whole distribution, and where single frames are ambiguous the length of a stay tells the modes apart.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from dbn_vae import HSMM, GaussianHMM, plotting
from dbn_vae.emissions import DiagonalGaussian
from dbn_vae.evaluation import matched_accuracy

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="fewer sequences")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the picture")
arguments = parser.parse_args()

SHORTEST, LONGEST, LEVELS = np.array([7, 3, 14]), np.array([11, 5, 20]), np.array([-1.0, 0.0, 1.0])


def machine(n: int, T: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (n, T, 1) and modes (n, T) of n runs, each cut off after T steps."""
    rng = np.random.default_rng(seed)
    modes = np.zeros((n, T), int)
    for run in modes:
        t, k = 0, rng.integers(3)
        while t < T:
            d = rng.integers(SHORTEST[k], LONGEST[k] + 1)
            run[t : t + d] = k
            t, k = t + d, (k + rng.integers(1, 3)) % 3  # any other mode
    return rng.normal(LEVELS[modes], 0.8)[..., None], modes


X, _ = machine(10 if arguments.quick else 60, 100, seed=0)
test, modes = machine(20, 100, seed=1)  # nobody fits these

emission = DiagonalGaussian(torch.zeros(3, 1).double(), torch.ones(3, 1).double())  # values are found by fit
models = {
    "HMM": GaussianHMM(3, n_iter=300, tol=1e-3, random_state=0),
    "HSMM, geometric": HSMM(emission, "geometric", max_duration=30, random_state=0),
    "HSMM, poisson": HSMM(emission, "poisson", max_duration=30, random_state=0),
    "HSMM, free": HSMM(emission, "categorical", max_duration=30, random_state=0),
}
print("held out           nats/frame  gain     states right  parameters")
reference = None
for name, model in models.items():
    model.fit(X)
    score = model.evaluate(test).per_frame
    reference = score if reference is None else reference
    right = matched_accuracy(modes.ravel(), model.predict(test))
    print(f"{name:<18} {score:.4f}     {score - reference:+.4f}  {right:.3f}         {model.n_parameters()}")

free = models["HSMM, free"]
order = np.argsort(free.emission_.mean.detach().numpy()[:, 0])  # number the modes by their level
print("\nmean stay, true and learned:", (SHORTEST + LONGEST) / 2, free.mean_durations_[order].round(1))

figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), sharey=True, layout="constrained")
steps = np.arange(1, 31)
for k, axis in enumerate(axes):
    true = ((steps >= SHORTEST[k]) & (steps <= LONGEST[k])) / (LONGEST[k] - SHORTEST[k] + 1)
    axis.bar(steps, free.durations_[order[k]], label="learned")
    axis.step(steps, true, where="mid", color="black", label="true")
    axis.set(title=f"mode {k}", xlabel="steps")
axes[0].set_ylabel("probability of a stay")
axes[0].legend()
plotting.save(figure, arguments.out / "10_durations.png")
print(f"\nWrote {arguments.out / '10_durations.png'}.")
