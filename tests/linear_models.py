"""Deep models whose decoders and moves are linear and Gaussian, and the truth of them.

Given a path of states all frames, those to come among them, are one dense Gaussian, so that what is expected of the
entries nobody saw, and how uncertain it is, follows from its conditional, summed over paths.  The encoders are
wrong on purpose, and know nothing of which entries are missing.
"""

from functools import cache
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from oracles import linear_gaussian_core, paths, walk_moments
from scipy.stats import multivariate_normal
from torch import Tensor

from dbn_vae import VAE, VAEHMM, DeepMarkovModel, SwitchingDMM

C = torch.tensor([[1.0, 0.5], [0.6, -1.2], [0.4, 0.55]]).double()
D_OFFSET, SCALE = torch.tensor([0.3, -0.2, 0.1]).double(), torch.tensor([0.7, 0.7, 0.7]).double()
C = C @ torch.linalg.inv(
    torch.linalg.cholesky(C.T @ C).T
)  # orthogonal columns, which diagonal evidence needs
NAN = np.nan
X = 2 + 3 * np.random.default_rng(1).normal(size=(7, 3)) * [1, 2, 0.5]
X[1, 0] = X[2] = X[3, 1:] = X[6, 2] = NAN
LENGTHS = [4, 1, 2]
H = 2
U = np.random.default_rng(2).normal(size=(7, 2))
FUTURE = np.random.default_rng(3).normal(size=(3, H, 2))  # inputs of the frames to come
OPTIONS: dict[str, Any] = {
    "hidden": (), "n_updates": 1, "n_pretrain": 1, "validation": 0, "random_state": 0, "device": "cpu",
}  # fmt: skip
STAYS = OPTIONS | {"durations": "categorical", "max_duration": 3}
MAKE = {
    "vae": lambda: VAE(2, **OPTIONS),
    "dmm": lambda: DeepMarkovModel(2, transition="linear", **OPTIONS),
    "dmm-filtering": lambda: DeepMarkovModel(2, transition="linear", inference="product-filter", **OPTIONS),
    "dmm-smoother": lambda: DeepMarkovModel(2, transition="linear", inference="smoother", **OPTIONS),
    "dmm-st": lambda: DeepMarkovModel(2, transition="linear", inference="ST-LR", n_hidden=4, **OPTIONS),
    "dmm-autoregressive": lambda: DeepMarkovModel(2, transition="linear", autoregressive=True, **OPTIONS),
    "dmm-inputs": lambda: DeepMarkovModel(2, transition="linear", inference="product-filter", **OPTIONS),
    "vae-hmm": lambda: VAEHMM(2, 2, **OPTIONS),
    "vae-hmm-inputs": lambda: VAEHMM(2, 2, **OPTIONS),
    "vae-hmm-stays": lambda: VAEHMM(2, 2, **STAYS),
    "vae-hmm-offset": lambda: VAEHMM(2, 2, state_offset=True, **OPTIONS),
    "vae-hmm-offset-stays": lambda: VAEHMM(2, 2, state_offset=True, **STAYS),
    "switching": lambda: SwitchingDMM(2, 2, init="random", **OPTIONS),
    "switching-inputs": lambda: SwitchingDMM(2, 2, init="random", **OPTIONS),
    "switching-stays": lambda: SwitchingDMM(2, 2, init="random", **STAYS),
}


def given(name: str, rows: Any = slice(None)) -> dict[str, Any]:
    """The inputs that go with rows of X."""
    return {"inputs": U[rows]} if "inputs" in name else {}


def to_come(name: str, which: Any = slice(None)) -> dict[str, Any]:
    """The inputs of the frames after some sequences."""
    return {"future_inputs": FUTURE[which]} if "inputs" in name else {}


