"""A start for switching deep Markov models: the dynamics that an HMM of the frames has found."""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from dbn_vae import EmissionHMM, GaussianHMM, SwitchingDMM
from dbn_vae.distributions import log_normal, normal
from dbn_vae.emissions import Autoregressive
from dbn_vae.inference import filter as filtered
from dbn_vae.models.base import LatentModel
from dbn_vae.models.hmm import state_chain
from dbn_vae.models.switching_dmm import SwitchingDMM as Module
from dbn_vae.models.switching_dmm import match_moments
from dbn_vae.sequences import Batch, Sequences
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
    Then the core and q learn to see these paths, for now taken as known: Σ_t log p(x_t | z_t) + log q(z_t | z_{t-1}, x)
    ascends.  Joint training follows.  With order 0 the HMM is a Gaussian one, and every move begins
    by forgetting z: W = 0.
    """

    order: int = 1
    n_init: int = 4
    n_imitate: int = 300
    copy_noise: float = 0.2  # of the copies of earlier frames, as a share of the innovations' sd

    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        assert isinstance(model, Module)
        p = max(self.order, 1)
        y = components(data.x, self.n_latent // p)
        hmm = self.first_model(y.shape[1])
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        hmm.set_params(random_state=seed, n_init=self.n_init)
        labels = None if data.labels is None else data.labels.numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a start need be no optimum
            hmm.fit(y.double().numpy(), lengths=data.lengths.numpy(), labels=labels)
        noise = self.copy_noise * adopt(model, dynamics(hmm), self.copy_noise)
        paths = embedded(y, data, p)
        first = paths[:, 0]
        with torch.no_grad():
            model.initial_mean.copy_(first.mean(0).expand_as(model.initial_mean))
            spread = first.std(0) if len(first) > 2 else torch.ones_like(first[0])
            model.initial_log_scale.copy_(spread.clamp_min(0.1).log().expand_as(model.initial_log_scale))
        imitate(model, data, paths, self.n_imitate, noise, generator)

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
    """(y_t, …, y_{t-p+1}), the first frame repeated before the start; padded: (B, T, p D)."""
    y = data.replace(x=y, observed=torch.ones_like(y, dtype=torch.bool)).batch().x
    lags = [torch.cat([y[:, :1].expand(-1, lag, -1), y], 1)[:, : y.shape[1]] for lag in range(order)]
    return torch.cat(lags, -1)


@torch.no_grad()
def adopt(model: Module, start: Dynamics, copy_noise: float) -> Tensor:
    """π and A, and every state's autoregression in companion form; gives the innovations' sd (p D,)."""
    p, D = start.coefficients.shape[1:3]
    typical = start.variance.mean(0)
    for k, move in enumerate(model.moves):
        move.weight.zero_()
        move.weight[:D] = start.coefficients[k].transpose(0, 1).reshape(D, p * D)
        move.weight[D:, :-D] += torch.eye((p - 1) * D)
        move.bias.zero_()
        move.bias[:D] = start.intercept[k]
        spread = torch.cat([start.variance[k], (copy_noise**2 * typical).repeat(p - 1)])
        move.raw_variance.copy_(spread.expm1().log())
    evidence = model.core.encoder[-1].bias[-p * D :]  # of z it shall see y_t well, and nothing of the copies
    evidence.fill_(-5.0)
    evidence[:D] = 4 / typical
    model.transition.initial_logits.copy_(start.log_initial.clamp_min(-10))
    model.transition.transition_logits.copy_(start.log_transition.clamp_min(-10))
    return typical.sqrt().repeat(p).float()


def imitate(
    model: Module, data: Sequences, paths: Tensor, n_updates: int, noise: Tensor, generator: torch.Generator
) -> None:
    """Teach the core and q to see z, given its paths (B, T, Z): maximum likelihood of complete data."""
    learners = [*model.core.parameters(), *model.recognition.parameters()]
    optimizer = torch.optim.Adam(learners, 3e-3, fused=True)
    for _ in range(n_updates):
        which = torch.randperm(len(data), generator=generator)[:32].sort().values
        batch = data.batch(which)
        z = paths[which, : batch.x.shape[1]]
        z = z + noise * torch.randn(z.shape, generator=generator)
        seen = log_normal(z, taught(model, batch, z)) + model.core.log_likelihood(batch.x, batch.observed, z)
        loss = -(seen * batch.mask).sum() / batch.mask.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learners, 10.0)
        optimizer.step()


def taught(model: Module, batch: Batch, z: Tensor) -> torch.distributions.Normal:
    """q(z_t | z_{t-1}, x) along given paths (B, T, Z), all steps at once."""
    with torch.no_grad():
        chain = state_chain(model.transition, model.state_potential(z[None])[0], batch)
        belief = filtered(chain).probs[:, :-1] @ model.transition.log_transition().exp()
        belief = torch.cat([model.transition.log_initial().exp().expand(len(z), 1, -1), belief], 1)
        first, later = model.initial(z[:, :1]), model.move(z[:, :-1])
        each = normal(torch.cat([first.mean, later.mean], 1), torch.cat([first.scale, later.scale], 1))
        prediction = match_moments(belief, each)
    last = torch.cat([torch.zeros_like(z[:, :1]), z[:, :-1]], 1)
    return model.recognition.step(prediction, last, model.recognition.context(model.core, batch))
