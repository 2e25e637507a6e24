"""One family of models: in a limit, each becomes its simpler relative."""

import copy
import math

import pytest
import torch
from oracles import cube_noise
from torch import Tensor

from dbn_vae import emissions, inference, likelihoods
from dbn_vae.aevb import AEVB
from dbn_vae.evaluation.particles import particle_filter
from dbn_vae.models import DMM, HMM, VAE, VAEHMM, Filtering, MeanFieldVAEHMM, PerStep, Product, SwitchingDMM
from dbn_vae.sequences import Sequences
from dbn_vae.transitions import Gated, InputDriven, Linear, NegativeBinomialDuration, SemiMarkov, Stationary

EXACT = {"rtol": 1e-10, "atol": 1e-10}
close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def settled():
    with inference.using("reference"), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        yield


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64).normal_(generator=seeded(seed))


def data(lengths=(5, 1, 3), labels=None) -> Sequences:
    x = normals(sum(lengths), 2, seed=1)
    x[1, 0] = x[2] = math.nan
    return Sequences.from_any(x, list(lengths), labels=labels)


def core() -> AEVB:
    return AEVB(2, 2, likelihoods.Gaussian(), hidden=(6,)).double()


def one_state() -> Stationary:
    return Stationary(torch.ones(1).double(), torch.ones(1, 1).double())


def three_states() -> Stationary:
    return Stationary(normals(3, seed=2).softmax(0), normals(3, 3, seed=3).softmax(1))


def memoryless() -> Stationary:
    """Equal rows, and the start like them: every step draws its state anew."""
    row = normals(3, seed=2).softmax(0)
    return Stationary(row, row.expand(3, 3))


GAUSSIANS = normals(3, 2, seed=4), 0.4 + normals(3, 2, seed=5).square()
STANDARD = torch.zeros(1, 2).double(), torch.ones(1, 2).double()


def forgetful(mean: Tensor, variance: Tensor) -> Linear:
    """N(mean, diag variance) wherever z was."""
    move = Linear(2).double()
    move.weight.zero_()
    move.bias.copy_(mean)
    move.raw_variance.copy_((variance - 1e-8).expm1().log())
    return move


def agree(a, b, *arguments) -> None:
    """Latents, both terms of the ELBO, estimator A and the importance weights, on the same noise."""
    batch = data().batch()
    close(a.latents(batch), b.latents(batch), **EXACT)
    for n_samples in (1, 4):
        one, other = a.elbo(batch, n_samples, seeded()), b.elbo(batch, n_samples, seeded())
        close(one.log_likelihood, other.log_likelihood, **EXACT)
        close(one.kl, other.kl, **EXACT)
        close(a.log_weights(batch, n_samples, seeded()), b.log_weights(batch, n_samples, seeded()), **EXACT)
    close(a.objective(batch, generator=seeded()), b.objective(batch, generator=seeded()), **EXACT)


@pytest.mark.parametrize("covariance", ["diag", "full"])
@pytest.mark.parametrize("kind", [VAEHMM, MeanFieldVAEHMM])
def test_a_vae_hmm_with_one_standard_state_is_the_vae(kind, covariance):
    shared, batch = core(), data().batch()
    mean, variance = STANDARD
    spread = variance if covariance == "diag" else torch.diag_embed(variance)
    vae, vae_hmm = VAE(shared), kind(shared, one_state(), mean, spread)
    close(vae_hmm.latents(batch), vae.latents(batch), **EXACT)
    for n_samples in (1, 5):
        one, other = (m.elbo(batch, n_samples, seeded()) for m in (vae_hmm, vae))
        close(one.log_likelihood, other.log_likelihood, **EXACT)
        close(one.kl, other.kl, **EXACT)
    z = normals(3, 3, 5, 2, seed=6)
    close(vae_hmm.log_prior(batch, z), vae.log_prior(batch, z), **EXACT)
    if kind is VAEHMM:  # both take their importance samples frame by frame
        bounds = [m.importance_bound(batch, 7, seeded()) for m in (vae_hmm, vae)]
        close(*bounds, **EXACT)


def test_one_mean_field_state_is_the_vae_in_every_estimate():
    shared, batch = core(), data().batch()
    a, b = MeanFieldVAEHMM(shared, one_state(), *STANDARD), VAE(shared)
    agree(a, b)
    assert a.posterior(batch).mean.equal(b.posterior(batch).mean)


EMISSIONS = {
    "gaussian": lambda K: emissions.DiagonalGaussian(GAUSSIANS[0][:K], GAUSSIANS[1][:K]),
    "full": lambda K: emissions.FullGaussian(GAUSSIANS[0][:K], torch.diag_embed(GAUSSIANS[1][:K])),
}


@pytest.mark.parametrize("family", EMISSIONS)
def test_an_hmm_with_one_state_is_its_emission(family):
    batch = data().batch()
    model = HMM(one_state(), EMISSIONS[family](1))
    alone = model.emission.log_prob(batch.x, batch.observed).squeeze(-1)
    close(model.objective(batch), (alone * batch.mask).sum(1), **EXACT)


