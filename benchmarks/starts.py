"""A start for switching deep Markov models: the dynamics that an HMM of the frames has found."""

import math
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from dbn_vae import EmissionHMM, GaussianHMM, SwitchingDMM
from dbn_vae.aevb import AEVB
from dbn_vae.emissions import Autoregressive
from dbn_vae.models.base import LatentModel
from dbn_vae.models.recognition import Product, visible
from dbn_vae.models.switching_dmm import SwitchingDMM as Module
from dbn_vae.sequences import Sequences
from dbn_vae.transitions.sticky import sticky


def autoregression(n_states: int, n_features: int, order: int, stickiness: float = 10.0) -> EmissionHMM:
    """An autoregressive HMM whose chain has the same prior as the deep models'."""
    K, D = n_states, n_features
    emission = Autoregressive(
        torch.zeros(K, D, dtype=torch.float64),
        torch.zeros(K, order, D, D, dtype=torch.float64),
        torch.eye(D, dtype=torch.float64).expand(K, D, D),
        floor=torch.full((D,), 1e-4, dtype=torch.float64),
    )
    return EmissionHMM(emission, sticky(K, stickiness))


@dataclass(eq=False, repr=False)
class StartedSwitchingDMM(SwitchingDMM):
    """The same model, started from an autoregressive HMM of the frames in place of moves drawn at random.

    z_t begins as the last p frames, (y_t, …, y_{t-p+1}) with y the first n_latent / p principal components of the
    frames (all of them, where that is their number), and the moves as the companion matrices of an AR(p)-HMM of y.
    The core learns to tell y_t from x_t and back; then joint training follows.  With order 0 the HMM is a Gaussian one,
    and every move begins by forgetting z: W = 0.

    With strength there is one latent u more, which stays where it is, nearly: every sequence has its own strength of
    what tells the intercepts of the states apart, b_k + ½ u (b_k − mean b) in place of b_k.  It is estimated along the
    states that the HMM decodes, and the network of the future learns to tell it.
    """

    order: int = 1
    n_init: int = 4
    strength: bool = False
    n_teach: int = 300
    copy_noise: float = 0.2  # of the copies of earlier frames, as a share of the innovations' sd

    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        assert isinstance(model, Module)
        p = max(self.order, 1)
        y = components(data.x, (self.n_latent - self.strength) // p)
        hmm = self.first_model(y.shape[1])
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        hmm.set_params(random_state=seed, n_init=self.n_init)
        labels = None if data.labels is None else data.labels.numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a start need be no optimum
            hmm.fit(y.double().numpy(), lengths=data.lengths.numpy(), labels=labels)
        start = dynamics(hmm)
        sd = (
            start.variance.mean(0).sqrt() / 2
        ).float()  # half an innovation: how well a frame shall tell y_t
        paths = embedded(y, data, p)
        if self.strength:
            states = torch.as_tensor(hmm.predict(y.double().numpy(), lengths=data.lengths.numpy()))
            u, start = strengths(paths.double(), data, start, states)
            paths = torch.cat([paths, u.float().repeat_interleave(data.lengths)[:, None]], 1)
            foresee(model, data, u.float(), self.n_teach // 3, generator)
        adopt(model, start, 1 / sd.square(), self.copy_noise)
        first = paths[data.starts]
        with torch.no_grad():
            model.initial_mean.copy_(first.mean(0).expand_as(model.initial_mean))
            spread = first.std(0) if len(first) > 2 else torch.ones_like(first[0])
            model.initial_log_scale.copy_(spread.clamp_min(0.1).log().expand_as(model.initial_log_scale))
        teach(model.core, data, paths, self.n_teach, sd, generator)

    def first_model(self, n_features: int) -> Any:
        if self.order:
            return autoregression(self.n_components, n_features, self.order, self.stickiness)
        prior = 1 + self.stickiness * np.eye(self.n_components)
        return GaussianHMM(self.n_components, "diag", min_covar=1e-2, transmat_prior=prior, n_iter=50)


class Dynamics(NamedTuple):
    """What a fitted HMM says of how each state moves."""

    intercept: Tensor  # (K, D)
    coefficients: Tensor  # (K, p, D, D)
    variance: Tensor  # (K, D)
    log_initial: Tensor  # (K,)
    log_transition: Tensor  # (K, K)


@torch.no_grad()
def dynamics(hmm: EmissionHMM | GaussianHMM) -> Dynamics:
    model = hmm.model_ if isinstance(hmm, EmissionHMM) else hmm.build()
    emission, chain = model.emission, model.transition
    K, D = emission.mean.shape
    still = torch.zeros(K, 1, D, D, dtype=torch.float64)
    return Dynamics(
        emission.mean,
        emission.coefficients() if isinstance(emission, Autoregressive) else still,
        emission.covariance().diagonal(dim1=-2, dim2=-1),
        chain.log_initial(),
        chain.log_transition(),
    )


def components(x: Tensor, n: int) -> Tensor:
    """The first n principal components of standardised frames (N, D), each of variance 1; x itself where n = D."""
    if n == x.shape[1]:
        return x
    _, _, directions = torch.pca_lowrank(x, min(n + 4, x.shape[1]))
    scores = x @ directions[:, :n]
    return scores / scores.std(0)


def embedded(y: Tensor, data: Sequences, order: int) -> Tensor:
    """(y_t, …, y_{t-p+1}), the first frame repeated before the start: (N, p D)."""
    row = torch.arange(len(y))
    step = row - data.starts.repeat_interleave(data.lengths)
    return torch.cat([y[row - step.clamp_max(lag)] for lag in range(order)], 1)


@torch.no_grad()
def strengths(paths: Tensor, data: Sequences, start: Dynamics, states: Tensor) -> tuple[Tensor, Dynamics]:
    """u (B,) under N(0, 1), given paths (N, p D) and states (N,); and the dynamics with what variance is left."""
    D = start.intercept.shape[1]
    rows = torch.arange(1, len(paths))
    owner = torch.arange(len(data)).repeat_interleave(data.lengths)
    rows = rows[owner[1:] == owner[:-1]]  # a first frame moves from nowhere
    k, owner = states[rows], owner[rows]
    slope = start.coefficients.transpose(1, 2).flatten(2)  # (K, D, p D)
    moved = start.intercept[k] + (slope[k] @ paths[rows - 1, :, None]).squeeze(-1)
    rest, push = paths[rows, :D] - moved, ((start.intercept - start.intercept.mean(0)) / 2)[k]
    zero = torch.zeros(len(data), dtype=paths.dtype)
    information = zero.index_add(0, owner, (push.square() / start.variance[k]).sum(1))
    score = zero.index_add(0, owner, (push * rest / start.variance[k]).sum(1))
    u = score / (1 + information)
    left = (rest - push * u[owner, None]).square()
    one = torch.nn.functional.one_hot(k, len(start.intercept)).to(left)
    return u, start._replace(variance=one.T @ left / one.sum(0)[:, None])


def foresee(model: Module, data: Sequences, u: Tensor, n_updates: int, generator: torch.Generator) -> None:
    """Teach the network of the future where a sequence's last latent lies: u (B,)."""
    q = model.recognition
    assert isinstance(q, Product)
    with torch.no_grad():
        q.head.bias[-1] = 3.0  # its evidence of u is heard from the start
    optimizer = torch.optim.Adam(q.parameters(), 1e-2, fused=True)
    for _ in range(n_updates):
        which = torch.randperm(len(data), generator=generator)[:64].sort().values
        batch = data.batch(which)
        location = q.head(q.future(visible(model.core, batch), batch.lengths)).chunk(2, -1)[0][..., -1]
        loss = ((location - u[which, None]).square() * batch.mask).sum() / batch.mask.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


@torch.no_grad()
def adopt(model: Module, start: Dynamics, precision: Tensor, copy_noise: float) -> None:
    """π and A, every state's autoregression in companion form, and the precision (D,) of the evidence of y_t."""
    p, D = start.coefficients.shape[1:3]
    own, typical = p * D, start.variance.mean(0)
    for k, move in enumerate(model.moves):
        move.weight.zero_()
        move.weight[:D, :own] = start.coefficients[k].transpose(0, 1).reshape(D, own)
        move.weight[D:own, : own - D] += torch.eye(own - D)
        move.bias.zero_()
        move.bias[:D] = start.intercept[k]
        spread = torch.cat([start.variance[k], (copy_noise**2 * typical).repeat(p - 1)])
        move.raw_variance[:own] = spread.expm1().log()
        if len(move.bias) > own:
            move.weight[:D, own] = (start.intercept[k] - start.intercept.mean(0)) / 2
            move.weight[own, own] = 1.0
            move.raw_variance[own] = math.log(math.expm1(0.01**2))
    evidence = model.core.encoder[-1].bias[len(model.moves[0].bias) :]
    evidence.fill_(-5.0)  # of z it shall see y_t well, and at first nothing of the copies
    evidence[:D] = precision
    model.transition.initial_logits.copy_(start.log_initial.clamp_min(-10))
    model.transition.transition_logits.copy_(start.log_transition.clamp_min(-10))


def teach(
    core: AEVB, data: Sequences, paths: Tensor, n_updates: int, sd: Tensor, generator: torch.Generator
) -> None:
    """Show a core z_t (N, Z) for each frame: the decoder learns x_t, and the encoder where the evidence of y_t lies.

    sd: (D,) of what z_t may still be off; y_t is the first D entries of z_t.
    """
    optimizer = torch.optim.Adam(core.parameters(), 1e-2, fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_updates)
    D = len(sd)
    for _ in range(n_updates):
        which = torch.randint(len(paths), (512,), generator=generator)
        x, seen, z = data.x[which], data.observed[which], paths[which]
        y = z[:, :D]
        z = torch.cat([y + sd * torch.randn(y.shape, generator=generator), z[:, D:]], 1)
        location = core.encoder(core.likelihood.features(x))[:, :D]
        loss = ((location - y) / sd).square().mean() - core.log_likelihood(x, seen, z).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(core.parameters(), 10.0)
        optimizer.step()
        decay.step()
