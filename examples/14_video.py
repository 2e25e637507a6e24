"""Video: bars that lie, stand or cross, in rooms that differ from film to film.

Every frame is a picture (C, H, W). The hidden state is what the bar does; its brightness changes from frame to frame,
and the light of the room from film to film. A VAE-HMM with a latent w of the whole film (`n_clip_latent`) pays for the
room once, and leaves z_t, and so the states, with the bar. Here light simply adds up, and a Gaussian HMM on principal
components finds the states as well. What the VAE-HMM has besides is a picture of a frame that was lost.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from sklearn.decomposition import PCA

from dbn_vae import VAEHMM, GaussianHMM
from dbn_vae.evaluation import matched_accuracy

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="fewer gradient steps")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the picture")
arguments = parser.parse_args()
B, T, H, W = 30, 24, 7, 9


def films(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Films (n, T, 1, H, W) and what the bar does, 0 lies, 1 stands, 2 both: (n, T)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:H, :W]
    states = np.repeat(rng.integers(3, size=(n, T // 6)), 6, axis=1)
    lies, stands = np.exp(-((y - 3) ** 2)), np.exp(-((x - 4) ** 2))
    bars = np.stack([lies, stands, np.maximum(lies, stands)])[states]
    light = rng.normal(size=(2, n, 1, 1, 1))
    room = 2 * light[0] * (x / W - 0.5) + 2 * light[1] * (y / H - 0.5)
    brightness = rng.uniform(0.7, 1.3, (n, T, 1, 1))
    return (brightness * bars + room + 0.1 * rng.normal(size=bars.shape))[:, :, None], states


X, _ = films(B, 0)
new, truth = films(20, 1)
components = PCA(4, random_state=0).fit(X.reshape(B * T, -1))
a, b = (components.transform(v.reshape(len(v) * T, -1)).reshape(len(v), T, -1) for v in (X, new))
hmm = GaussianHMM(3, "full", n_init=5, n_iter=100, random_state=0).fit(a)

steps = 100 if arguments.quick else 400
options = {
    "hidden": (8,),
    "batch_size": 4,
    "learning_rate": 1e-2,
    "n_pretrain": 3 * steps,
    "n_updates": steps,
}
model = VAEHMM(3, 2, n_clip_latent=2, validation=0.0, random_state=0, **options).fit(X)

print("share of frames whose state is what the bar does, on 20 new films (named as favourably as possible)\n")
for name, path in (
    ("GaussianHMM on 4 principal components", hmm.predict(b)),
    ("VAEHMM, 2 latents a frame, 2 a film", model.predict(new)),
):
    print(f"{name:<38} {matched_accuracy(truth.ravel(), path):.3f}")

lost = new.copy()
lost[:, 3::6] = np.nan  # in the middle of what the bar does
found = model.reconstruct(lost).reshape(new.shape)
usual = np.nanmean(lost, axis=1, keepdims=True)
print("\nroot mean square error of every sixth frame, which was lost\n")
for name, guess in (("mean picture of the film", usual), ("VAEHMM.reconstruct", found)):
    print(f"{name:<38} {np.sqrt(np.mean((guess - new)[:, 3::6] ** 2)):.3f}")

shown = found[:2, :, 0]
rows = [row for film in range(2) for row in (new[film, ::3, 0], shown[film, ::3])]
lines = [np.concatenate(list(np.pad(row, ((0, 0), (1, 1), (1, 1)), constant_values=-3)), 1) for row in rows]
arguments.out.mkdir(parents=True, exist_ok=True)
plt.imsave(arguments.out / "14_video.png", np.concatenate(lines).repeat(6, 0).repeat(6, 1), cmap="gray")
print(
    f"\nWrote {arguments.out / '14_video.png'}: every third frame of two new films, above what the model makes of"
    " it; every other one of these was lost."
)