@cache
def fitted(name: str) -> Any:
    """A model with a linear decoder, an encoder somewhat off, and moves that differ; tests leave it as it is."""
    model = MAKE[name]().fit(X, lengths=LENGTHS, **given(name))
    module = model.module_
    g = torch.Generator().manual_seed(3)
    linear = linear_gaussian_core(C, D_OFFSET, SCALE)
    module.core.encoder.load_state_dict(linear.encoder.state_dict())
    with torch.no_grad():
        # less sure than it might be; still less where inputs lead away from what is seen
        module.core.encoder[0].bias[2:] -= 1.5 if name == "dmm-inputs" else 0.5
        if "autoregressive" in name:
            module.core.decoder.latent.load_state_dict(linear.decoder[0].state_dict())
            module.core.decoder.context.weight[:3].copy_(0.5 * torch.randn(3, 6, generator=g))
        else:
            module.core.decoder.load_state_dict(linear.decoder.state_dict())
        moves = getattr(module, "moves", [getattr(module, "transition", None)] if "dmm" in name else [])
        for move in moves:
            move.weight[:, :2] = 0.8 * torch.eye(2) + 0.3 * torch.randn(2, 2, generator=g)
            move.bias.copy_(0.8 * torch.randn(2, generator=g))
            move.raw_variance.fill_(-2.0)  # slow, so that later frames tell of earlier ones
            move.weight[:, 2:] = 0.5 * torch.randn(move.weight[:, 2:].shape, generator=g)
        if "dmm-st" in name:
            module.recognition.head.bias[2:] = 1.5
        for part in ("initial_mean", "mean"):
            if hasattr(module, part):
                getattr(module, part).copy_(torch.randn(getattr(module, part).shape, generator=g))
        if "offset" in name:  # of the means; the outputs for σ have none
            module.offset.copy_(torch.cat([torch.randn(2, 3, generator=g), torch.zeros(2, 3)], 1))
        chain = getattr(module, "transition", None)
        if "stays" in name:
            chain.durations.logits.copy_(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]]).log())
        elif hasattr(module, "n_components"):
            chain.transition_logits.copy_(torch.tensor([[0.95, 0.05], [0.1, 0.9]]).log())
            if "inputs" in name:
                chain.initial_slope.copy_(torch.randn(2, 2, generator=g))
                chain.transition_slope.copy_(2 * torch.randn(2, 2, 2, generator=g))
    return model


def log_prior(model: Any, path: Tensor, u: np.ndarray | None) -> float:
    """log p(s_{1:T}) of a path, written out."""
    if not hasattr(model.module_, "n_components"):
        return 0.0
    if getattr(model, "durations", None) is not None:
        stays = [(k, len(list(group))) for k, group in groupby(path.tolist())]
        p, A = model.durations_, model.transmat_
        out = np.log(model.startprob_[stays[0][0]]) + sum(
            np.log(A[i, j]) for (i, _), (j, _) in pairwise(stays)
        )
        with np.errstate(divide="ignore"):
            ended = sum(np.log(p[k, d - 1]) if d <= 3 else -np.inf for k, d in stays[:-1])
            k, d = stays[-1]
            return float(out + ended + np.log(p[k, d - 1 :].sum()))
    chain, logits = model.module_.transition, []
    for t in range(len(path)):
        begins = t == 0
        b = chain.initial_logits if begins else chain.transition_logits[path[t - 1]]
        if u is not None:
            w = chain.initial_slope if begins else chain.transition_slope[path[t - 1]]
            b = b + w @ torch.as_tensor(u[t]).float()
        logits.append(b.detach().double().log_softmax(-1)[path[t]])
    return float(sum(logits))


