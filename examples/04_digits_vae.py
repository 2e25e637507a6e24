"""The static auto-encoder on handwritten digits: a bound on held-out images beside two plain baselines.

A VAE explains an image of 64 pixels by a few numbers z ~ N(0, I), from which a network computes the probability of
every pixel (Kingma and Welling 2014).  Whether it learnt anything is a question of probability: how probable does it
find an image it never saw, and how probable do models without a network find it?

    independent pixels     one probability a pixel
    mixture of Bernoullis  ten such images; a BernoulliHMM of one-frame sequences is just that
    VAE                    a lower bound: the truth is at least that good
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from dbn_vae import VAE, BernoulliHMM, grids, plotting
from dbn_vae.datasets import load_digits

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="fewer gradient steps")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the pictures")
arguments = parser.parse_args()

# Grey levels are no outcomes of a Bernoulli variable: draw each pixel once with its grey level as probability.
grey, _ = load_digits()
rng = np.random.default_rng(0)
images = (rng.random(grey.shape) < grey).reshape(-1, 64).astype(float)
images = images[rng.permutation(len(images))]
train, test = images[:1500], images[1500:]
print(f"{len(train)} images to learn from, {len(test)} held out\n")

# Each image is a sequence of its own, of length 1.
one_each, one_each_test = np.ones(len(train), int), np.ones(len(test), int)


def bernoulli(n_states: int) -> BernoulliHMM:
    """Beta(2, 2) on every pixel: a pixel never dark in training may still be dark in a new image."""
    return BernoulliHMM(n_states, emissionprob_prior=2.0, n_iter=100, n_init=2, random_state=0)


vae = VAE(
    n_latent=8,
    likelihood="bernoulli",
    hidden=(128,),
    n_updates=300 if arguments.quick else 5000,
    random_state=0,
)
scores = {
    "independent pixels": bernoulli(1).fit(train, lengths=one_each).evaluate(test, one_each_test),
    "mixture of 10 Bernoullis": bernoulli(10).fit(train, lengths=one_each).evaluate(test, one_each_test),
    "VAE, 8 latents": vae.fit(train, lengths=one_each).evaluate(test, one_each_test),
}
print("model                     nats an image   s.e.  kind of number")
for name, score in scores.items():
    print(f"{name:<24}  {score.per_frame:>13.2f}  {score.standard_error:>5.2f}  {score.kind}")
# The same images are in every score, so a difference is surer than either number. As the VAE's number is a bound, a
# gain is at least as large as printed; a loss may be nothing but the slack of the bound, or too few gradient steps.
print()
for name in list(scores)[:2]:
    gain = scores["VAE, 8 latents"].per_sequence - scores[name].per_sequence
    print(f"VAE minus {name}: {gain.mean():+.2f} ± {gain.std() / len(gain) ** 0.5:.2f} nats an image")

# The KL of each latent says how many of the eight are in use; an unused one costs nothing.
spread = vae.transform(train).var(0)
print(f"{int((spread > 0.05).sum())} of {vae.n_latent} latents vary with the image.")

square = (-1, 8, 8)
pairs = grids.reconstruction_grid(test[:20].reshape(square), vae.reconstruct(test[:20]).reshape(square))
plotting.save(pairs, arguments.out / "04_reconstructions.png")

# New images: z from N(0, I), and the decoder's probability of every pixel. module_ is the torch module itself.
_, z = vae.sample(40, random_state=1)
with torch.no_grad():
    probability = vae.module_.core.mean(torch.as_tensor(z)).numpy()
plotting.save(grids.image_grid(probability.reshape(square), columns=10), arguments.out / "04_samples.png")
print(f"\nWrote 04_reconstructions.png and 04_samples.png to {arguments.out}.")