@pytest.mark.parametrize("family", EMISSIONS)
def test_an_hmm_with_equal_rows_is_a_mixture(family):
    batch, transition = data().batch(), memoryless()
    model = HMM(transition, EMISSIONS[family](3))
    joint = transition.log_initial() + model.emission.log_prob(batch.x, batch.observed)
    close(model.objective(batch), (joint.logsumexp(-1) * batch.mask).sum(1), **EXACT)
    posterior = model.smooth(batch)
    close(posterior.gamma[batch.mask], joint.softmax(-1)[batch.mask], **EXACT)
    close(model.filter(batch).probs, posterior.gamma, **EXACT)


@pytest.mark.parametrize("kind", [VAEHMM, MeanFieldVAEHMM])
def test_a_vae_hmm_with_equal_rows_is_a_mixture_of_frames(kind, monkeypatch):
    sequences, model = data(), kind(core(), memoryless(), *GAUSSIANS)
    frames = sequences.frames()
    monkeypatch.setattr(torch, "randn", cube_noise())
    whole, apart = model.elbo(sequences.batch(), 4).elbo, model.elbo(frames.batch(), 4).elbo
    close(whole, torch.stack([part.sum() for part in apart.split(sequences.lengths.tolist())]), **EXACT)


def test_two_copies_of_a_state_are_one_state():
    """Split the last state in two that share its moves and its emission: no sequence can tell."""
    model = HMM(three_states(), EMISSIONS["gaussian"](3))
    start, moves = model.transition.log_initial().exp(), model.transition.log_transition().exp()
    old = torch.tensor([0, 1, 2, 2])
    share = torch.tensor([1, 1, 0.3, 0.7]).double()
    emission = emissions.DiagonalGaussian(GAUSSIANS[0][old], GAUSSIANS[1][old])
    split = HMM(Stationary(start[old] * share, moves[old][:, old] * share), emission)
    batch = data().batch()
    close(split.objective(batch), model.objective(batch), **EXACT)
    gamma = split.smooth(batch).gamma
    lumped = torch.cat([gamma[..., :2], gamma[..., 2:].sum(-1, keepdim=True)], -1)
    close(lumped, model.smooth(batch).gamma, **EXACT)


@pytest.mark.parametrize("recognition", [Filtering, PerStep])
def test_a_dmm_that_forgets_is_the_vae(recognition):
    shared = core()
    model = DMM(shared, forgetful(*(v[0] for v in STANDARD)), recognition()).double()
    agree(model, VAE(shared))


@pytest.mark.parametrize("transition", [Gated, Linear])
def test_a_dmm_of_single_frames_is_the_vae_whatever_its_transition(transition):
    shared, frames = core(), data().frames().batch()
    model = DMM(shared, transition(2).double(), Filtering()).double()
    vae = VAE(shared)
    close(model.latents(frames), vae.latents(frames), **EXACT)
    close(model.elbo(frames, 3, seeded()).elbo, vae.elbo(frames, 3, seeded()).elbo, **EXACT)
    for S in (1, 6):
        bounds = [m.importance_bound(frames, S, seeded()) for m in (model, vae)]
        close(*bounds, **EXACT)


@pytest.mark.parametrize("chain", [one_state, three_states])
@pytest.mark.parametrize("recognition", [Filtering, Product])
def test_a_switching_dmm_with_equal_moves_is_the_dmm(recognition, chain):
    shared, transition = core(), Gated(2).double()
    infer = (recognition(2, 2, 4) if recognition is Product else recognition()).double()
    dmm = DMM(shared, transition, infer).double()
    dmm.initial_mean.fill_(0.4)
    dmm.initial_log_scale.fill_(-0.3)
    states = chain()
    moves = [copy.deepcopy(transition) for _ in range(states.n_components)]
    switching = SwitchingDMM(shared, states, moves, infer).double()
    switching.initial_mean.fill_(0.4)
    switching.initial_log_scale.fill_(-0.3)
    batch, noise = data().batch(), normals(4, 3, 5, 2, seed=7)
    (z, q), (w, r) = switching.trajectory(batch, noise), dmm.trajectory(batch, noise)
    close(z, w, **EXACT)
    close(q.mean, r.mean, **EXACT)
    close(q.scale, r.scale, **EXACT)
    close(switching.log_prior(batch, z), dmm.log_prior(batch, z), **EXACT)
    close(switching.latents(batch), dmm.latents(batch), **EXACT)
    for S in (1, 6):
        weights = [m.log_weights(batch, S, seeded()) for m in (switching, dmm)]
        close(*weights, **EXACT)


def test_a_switching_dmm_whose_states_cannot_be_told_apart_knows_the_chain_alone():
    states, move = three_states(), Gated(2).double()
    model = SwitchingDMM(core(), states, [move] * 3, Filtering()).double()
    batch = data().batch()
    belief = states.log_initial().exp()
    for t in range(5):
        close(model.filter(batch).probs[0, t], belief, **EXACT)
        belief = belief @ states.log_transition().exp()


