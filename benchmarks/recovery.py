"""Systems whose truth is known, recovered from their data:  python benchmarks/recovery.py

Every seed draws new data and a new start; everything is fitted to one part of the sequences and scored on another.

linear       z_t ~ N(w z_{t-1} + b, Q),  x_t ~ N(z_t / 2, R),  z_1 ~ N(0, 1);  w = 1, b = 0.05, Q = 10, R = 20,
             T = 25: the linear system of Krishnan, Shalit and Sontag (2017).  A deep Markov model with the linear
             transition learns w, b, Q and R beside its q; the factor 1/2, which fixes the scale of z, is given.
             Everything is Gaussian, so the Kalman filter gives log p(x) exactly, at the truth and at the estimates.
non-linear   z_t ~ N((z¹/5 + tanh(α z²), z²/5 + sin(β z¹)), I) with z = z_{t-1},  x_t ~ N(z_t / 2, I / 10),
             α = 0.5, β = −0.1, T = 25: theirs too.  α and β are learnt, the rest is given.
VAE-HMM      three states, z_t ~ N(μ_s, V_s) in the plane, x_t = (z¹, z² + z¹² / 2, z¹ z² / 2) + 0.3 ε.  The
             estimator VAEHMM learns all of it, its own networks in place of the map.  p(x_t | s_t) is an integral
             over the plane, taken on a grid, so log p(x) and the best decoding of the truth are exact.

A bound is named; `exact` is no bound.  Nats a frame, in the units of the data.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tables import Rows, arguments, machine, markdown
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from dbn_vae import VAEHMM, inference
from dbn_vae.aevb import AEVB
from dbn_vae.distributions import Conditional, normal
from dbn_vae.evaluation import elbo, iwae, match_states, matched_accuracy, smc
from dbn_vae.inference import Chain
from dbn_vae.likelihoods import Gaussian
from dbn_vae.models import DMM
from dbn_vae.models.recognition import Product
from dbn_vae.sequences import Sequences
from dbn_vae.training.sgvb import Objective, ascend
from dbn_vae.transitions import Linear


class Found(NamedTuple):
    """One number of the truth, what was found, and how far off it may be."""

    name: str
    truth: float
    estimate: float
    tolerance: float  # absolute


# -- deep Markov models with a known map from z to x


class Half(nn.Module):
    """x = z / 2 and one scale for every entry, as a decoder's outputs; the scale is learnt where asked."""

    def __init__(self, scale: float, learnt: bool) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(math.log(math.expm1(scale))), requires_grad=learnt)

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z / 2, self.raw.expand_as(z)], -1)

    def variance(self) -> float:
        return float(nn.functional.softplus(self.raw.detach()).square())


def model_of(transition: Conditional, decoder: Half, Z: int, seed: int) -> DMM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        core = AEVB(Z, Z, Gaussian(min_scale=0.0), hidden=())  # evidence linear in x
        core.add_module("decoder", decoder)
        model = DMM(core, transition, Product(core.likelihood.n_features(Z), Z, 32))
    model.initial_mean.requires_grad_(False)  # z_1 ~ N(0, 1) is given
    model.initial_log_scale.requires_grad_(False)
    return model


def climb(model: DMM, data: Sequences, n_updates: int, seed: int, objective: Objective | None = None) -> None:
    """Adam, its step falling to 0 as a cosine: from 0.03 for what is to be recovered, from 0.01 for q; β = 1."""
    few = [*model.transition.parameters(), *model.core.decoder.parameters()]
    asked = {id(p) for p in few}
    networks = [p for p in model.parameters() if p.requires_grad and id(p) not in asked]
    groups = [{"params": [p for p in few if p.requires_grad], "lr": 3e-2}, {"params": networks}]
    optimizer = torch.optim.Adam(groups, 1e-2, fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_updates)
    generator = torch.Generator().manual_seed(seed)
    steps = ascend(model, data, optimizer, batch_size=200, generator=generator, objective=objective)
    for step in steps:
        decay.step()
        if step.update == n_updates:
            return


def bounds(model: DMM, data: Sequences) -> dict[str, tuple[float, float]]:
    """Nats a frame and their Monte Carlo error."""
    found = {}
    for bound, n in ((elbo, 10), (iwae, 100), (smc, 100), (smc, 1000)):
        score = bound(model, data, torch.Generator().manual_seed(0), n)
        kind = score.kind if bound is not elbo else f"ELBO, S = {n}"
        found[kind] = score.per_frame, score.monte_carlo_error / data.n_frames
    return found