def dense(
    model: Any, seen: np.ndarray, u: np.ndarray | None = None
) -> list[tuple[float, np.ndarray, np.ndarray, np.ndarray]]:
    """Of every path of states (T,): its log-probability, the path, and mean and covariance of all entries of x.

    seen: (T, D), which entries an autoregressive emission reads when it comes to the next frame; u: inputs (T, U).
    """
    module, T = model.module_, len(seen)
    center, scale = model.center_.double(), model.scale_.double()
    out = []
    chained = hasattr(module, "n_components")
    for path in paths(T, module.n_components if chained else 1):
        if isinstance(model, VAE | VAEHMM):
            zero = torch.zeros(1, 2)
            mean = module.mean.detach()[path] if chained else zero.expand(T, 2)
            var = (2 * module.log_scale.detach()).exp()[path] if chained else torch.ones(T, 2)
            cov = torch.einsum("tz,tu,zw->tzuw", var, torch.eye(T), torch.eye(2))
        else:
            moves = list(module.moves) if chained else [module.transition]
            first = module.initial_mean.detach().view(-1, 2)[path[0]]
            width = (2 * module.initial_log_scale.detach()).exp().view(-1, 2)[path[0]].diag()
            steps = []
            for t, k in enumerate(path[1:], 1):
                W, b = moves[k].weight.detach(), moves[k].bias.detach()
                if W.shape[1] > 2:
                    b = b + W[:, 2:] @ torch.as_tensor(u[t]).float()
                steps.append(
                    (W[:, :2], b, (torch.nn.functional.softplus(moves[k].raw_variance.detach())).diag())
                )
            mean, cov = walk_moments((first, width), steps)
        mean, cov = mean.double(), cov.double()
        emitted = mean @ C.T + D_OFFSET
        if getattr(module, "offset", None) is not None:
            emitted = emitted + module.offset.detach()[path, :3]
        emitted = emitted.flatten()
        full = torch.einsum("dz,tzuw,ew->tdue", C, cov, C)
        full = (full + torch.einsum("tu,de->tdue", torch.eye(T).double(), SCALE.square().diag())).reshape(
            3 * T, -1
        )
        if getattr(
            model, "autoregressive", False
        ):  # x = N x + G mask + what z and noise give, so that x = (1 - N)^-1 ...
            read = module.core.decoder.context.weight.detach()[:3].double()
            N, m = torch.zeros(T, 3, T, 3).double(), torch.as_tensor(seen).double()
            for t in range(1, T):
                N[t, :, t - 1] = read[:, :3] * m[t - 1]
                emitted[3 * t : 3 * t + 3] += read[:, 3:] @ m[t - 1]
            lift = torch.linalg.inv(torch.eye(3 * T).double() - N.reshape(3 * T, -1))
            emitted, full = lift @ emitted, lift @ full @ lift.T
        units = scale.repeat(T)
        emitted, full = center.repeat(T) + units * emitted, units[:, None] * full * units
        out.append((log_prior(model, path, u), path.numpy(), emitted.numpy(), full.numpy()))
    return out


def exact(
    model: Any, x: np.ndarray, u: np.ndarray | None = None, horizon: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """E and Var of every entry (T, 3), and p(s_t) (T, K), given those that are not NaN; and log p of these.

    The last `horizon` frames are yet to come, so that emissions read all of them.
    """
    seen = ~np.isnan(x).ravel()
    weights, means, variances, every_path = [], [], [], []
    read = np.where(np.arange(len(x))[:, None] < len(x) - horizon, ~np.isnan(x), True)
    for log_p, path, mean, cov in dense(model, read, u):
        o = x.ravel()[seen]
        gain = np.linalg.solve(cov[seen][:, seen], cov[seen]).T
        weights.append(
            log_p + (multivariate_normal(mean[seen], cov[seen][:, seen]).logpdf(o) if len(o) else 0)
        )
        means.append(mean + gain @ (o - mean[seen]))
        variances.append(np.diag(cov) - (gain * cov[:, seen]).sum(1))
        every_path.append(path)
    total = np.logaddexp.reduce(weights)
    w = np.exp(np.array(weights) - total)
    mean = w @ np.stack(means)
    variance = w @ (np.stack(variances) + (np.stack(means) - mean) ** 2)
    K = max(p.max() for p in every_path) + 1
    probs = np.stack([w @ (np.stack(every_path) == k) for k in range(K)], -1)
    return mean.reshape(x.shape), variance.reshape(x.shape), probs, float(total)


def parts(values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(LENGTHS)[:-1])