def test_a_recurrent_switching_dmm_whose_states_do_not_mind_z_is_the_plain_one():
    shared, states = core(), three_states()
    driven = InputDriven(states.log_initial().exp(), states.log_transition().exp(), n_inputs=2)
    moves = [Gated(2).double() for _ in range(3)]
    agree(*(SwitchingDMM(shared, s, moves, Filtering(), s is driven).double() for s in (states, driven)))


def twice_the_chain() -> tuple[Stationary, SemiMarkov]:
    """A Markov chain, and the same as stays of geometric length, cut off where none is left."""
    mean = torch.tensor([0.5, 1.5, 4.0]).double()  # steps beyond the first
    stay = mean / (1 + mean)
    apart = normals(3, 3, seed=3).exp() * (1 - torch.eye(3))
    apart = apart / apart.sum(1, keepdim=True)
    start = normals(3, seed=2).softmax(0)
    lengths = NegativeBinomialDuration(mean, torch.ones(3).double(), 200, geometric=True)
    plain = Stationary(start, stay.diag() + (1 - stay)[:, None] * apart)
    return plain, SemiMarkov(Stationary(start, apart), lengths)


@pytest.mark.parametrize("kind", ["VAEHMM", "MeanFieldVAEHMM", "SwitchingDMM"])
@pytest.mark.parametrize("labels", [None, [0, -1, 2, -1, -1, 1, -1, -1, 0]])
def test_stays_of_geometric_length_are_a_markov_chain(kind, labels):
    """In every bound, in the states, in the particle filter, and in the gradient of the objective."""
    batch, shared, move = data(labels=labels).batch(), core(), Gated(2).double()
    moves = [copy.deepcopy(move) for _ in range(3)]
    for k, other in enumerate(moves):
        other.linear.bias.fill_(0.5 * k)
    models = []
    for chain in twice_the_chain():
        if kind == "SwitchingDMM":
            models.append(SwitchingDMM(shared, chain, moves, Filtering()).double())
        else:
            made = {"VAEHMM": VAEHMM, "MeanFieldVAEHMM": MeanFieldVAEHMM}[kind]
            models.append(made(shared, chain, *GAUSSIANS))
    one, other = models
    z = normals(4, 3, 5, 2, seed=8)
    close(one.log_prior(batch, z), other.log_prior(batch, z), **EXACT)
    close(one.latents(batch), other.latents(batch), **EXACT)
    close(one.elbo(batch, 3, seeded()).elbo, other.elbo(batch, 3, seeded()).elbo, **EXACT)
    close(one.importance_bound(batch, 3, seeded()), other.importance_bound(batch, 3, seeded()), **EXACT)
    close(particle_filter(one, batch, 4, seeded()), particle_filter(other, batch, 4, seeded()), **EXACT)
    close(one.smooth(batch).gamma, other.smooth(batch).gamma, **EXACT)
    close(one.filter(batch).probs, other.filter(batch).probs, **EXACT)
    assert torch.equal(one.viterbi(batch).states, other.viterbi(batch).states)
    with torch.enable_grad():
        found = [
            torch.autograd.grad(m.objective(batch, generator=seeded()).sum(), shared.parameters())
            for m in models
        ]
    for a, b in zip(*found, strict=True):
        close(a, b, **EXACT)


@pytest.mark.parametrize("labels", [None, [0, -1, 2, -1, -1, 1, -1, -1, 0]])
def test_a_switching_dmm_that_forgets_has_the_vae_hmms_prior(labels):
    shared, states = core(), three_states()
    moves = [forgetful(m, v) for m, v in zip(*GAUSSIANS, strict=True)]
    switching = SwitchingDMM(shared, states, moves, Filtering()).double()
    switching.initial_mean.copy_(GAUSSIANS[0])
    switching.initial_log_scale.copy_(0.5 * GAUSSIANS[1].log())
    vae_hmm = VAEHMM(shared, states, *GAUSSIANS)
    batch, z = data(labels=labels).batch(), normals(4, 3, 5, 2, seed=8)
    close(switching.log_prior(batch, z), vae_hmm.log_prior(batch, z), **EXACT)


def test_a_vae_hmm_with_certain_evidence_is_the_hmm_of_its_latents():
    """J → ∞: log c_t(k) tends to log N(location; μ_k, V_k) up to a constant, so the posterior is an HMM's."""
    shared = core()
    shared.encoder[-1].weight[2:] = 0
    shared.encoder[-1].bias[2:] = 1e7
    model = VAEHMM(shared, three_states(), *GAUSSIANS)
    batch = data().batch()
    latents, _ = shared.encoder(batch.x).chunk(2, -1)
    seen = batch.observed.any(-1, keepdim=True).expand_as(latents)
    hmm = HMM(model.transition, emissions.DiagonalGaussian(*GAUSSIANS))
    classical = hmm.smooth(batch._replace(x=latents * seen, observed=seen))
    close(model.smooth(batch).gamma, classical.gamma, rtol=0, atol=1e-5)
    close(model.latents(batch)[seen[..., 0]], latents[seen[..., 0]], rtol=0, atol=1e-5)
