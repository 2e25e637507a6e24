"""A latent of the whole sequence: every bound below log p(x), which a linear decoder lets us compute."""

from itertools import pairwise, product

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn
from torch.testing import assert_close

from dbn_vae.aevb import AEVB
from dbn_vae.distributions import log_normal, standard_normal
from dbn_vae.likelihoods import Gaussian
from dbn_vae.models import VAEHMM, ClipVAEHMM
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.transitions.sticky import sticky

K, Z, W, D = 2, 1, 2, 3
NAN = float("nan")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> ClipVAEHMM:
    """Linear in z and w, so that x given a path of states is Gaussian; weights at random."""
    core = AEVB(D, Z + W, Gaussian(shared=True), hidden=()).double()
    chain = sticky(K, 2.0, torch.float64)
    model = ClipVAEHMM(core, chain, torch.tensor([[-1.0], [1.5]]), torch.tensor([[0.3], [0.6]])).double()
    generator = seeded(3)
    with torch.no_grad():
        for p in model.core.parameters():
            if p is model.core.log_sharpness:
                continue
            p.copy_(0.7 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


@pytest.fixture
def batch():
    generator = seeded(1)
    x = [torch.randn(n, D, generator=generator, dtype=torch.float64) for n in (4, 2)]
    x[0][1] = NAN  # an unseen frame
    x[0][2, 0] = NAN
    return Sequences.from_any([v.numpy() for v in x]).batch()


def again(batch: Batch, n: int) -> Batch:
    """n copies of every sequence, each to be sampled for itself."""
    fields = batch._asdict().items()
    return Batch(**{k: v if v is None else v.repeat_interleave(n, 0) for k, v in fields})


def exact(model: ClipVAEHMM, batch, b: int) -> float:
    """log Σ_s p(s) N(x; mean, cov) over all paths of the chain; the observed entries of x at once."""
    A = model.core.decoder[-1].weight.detach()
    a, v, c = A[:, :Z], A[:, Z:], model.core.decoder[-1].bias.detach()
    noise = model.core.decode(torch.zeros(Z + W, dtype=torch.float64)).scale[0].detach() ** 2
    p = model.given_w.components()
    T = int(batch.lengths[b])
    seen = batch.observed[b, :T].flatten().numpy()
    log_pi, log_A = model.transition.log_initial().detach(), model.transition.log_transition().detach()
    total = []
    for path in product(range(K), repeat=T):
        log_s = log_pi[path[0]] + sum(log_A[i, j] for i, j in pairwise(path))
        mean = torch.cat([a @ p.mean[k].detach() + c for k in path])
        own = torch.block_diag(*[(a * p.variance[k].detach()) @ a.T for k in path])
        cov = own + (v @ v.T).repeat(T, T) + noise * torch.eye(T * D)
        density = multivariate_normal(mean.numpy()[seen], cov.numpy()[seen][:, seen])
        total.append(log_s + density.logpdf(batch.x[b, :T].flatten().numpy()[seen]))
    return float(torch.logsumexp(torch.stack(total), 0))


def test_weights_and_bounds_are_unbiased_estimates_of_p(model, batch) -> None:
    """E w = p(x) for the path weights, and for exp of the inner bound: so neither logarithm can exceed log p(x)."""
    truth = torch.tensor([exact(model, batch, b) for b in range(2)], dtype=torch.float64)
    with torch.no_grad():
        paths = model.log_weights(batch, 40_000, seeded(0))
        inner = model.importance_bound(again(batch, 4000), 1, seeded(1)).view(2, -1).T
    for ratio in (paths - truth).exp(), (inner - truth).exp():
        error = ratio.std(0) / len(ratio) ** 0.5
        assert (error < 0.1).all()
        assert ((ratio.mean(0) - 1).abs() < 4 * error).all()


def test_analytic_and_sampled_costs_of_w_agree(model, batch) -> None:
    """One draw of everything: E objective = E importance bound at S = 1, and E elbo = E of estimator A."""
    many = again(batch, 4000)
    with torch.no_grad():
        pairs = [
            (model.objective(many, generator=seeded(0)), model.importance_bound(many, 1, seeded(1))),
            (model.elbo(many, 1, seeded(2)).elbo, model.elbo_sampled(many, 1, seeded(3)).elbo),
        ]
    for analytic, sampled in pairs:
        a, b = analytic.view(2, -1), sampled.view(2, -1)
        error = ((a.var(1) + b.var(1)) / a.shape[1]).sqrt()
        assert ((a.mean(1) - b.mean(1)).abs() < 4 * error).all()


def test_bounds_rise_to_log_p_in_their_order(model, batch) -> None:
    truth = torch.tensor([exact(model, batch, b) for b in range(2)], dtype=torch.float64)
    with torch.no_grad():
        elbo = model.elbo(batch, 4000, seeded(0)).elbo
        objective = model.objective(again(batch, 4000), generator=seeded(0)).view(2, -1)
        ladder = [
            model.importance_bound(again(batch, n), S, seeded(1)).view(2, n).mean(1)
            for S, n in ((4, 1000), (64, 200), (900, 20))
        ]
    error = objective.std(1) / objective.shape[1] ** 0.5
    assert (elbo < objective.mean(1) + 3 * error).all()
    assert (objective.mean(1) < ladder[0]).all()
    assert (ladder[0] < ladder[1]).all() and (ladder[1] < ladder[2]).all()
    assert_close(ladder[2], truth, atol=0.05, rtol=0)


def test_w_reads_observed_frames_and_no_padding(model, batch) -> None:
    q = model.clip(batch)
    alone = batch.x[:1, batch.observed[0].any(-1)]
    observed = batch.observed[:1, batch.observed[0].any(-1)]
    short = batch._replace(x=alone, observed=observed, lengths=torch.tensor([3]))
    assert_close(model.clip(short).mean[0], q.mean[0])
    assert_close(model.clip(short).scale[0], q.scale[0])
    nothing = batch._replace(observed=torch.zeros_like(batch.observed), x=torch.zeros_like(batch.x))
    assert_close(model.clip(nothing).mean, torch.zeros(2, W, dtype=torch.float64))
    assert_close(model.clip(nothing).scale, torch.ones(2, W, dtype=torch.float64))


def test_w_is_one_for_all_frames_and_has_its_prior(model, batch) -> None:
    z, _ = model.infer(batch, 5, seeded(0))
    w = z[..., Z:]
    assert_close(w, w[:, :, :1].expand_as(w))
    given = model.given_w.log_prior(batch, z[..., :Z])
    assert_close(model.log_prior(batch, z) - given, log_normal(w[:, :, 0], standard_normal(w[:, :, 0])))


def test_a_decoder_that_ignores_w_leaves_the_vae_hmm(model, batch) -> None:
    with torch.no_grad():
        model.core.decoder[-1].weight[:, Z:] = 0
    plain_core = AEVB(D, Z, Gaussian(shared=True), hidden=()).double()
    chosen = [*range(Z), *range(Z + W, Z + W + Z)]  # rows of the encoder that speak of z
    with torch.no_grad():
        plain_core.encoder[-1].weight.copy_(model.core.encoder[-1].weight[chosen])
        plain_core.encoder[-1].bias.copy_(model.core.encoder[-1].bias[chosen])
        plain_core.decoder[-1].weight.copy_(model.core.decoder[-1].weight[:, :Z])
        plain_core.decoder[-1].bias.copy_(model.core.decoder[-1].bias)
        plain_core.likelihood.raw_scale.copy_(model.core.likelihood.raw_scale)
        p = model.given_w.components()
        plain = VAEHMM(plain_core, model.transition, p.mean, p.variance)
        assert_close(model.smooth(batch).gamma, plain.smooth(batch).gamma)
        assert_close(model.latents(batch)[..., :Z], plain.latents(batch))


def test_gradients_reach_every_weight(batch) -> None:
    core = AEVB(D, Z + W, Gaussian(shared=True), hidden=(4,)).double()
    model = ClipVAEHMM(
        core, sticky(K, 2.0, torch.float64), torch.randn(K, Z).double(), torch.ones(K, Z).double()
    )
    model.objective(batch, generator=seeded(0)).sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    assert isinstance(model, nn.Module)
