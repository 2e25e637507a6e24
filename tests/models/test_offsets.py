"""Offsets of states at the decoder's outputs: at 0 the plain VAE-HMM, with a silent decoder the HMM they belong to."""

import copy
import math
from typing import Any

import pytest
import torch
from oracles import cube_noise, enumerate_posterior
from torch import Tensor

from dbn_vae import aevb, emissions, inference
from dbn_vae.aevb import AEVB
from dbn_vae.evaluation.collapse import kl_by_dimension
from dbn_vae.evaluation.particles import particle_filter, smoothed_paths
from dbn_vae.inference import Chain
from dbn_vae.likelihoods import named
from dbn_vae.models import HMM, VAEHMM, MeanFieldVAEHMM, SampledVAEHMM
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.training.reseed import explain, seed
from dbn_vae.transitions import Stationary

EXACT = {"rtol": 1e-10, "atol": 1e-10}
KINDS = [VAEHMM, SampledVAEHMM, MeanFieldVAEHMM]
K, D, Z = 3, 4, 2
close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def settled():
    with inference.using("reference"):
        yield


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normals(*shape: int, seed: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64).normal_(generator=torch.Generator().manual_seed(seed))


def chain() -> Stationary:
    moves = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]).double()
    return Stationary(torch.tensor([0.5, 0.3, 0.2]).double(), moves)


def batch(labels: Any = None) -> Batch:
    x = (normals(9, D, seed=1) > 0).double()
    x[1] = x[4, 2] = x[8, :3] = math.nan
    return Sequences.from_any(x, [4, 2, 3], labels=labels).batch()


