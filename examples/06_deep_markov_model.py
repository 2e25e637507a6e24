"""A deep Markov model of a noisy oscillator: held-out bound beside Gaussian HMMs, and a gap filled in.

The van der Pol oscillator runs slowly along one side of its cycle and jumps to the other.  We see its position and
speed at 60 instants with noise of standard deviation 0.3.  An HMM must cut the cycle into discrete states.  A deep
Markov model has a continuous latent that moves by a learned gated transition (Krishnan, Shalit and Sontag 2017),

    p(z, x) = p(z_1) Π p(z_t | z_{t-1}) Π p(x_t | z_t),

and its score is a lower bound of log p(x), the HMM's the exact number: where the bound is higher, the deep model is
better.
"""

import argparse
from pathlib import Path

import numpy as np

from dbn_vae import DeepMarkovModel, GaussianHMM, plotting

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="fewer paths, gradient steps and samples")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the picture")
arguments = parser.parse_args()


def oscillators(n: int, n_steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True and seen paths (n, T, 2) of x'' = 1.5 (1 − x²) x' − x, after the start has been forgotten."""
    rng = np.random.default_rng(seed)
    y = rng.normal(0, 1.5, (n, 2))
    path = []
    for _ in range(60 + n_steps):
        for _ in range(5):
            x, v = y.T
            y = y + 0.04 * np.stack([v, 1.5 * (1 - x**2) * v - x], 1) + 0.02 * rng.normal(size=y.shape)
        path.append(y)
    true = np.stack(path[60:], 1)
    return true, true + 0.3 * rng.normal(size=true.shape)


_, train = oscillators(40 if arguments.quick else 100, 60, seed=0)
true, test = oscillators(20, 60, seed=1)

# Half of the training paths have a gap, so that the recognition network meets gaps before it is asked to fill one.
rng = np.random.default_rng(2)
for path in train[::2]:
    start = rng.integers(5, 43)
    path[start : start + 12] = np.nan
gap = slice(24, 36)
gappy = test.copy()
gappy[:, gap] = np.nan

dmm = DeepMarkovModel(
    2, n_updates=50 if arguments.quick else 600, n_pretrain=100, warm_up=50,
    batch_size=32, learning_rate=1e-2, n_samples=20 if arguments.quick else 100, random_state=0,
)  # fmt: skip
models = {
    f"GaussianHMM, {k} states": GaussianHMM(k, "full", n_iter=50, n_init=1, random_state=0) for k in (2, 8)
}
models["DeepMarkovModel, 2 latents"] = dmm

print("model                       nats a frame   s.e.  error in the gap  kind of number")
filled = {}
for name, model in models.items():
    score = model.fit(train).evaluate(test)
    if isinstance(model, DeepMarkovModel):
        fill = model.reconstruct(gappy)  # E p(x_t | z_t) at the latents inferred from what was seen
    else:
        fill = model.predict_proba(gappy) @ model.means_  # E[x_t | what was seen], state by state
    filled[name] = fill.reshape(test.shape)
    error = np.sqrt(np.mean((filled[name] - true)[:, gap] ** 2))
    print(f"{name:<26}  {score.per_frame:>12.3f}  {score.standard_error:>5.3f}  {error:>16.3f}  {score.kind}")

inside = [np.interp(range(24, 36), [23, 36], path[[23, 36]]) for paths in gappy for path in paths.T]
error = np.sqrt(np.mean((np.stack(inside).reshape(20, 2, 12).swapaxes(1, 2) - true[:, gap]) ** 2))
print(f"{'a straight line':<48}  {error:>16.3f}  (root mean square error; the noise alone is 0.3)")

name, t = "DeepMarkovModel, 2 latents", np.arange(60)
figure, axes = plotting.canvas(9.0, 3.2)
axes.axvspan(23.5, 35.5, color=plotting.SHADE, alpha=0.22, linewidth=0, label="not shown to the model")
axes.plot(t, true[0, :, 0], color="black", linewidth=1, label="truth")
axes.plot(t, gappy[0, :, 0], ".", color=plotting.SHADE, label="seen")
for k, (other, fill) in enumerate(filled.items()):
    if k:
        axes.plot(t, fill[0, :, 0], color=plotting.state_colour(k - 1), linewidth=1.6, label=other)
axes.set_xlabel("time step")
axes.set_ylabel("position")
plotting.legend_beside(axes)
plotting.save(figure, arguments.out / "06_gap.png")
print(f"\nWrote {arguments.out / '06_gap.png'}.")