def sequences(x: np.ndarray) -> Sequences:
    return Sequences.from_any(x, dtype=torch.float32)


# The networks see z and x in this unit, so that the factor stays 1/2; the table has the data's own.
UNIT = math.sqrt(20)


def linear(seed: int, quick: bool, rows: Rows) -> None:
    rng = np.random.default_rng([seed, 0])
    n_train, n_test, updates = (500, 50, 100) if quick else (2000, 200, 800)
    truth = {"w": 1.0, "b": 0.05, "Q": 10.0, "R": 20.0}
    z, x = linear_data(n_train + n_test, truth, rng)
    transition, decoder = Linear(1, 0.5), Half(0.5, learnt=True)
    with torch.no_grad():
        transition.weight.fill_(0.5)
    model = model_of(transition, decoder, 1, seed)
    model.initial_log_scale.data.fill_(-math.log(UNIT))
    climb(model, sequences(x[:n_train] / UNIT), updates, seed)
    variance = float(nn.functional.softplus(transition.raw_variance.detach())) + 1e-8
    estimate = {
        "w": float(transition.weight.detach()),
        "b": float(transition.bias.detach()) * UNIT,
        "Q": variance * UNIT**2,
        "R": decoder.variance() * UNIT**2,
    }
    for name, tolerance in {"w": 0.02, "b": 0.15, "Q": 1.0, "R": 1.0}.items():
        report(rows, "linear", seed, Found(name, truth[name], estimate[name], tolerance))
    held = x[n_train:]
    at_truth, means = kalman(held, truth)
    report(
        rows,
        "linear",
        seed,
        Found("log p(x), exact, at the estimates", at_truth, kalman(held, estimate)[0], 0.005),
    )
    for kind, (value, error) in bounds(model, sequences(held / UNIT)).items():
        report(rows, "linear", seed, Found(kind, at_truth, value - math.log(UNIT), 0.02), error)
    batch = sequences(held / UNIT).batch()
    with torch.no_grad():
        guess = model.latents(batch).numpy()[..., 0] * UNIT
    rmse = [float(np.sqrt(np.mean((m - z[n_train:]) ** 2))) for m in (means, guess)]
    report(rows, "linear", seed, Found("RMSE of z: smoother, q", rmse[0], rmse[1], 0.1))


def linear_data(n: int, truth: dict[str, float], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    z = np.zeros((n, 25))
    z[:, 0] = rng.standard_normal(n)
    for t in range(1, 25):
        z[:, t] = truth["w"] * z[:, t - 1] + truth["b"] + math.sqrt(truth["Q"]) * rng.standard_normal(n)
    return z, (z / 2 + math.sqrt(truth["R"]) * rng.standard_normal(z.shape))[..., None]


def kalman(x: np.ndarray, at: dict[str, float]) -> tuple[float, np.ndarray]:
    """Exact log p(x) a frame of x (B, T, 1), and the smoothed means of z (B, T): Kalman, then Rauch, Tung, Striebel."""
    B, T = x.shape[:2]
    m, V, total = np.zeros(B), 1.0, 0.0
    filtered, predicted = [], []
    for t in range(T):
        if t:
            m, V = at["w"] * m + at["b"], at["w"] ** 2 * V + at["Q"]
        predicted.append((m, V))
        S, surprise = V / 4 + at["R"], x[:, t, 0] - m / 2
        total += float(np.sum(-0.5 * (surprise**2 / S + math.log(2 * math.pi * S))))
        gain = V / 2 / S
        m, V = m + gain * surprise, V - gain * V / 2
        filtered.append((m, V))
    means = [filtered[-1][0]]
    for t in range(T - 2, -1, -1):
        (m, V), (ahead, spread) = filtered[t], predicted[t + 1]
        means.append(m + V * at["w"] / spread * (means[-1] - ahead))
    return total / (B * T), np.stack(means[::-1], 1)


class SineTanh(Conditional):
    """The non-linear transition, α and β its parameters."""

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.tensor(alpha)), nn.Parameter(torch.tensor(beta))

    def forward(self, context: Tensor) -> torch.distributions.Normal:
        first, second = context.unbind(-1)
        mean = context / 5 + torch.stack([torch.tanh(self.alpha * second), torch.sin(self.beta * first)], -1)
        return normal(mean, torch.ones_like(mean))