def answers(model: Any, data: Batch) -> dict[str, Tensor]:
    """Everything that a model is asked, noise for noise."""
    paths = smoothed_paths(model, data, 3, 50, seeded())
    return {
        "objective": model.objective(data, beta=0.3, generator=seeded()),
        "importance bound": model.importance_bound(data, 4, seeded()),
        "elbo": model.elbo(data, 4, seeded()).elbo,
        "kl": model.elbo(data, 4, seeded()).kl,
        "sampled elbo": model.elbo_sampled(data, 4, seeded()).elbo,
        "particle filter": particle_filter(model, data, 20, seeded()),
        "smoothed paths": paths,
        "latents": model.latents(data),
        "reconstruction": model.reconstruct(data)[data.mask],
        "gamma": model.smooth(data).gamma,
        "viterbi": model.viterbi(data).states,
        "kl by dimension": kl_by_dimension(model, data),
        "sample": model.sample(7, seeded())[0],
    }


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_offsets_of_zero_change_nothing(kind: Any, top_k: int | None) -> None:
    torch.manual_seed(0)
    core = AEVB(D, Z, named("bernoulli"), (5,)).double()
    mean, variance = normals(K, Z, seed=2), 0.4 + normals(K, Z, seed=3).square()
    plain = kind(core, chain(), mean, variance)
    offset = kind(core, chain(), mean, variance, torch.zeros(K, D).double())
    for model in (plain, offset):
        model.top_k = top_k
    for data in (batch(), batch([1, -1, -1, 0, -1, 2, -1, -1, -1])):
        for (name, a), b in zip(answers(plain, data).items(), answers(offset, data).values(), strict=True):
            close(b, a, **EXACT, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_at_offsets_of_zero_are_the_plain_ones(kind: Any) -> None:
    """At any β, of all weights that both have; and what pulls on the offsets is Σ γ (x − p)."""
    torch.manual_seed(0)
    core = AEVB(D, Z, named("bernoulli"), (5,)).double()
    mean, variance = normals(K, Z, seed=2), 0.4 + normals(K, Z, seed=3).square()
    plain = kind(core, chain(), mean, variance)
    offset = kind(copy.deepcopy(core), chain(), mean, variance, torch.zeros(K, D).double())
    for model in (plain, offset):
        model.objective(batch(), beta=0.3, generator=seeded()).sum().backward()
    own = dict(offset.named_parameters())
    for name, p in plain.named_parameters():
        close(own[name].grad, p.grad, **EXACT, msg=lambda m, name=name: f"{name}: {m}")
    assert (offset.offset.grad != 0).all()
    bias = [m for m in offset.core.decoder if isinstance(m, torch.nn.Linear)][-1].bias
    close(offset.offset.grad.sum(0), bias.grad, **EXACT)


def silent(kind: Any) -> tuple[Any, HMM]:
    """A decoder that writes 0, an encoder that says nothing, and the HMM whose emissions the offsets are."""
    core = AEVB(D, Z, named("bernoulli"), (5,)).double()
    with torch.no_grad():
        for p in [*core.decoder.parameters(), *core.encoder.parameters()]:
            p.zero_()
        [m for m in core.encoder if isinstance(m, torch.nn.Linear)][-1].bias[Z:] = -800.0
    offset = normals(K, D, seed=5)
    model = kind(core, chain(), torch.zeros(K, Z).double(), torch.ones(K, Z).double(), offset)
    return model, HMM(chain(), emissions.Bernoulli(offset.sigmoid()))


@pytest.mark.parametrize("labels", [None, [1, -1, -1, 0, -1, 2, -1, -1, -1]])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_with_a_silent_decoder_it_is_the_hmm_of_the_offsets(
    kind: Any, labels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every bound, with one sample, is its log-likelihood, which all paths written out have as well.

    With noise of ±1 a sample's log N(z; 0, I) is minus the entropy, which A1 takes in closed form.
    """
    monkeypatch.setattr(torch, "randn", cube_noise())
    model, hmm = silent(kind)
    data = batch(labels)
    log_p, gamma, _ = enumerate_posterior(hmm.chain(data))
    every = {
        "objective": model.objective(data, generator=seeded()),
        "importance bound": model.importance_bound(data, 1, seeded()),
        "elbo": model.elbo(data, 1, seeded()).elbo,
        "sampled elbo": model.elbo_sampled(data, 1, seeded()).elbo,
        "weights": model.log_weights(data, 1, seeded())[0],
        "particle filter": particle_filter(model, data, 1, seeded()),
        "decoding": model.verbs.log_partition(model.chain(data)),
    }
    for name, value in every.items():
        close(value, log_p, **EXACT, msg=lambda m, name=name: f"{name}: {m}")
    close(model.smooth(data).gamma[data.mask], gamma[data.mask], **EXACT)
    close(model.reconstruct(data)[data.mask], (gamma @ hmm.emission.probs())[data.mask], **EXACT)
    assert torch.equal(model.viterbi(data).states, hmm.viterbi(data).states)


@torch.no_grad()
def test_the_offsets_tell_the_posterior_of_the_latents() -> None:
    """Components that differ: with the decoder silent q(z) is p(z | x), though the encoder says nothing."""
    model, hmm = silent(VAEHMM)
    model.mean.copy_(3 * normals(K, Z, seed=2))
    data = batch()
    log_p, gamma, _ = enumerate_posterior(hmm.chain(data))
    close(model.log_weights(data, 5, seeded()), log_p.expand(5, -1), **EXACT)
    close(model.latents(data)[data.mask], (gamma @ model.mean)[data.mask], **EXACT)
    one = Sequences.from_any(data.x[data.mask], [1] * 9).batch()
    close(particle_filter(model, one, 1, seeded()), enumerate_posterior(hmm.chain(one))[0], **EXACT)


@torch.no_grad()
def test_the_likeliest_states_are_those_that_the_offsets_tell() -> None:
    model, hmm = silent(VAEHMM)
    model.top_k, data = 2, batch()
    gamma = hmm.smooth(data).gamma
    path = hmm.viterbi(data).states.clamp_min(0)
    kept = gamma.scatter(-1, path[..., None], 2.0).topk(2, -1).indices
    full = hmm.chain(data)
    among = torch.zeros_like(gamma).scatter(-1, kept, 1.0) > 0
    fewer = Chain(*full[:2], full.log_emission.masked_fill(~among, -math.inf), data.lengths)
    close(model.importance_bound(data, 1, seeded()), enumerate_posterior(fewer)[0], **EXACT)


@torch.no_grad()
def test_samples_are_drawn_in_their_states() -> None:
    model, hmm = silent(VAEHMM)
    x, states, _ = model.sample(20_000, seeded())
    for k, p in enumerate(hmm.emission.probs()):
        own = x[states == k]
        assert ((own.mean(0) - p).abs() < 5 * (p * (1 - p) / len(own)).sqrt()).all()


@torch.no_grad()
def test_paths_tell_the_states_they_were_in() -> None:
    """Components 20 apart: z gives the state away, so that the offset along a path is that of the nearest mean."""
    model, _ = silent(VAEHMM)
    model.mean.copy_(20 * torch.arange(K)[:, None].expand(K, Z))
    data = batch()
    paths = smoothed_paths(model, data, 5, 200, seeded())
    nearest = (paths[..., :1] / 20).round().squeeze(-1).long()
    found = model.offsets_along(data, paths, seeded())
    assert found is not None
    close(found[:, data.mask], model.offset[nearest.clamp(0, K - 1)][:, data.mask])


def test_a_state_begun_again_has_the_offset_of_those_that_live() -> None:
    torch.manual_seed(0)
    core = AEVB(D, Z, named("bernoulli"), (5,)).double()
    offset = normals(K, D, seed=5)
    model = VAEHMM(core, chain(), torch.zeros(K, Z).double(), torch.ones(K, Z).double(), offset)
    data = Sequences.from_any((normals(60, D, seed=1) > -1).double(), [30, 30])
    with torch.no_grad():
        assert seed(model, 2, [0, 1], explain(model, data), seeded())
    close(model.offset.detach(), torch.cat([offset[:2], offset[:2].mean(0, True)]))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_pieces_that_fit_memory_are_the_whole(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    core = AEVB(D, Z, named("bernoulli"), (5,)).double()
    mean, variance = normals(K, Z, seed=2), 0.4 + normals(K, Z, seed=3).square()
    model, data = kind(core, chain(), mean, variance, normals(K, D, seed=5)), batch()
    for top_k in (None, 2):
        model.top_k = top_k
        monkeypatch.setattr(aevb, "MAX_VALUES", 2**24)
        whole = answers(model, data)
        monkeypatch.setattr(aevb, "MAX_VALUES", 60)
        for (name, a), b in zip(whole.items(), answers(model, data).values(), strict=True):
            close(b, a, **EXACT, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_frames_to_come_are_drawn_along_paths_of_states(kind: Any) -> None:
    """Of latents that say nothing: the offsets of two steps ahead are those of states drawn, moved by A."""
    model, _ = silent(kind)
    n, first = 20_000, chain().log_initial().exp()
    A = chain().log_transition().exp()
    state = torch.zeros(n, 1, Z).double(), first.log().expand(n, 1, K)
    seen = []
    for _ in range(2):
        state = model.ahead(state, None, seeded() if not seen else torch.Generator().manual_seed(1))
        found = model.offsets_at(state)
        seen.append((found[:, 0, None] == model.offset).all(-1).long().argmax(-1))
    pairs = torch.bincount(K * seen[0] + seen[1], minlength=K * K).view(K, K) / n
    wanted = (first @ A)[:, None] * A
    assert ((pairs - wanted).abs() < 5 * (wanted * (1 - wanted) / n).sqrt()).all(), (pairs, wanted)


@torch.no_grad()
def test_what_offsets_tell_later_is_known_of_latents_before() -> None:
    """A state that hardly ever moves: of the frame unseen z is near its mean, and only x of the next tells which."""
    model, hmm = silent(VAEHMM)
    sticky = 0.98 * torch.eye(K).double() + 0.02 / K
    for part in (model, hmm):
        part.transition.initial_logits.zero_()
        part.transition.transition_logits.copy_(sticky.log())
    model.offset.mul_(6)
    hmm.emission.logits.copy_(model.offset)
    model.mean.copy_((torch.arange(K)[:, None] - 1.0).expand(K, Z))
    unseen = torch.full((1, D), math.nan).double()
    told = (model.offset[[0, 2]] > 0).double()
    data = Sequences.from_any([torch.cat([unseen, x[None]]).numpy() for x in told]).batch()
    found = smoothed_paths(model, data, 2000, 2000, seeded()).mean(0)[:, 0]
    wanted = (enumerate_posterior(hmm.chain(data))[1] @ model.mean)[:, 0]
    spread = 5 * math.sqrt(1.5 * 2 / 2000)
    assert ((found - wanted).abs() < spread).all(), (found, wanted)
    assert (wanted.abs() > 0.8).all(), "nothing to know"
