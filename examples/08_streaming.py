"""A machine's state, live: what a filter knows at once, what it knows a little later, and what an update costs.

Three sensors watch a machine that idles, works or overheats; the readings overlap, so that one frame alone says little.
The question is when to trust the answer: at once (filter), some frames later (fixed lag), or at the end (smoother).
"""

import argparse
import time
from pathlib import Path

import numpy as np

from dbn_vae import GaussianHMM

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="a shorter stream")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="nothing is written here")
arguments = parser.parse_args()

truth = GaussianHMM(3, "full")
truth.startprob_ = np.array([1.0, 0.0, 0.0])
truth.transmat_ = np.array([[0.97, 0.03, 0.0], [0.02, 0.97, 0.01], [0.05, 0.0, 0.95]])
truth.means_ = np.array([[0.0, 0.0, 0.0], [0.9, 0.4, 0.5], [0.8, 1.3, 0.2]])
truth.covars_ = np.stack([np.eye(3) * s + 0.3 * s for s in (0.5, 0.8, 0.8)])

X, _ = truth.sample(4000, random_state=0)
live, states = truth.sample(2000 if arguments.quick else 20000, random_state=1)
live[np.random.default_rng(2).random(live.shape) < 0.02] = np.nan  # a reading is lost now and then

# The model learns from other data; it is never told the states. Its own are given the names of the truth's.
model = GaussianHMM(3, "full", n_iter=200, tol=1e-3, n_init=4, random_state=0).fit(X)
model.align_to(truth, X)

stream = model.filter_state()
began = time.perf_counter()
online = np.array([stream.update(frame) for frame in live])
cost = 1e6 * (time.perf_counter() - began) / len(live)
same = abs(online - model.filter(live)).max()
print(f"{len(live)} frames, {cost:.0f} µs an update; the stream and filter() differ by {same:.0e}")
print(f"log-likelihood of the stream {stream.log_likelihood:.4f}, score {model.score(live):.4f}\n")

# Baseline: each frame by itself, weighed by how common the states are. It is the same model without its transitions.
alone = GaussianHMM(3, "full")
alone.startprob_ = model.get_stationary_distribution()
alone.transmat_ = np.tile(alone.startprob_, (3, 1))
alone.means_, alone.covars_ = model.means_, model.covars_

posterior, best = model.posterior(live), truth.posterior(live)
print("what is asked                         right    true parameters    −log p(true state), nats a frame")
answers = {
    "this frame alone": (alone.predict_proba(live), None),
    "filter: up to now": (online, best.filtered),
    "3 frames later": (posterior.fixed_lag(3), best.fixed_lag(3)),
    "10 frames later": (posterior.fixed_lag(10), best.fixed_lag(10)),
    "at the end": (posterior.smoothed, best.smoothed),
}
for name, (probs, ideal) in answers.items():
    right = 100 * (probs.argmax(1) == states).mean()
    reach = "" if ideal is None else f"{100 * (ideal.argmax(1) == states).mean():.1f} %"
    surprise = -np.log(probs[np.arange(len(states)), states].clip(1e-300)).mean()
    print(f"{name:<36} {right:>5.1f} %   {reach:>16}    {surprise:>12.3f}")

paths = {"best path": posterior.viterbi(), "between the two (α = 0.5)": posterior.hybrid_risk(0.5)}
for name, path in (paths | {"best state of each frame": posterior.mpm()}).items():
    right, changes = 100 * (path.states == states).mean(), (np.diff(path.states) != 0).sum()
    print(f"{name:<36} {right:>5.1f} %   {changes} changes, log p(states, x) {path.log_prob[0]:.1f}")
print(f"{'the truth':<36} 100.0 %   {(np.diff(states) != 0).sum()} changes")
print(
    f"\nOverheating 10 frames from now: {100 * stream.predict(10)[2]:.1f} % (now {100 * stream.probs[2]:.1f} %)."
)