def non_linear(seed: int, quick: bool, rows: Rows) -> None:
    n_train, n_test, updates = (500, 50, 100) if quick else (2000, 200, 500)
    x = non_linear_data(n_train + n_test, np.random.default_rng([seed, 1]))
    transition = SineTanh(0.0, 0.3)  # away from both
    model = model_of(transition, Half(math.sqrt(0.1), learnt=False), 2, seed)
    train = sequences(x[:n_train])
    climb(model, train, updates, seed)
    # the ELBO's slack depends on α, and its maximum lies 0.025 under that of the likelihood
    climb(model, train, updates // 5, seed, lambda batch, _, g: model.importance_bound(batch, 10, g))
    report(rows, "non-linear", seed, Found("α", 0.5, float(transition.alpha.detach()), 0.03))
    report(rows, "non-linear", seed, Found("β", -0.1, float(transition.beta.detach()), 0.03))
    held = sequences(x[n_train:])
    found = bounds(model, held)
    with torch.no_grad():  # the same q proposes for the truth: only p changes
        transition.alpha.fill_(0.5)
        transition.beta.fill_(-0.1)
    best = smc(model, held, torch.Generator().manual_seed(1), 1000).per_frame
    for kind, (value, error) in found.items():
        report(
            rows, "non-linear", seed, Found(f"{kind}; truth: SMC bound, S = 1000", best, value, 0.02), error
        )


def non_linear_data(n: int, rng: np.random.Generator) -> np.ndarray:
    z = [rng.standard_normal((n, 2))]
    for _ in range(24):
        a, b = z[-1].T
        z.append(
            np.stack([a / 5 + np.tanh(0.5 * b), b / 5 + np.sin(-0.1 * a)], 1) + rng.standard_normal((n, 2))
        )
    path = np.stack(z, 1)
    return path / 2 + math.sqrt(0.1) * rng.standard_normal(path.shape)


# -- a VAE-HMM with a known map

TRANSMAT = np.array([[0.92, 0.05, 0.03], [0.04, 0.90, 0.06], [0.08, 0.02, 0.90]])
MEANS = np.array([[-1.0, 0.0], [0.9, 0.6], [0.4, -1.0]])
SCALES = np.array([[0.6, 0.5], [0.5, 0.4], [0.4, 0.7]])
NOISE = 0.3


def bend(z: np.ndarray) -> np.ndarray:
    """The map from the plane (..., 2) to x (..., 3)."""
    a, b = z[..., 0], z[..., 1]
    return np.stack([a, b + a**2 / 2, a * b / 2], -1)


def vae_hmm(seed: int, quick: bool, rows: Rows) -> None:
    rng = np.random.default_rng([seed, 0])
    n_train, n_test = (40, 30) if quick else (200, 100)
    states, x = switching_data(n_train + n_test, 50, rng)
    options = {"n_updates": 100, "n_pretrain": 200} if quick else {"n_updates": 4000, "n_pretrain": 500}
    model = VAEHMM(3, 2, state_offset=True, random_state=seed, **options).fit(x[:n_train])
    held, truth = x[n_train:], states[n_train:].reshape(-1)
    log_z, best = at_truth(held)
    decoded = model.predict(held)
    named = match_states(truth, decoded)
    order = (
        np.argsort(named) if sorted(named) == [0, 1, 2] else np.arange(3)
    )  # a state never used has no name
    found = model.transmat_[np.ix_(order, order)]
    for i, j in np.ndindex(3, 3):
        report(rows, "VAE-HMM", seed, Found(f"A[{i + 1}, {j + 1}]", TRANSMAT[i, j], float(found[i, j]), 0.02))
    accuracy = [matched_accuracy(truth, path) for path in (best, decoded)]
    report(rows, "VAE-HMM", seed, Found("accuracy: Viterbi of the truth, ours", *accuracy, 0.02))
    for method, n in (("elbo", 10), ("iwae", 100)):
        score = model.evaluate(held, method=method, n_samples=n)
        kind = score.kind if method == "iwae" else f"ELBO, S = {n}"
        report(
            rows,
            "VAE-HMM",
            seed,
            Found(kind, log_z, score.per_frame, 0.05),
            score.monte_carlo_error / (held.shape[0] * held.shape[1]),
        )


def switching_data(n: int, T: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    states = np.zeros((n, T), dtype=np.int64)
    states[:, 0] = rng.integers(3, size=n)
    for t in range(1, T):
        states[:, t] = (rng.random((n, 1)) > TRANSMAT[states[:, t - 1]].cumsum(1)).sum(1).clip(max=2)
    z = MEANS[states] + SCALES[states] * rng.standard_normal((n, T, 2))
    return states, bend(z) + NOISE * rng.standard_normal((n, T, 3))


def at_truth(x: np.ndarray) -> tuple[float, np.ndarray]:
    """Exact log p(x) a frame and the Viterbi path (n,) of x (B, T, 3): p(x | s) = ∫ N(z; μ, V) N(x; f(z), 0.09 I) dz.

    The trapezoid rule on ± 5 standard deviations with 101 points an axis; with 51 the 8th digit changes.
    """
    grid = np.linspace(-5, 5, 101)
    e = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    log_weight = -0.5 * (e**2).sum(1) - math.log(2 * math.pi) + 2 * math.log(grid[1] - grid[0])
    frames = torch.as_tensor(x.reshape(-1, 3))
    potential = torch.empty(len(frames), 3, dtype=torch.float64)
    for k in range(3):
        centre = torch.as_tensor(bend(MEANS[k] + SCALES[k] * e))
        base = torch.as_tensor(log_weight) - 1.5 * math.log(2 * math.pi * NOISE**2)
        for rows in torch.arange(len(frames)).split(500):
            distance = torch.cdist(frames[rows], centre).square()
            potential[rows, k] = torch.logsumexp(base - distance / (2 * NOISE**2), 1)
    chain = Chain(
        torch.full((3,), -math.log(3), dtype=torch.float64),
        torch.as_tensor(TRANSMAT).log(),
        potential.view(*x.shape[:2], 3),
        torch.full((len(x),), x.shape[1]),
    )
    log_z = float(inference.log_partition(chain).sum()) / len(frames)
    return log_z, inference.viterbi(chain).states.reshape(-1).numpy()


# -- the table


def report(rows: Rows, system: str, seed: int, found: Found, monte_carlo: float = 0.0) -> None:
    rows.add(
        system=system,
        seed=seed,
        quantity=found.name,
        truth=found.truth,
        estimate=found.estimate,
        error=found.estimate - found.truth,
        tolerance=found.tolerance,
        monte_carlo_error=monte_carlo,
    )


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds; the spread is the standard deviation of the error between seeds."""
    groups = frame.groupby(["system", "quantity"], sort=False)
    table = pd.DataFrame(
        {
            "truth": groups["truth"].mean().map("{:.4f}".format),
            "estimate": groups["estimate"].mean().map("{:.4f}".format),
            "error": groups["error"].mean().map("{:+.4f}".format),
            "its sd between seeds": groups["error"].std().map("{:.4f}".format),
            "Monte Carlo error": groups["monte_carlo_error"].mean().map("{:.4f}".format),
            "tolerance": groups["tolerance"].first().map("{:g}".format),
        }
    )
    inside = (frame["error"].abs() <= frame["tolerance"]).groupby(
        [frame["system"], frame["quantity"]], sort=False
    )
    table["within"] = [f"{a} of {b}" for a, b in zip(inside.sum(), inside.count(), strict=True)]
    return table.reset_index()


SYSTEMS: dict[str, Callable[[int, bool, Rows], None]] = {
    "linear": linear,
    "non-linear": non_linear,
    "VAE-HMM": vae_hmm,
}


def main() -> None:
    args: Any = arguments(__doc__ or "", seeds=5).parse_args()
    torch.set_num_threads(1)
    rows, seeds = Rows(args.out), 1 if args.quick else args.seeds
    with threadpool_limits(1):
        for system in args.only or SYSTEMS:
            for seed in range(seeds):
                SYSTEMS[system](seed, args.quick, rows)
    print("\n" + markdown(summary(rows.frame())))
    print(f"\n{seeds} seeds; {machine()}")


if __name__ == "__main__":
    main()
