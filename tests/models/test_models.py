"""Bounds against exact likelihoods, and what must not change a model's answers.

Where everything is linear and Gaussian, log p(x) is a dense Gaussian, summed over state paths where there are
states.  There a bound at the true posterior is log p(x) exactly, and anywhere else importance weights average
to p(x): between them these two facts leave no factor of the joint unchecked.
"""

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from oracles import (
    cube_noise,
    dense_gaussian_log_prob,
    enumerate_posterior,
    linear_gaussian_core,
    log_joint,
    paths,
    walk_moments,
)
from torch import Tensor

from dbn_vae import emissions, inference, likelihoods
from dbn_vae.aevb import AEVB
from dbn_vae.distributions import Evidence, posterior
from dbn_vae.evaluation.particles import particle_filter
from dbn_vae.inference import Chain
from dbn_vae.models import (
    DMM,
    HMM,
    STL,
    STLR,
    STR,
    VAE,
    VAEHMM,
    Filtering,
    LatentModel,
    MeanFieldVAEHMM,
    Model,
    PerStep,
    Product,
    Recognition,
    SampledVAEHMM,
    Smoothing,
    StateModel,
    SwitchingDMM,
    vae_hmm,
)
from dbn_vae.models.base import Proposal
from dbn_vae.models.gaussians import draw, log_density
from dbn_vae.models.structured import Structured
from dbn_vae.nn import Recurrent
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.transitions import (
    CategoricalDuration,
    Gated,
    InputDriven,
    Linear,
    SemiMarkov,
    Stationary,
    Transition,
)

EXACT = {"rtol": 1e-10, "atol": 1e-9}
NAN = math.nan
close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def settled():
    """Inference on the reference, and the same initial weights in every test."""
    with inference.using("reference"), torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def cubes(monkeypatch):
    """Gaussian noise becomes the corners of a cube over the last n axes; see cube_noise."""
    return lambda n_axes: monkeypatch.setattr(torch, "randn", cube_noise(n_axes))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(rows) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def normals(*shape: int, seed: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64).normal_(generator=seeded(seed))


# Linear-Gaussian models of three short sequences, one frame wholly missing

DECODERS = {
    1: (table([[1.0], [0.5]]), table([0.3, -0.2]), table([0.7, 0.9])),
    2: (
        table([[1.0, 0.5], [0.6, -1.2], [0.4, 0.55]]) * table([[1.0], [1.0], [2.0]]),
        table([0.3, -0.2, 0.1]),
        table([1.0, 1.0, 2.0]),
    ),
}
STARTPROB, TRANSMAT = table([0.5, 0.3, 0.2]), table([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])
LENGTHS = [3, 1, 2]


def chain_over(K: int) -> Stationary:
    start, moves = STARTPROB[:K], TRANSMAT[:K, :K]
    return Stationary(start / start.sum(), moves / moves.sum(1, keepdim=True))


def short_batch(D: int, labels=None, inputs=None) -> Batch:
    x = normals(6, D, seed=1)
    x[1] = NAN
    return Sequences.from_any(x, LENGTHS, labels=labels, inputs=inputs).batch()


def components(K: int, Z: int) -> tuple[Tensor, Tensor]:
    return normals(3, Z, seed=2)[:K], 0.4 + normals(3, Z, seed=3)[:K].square()


def spread(K: int, Z: int, covariance: str) -> tuple[Tensor, Tensor, Tensor]:
    """Means, what a VAE-HMM takes as their spread, and the matrices (K, Z, Z) it stands for."""
    mean, variance = components(K, Z)
    if covariance == "diag":
        return mean, variance, torch.diag_embed(variance)
    root = normals(3, Z, Z, seed=40)[: 1 if covariance == "tied" else K]
    matrix = root @ root.mT + 0.3 * torch.eye(Z).double()
    return mean, matrix, matrix.expand(K, Z, Z)


def drift(Z: int, seed: int = 4, width: float = 0.6, U: int = 0) -> Linear:
    move = Linear(Z, scale=width, n_inputs=U).double()
    with torch.no_grad():
        move.weight.copy_(
            torch.cat([0.8 * torch.eye(Z) + 0.2 * normals(Z, Z, seed=seed), normals(Z, U, seed=9)], 1)
        )
        move.bias.copy_(0.5 * normals(Z, seed=seed + 50))
    return move


def moments_of(move: Linear, u: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """W, b and Q of the move under the inputs of its step."""
    (Z, read), given = move.weight.shape, torch.zeros(0).double() if u is None else u
    W, C = move.weight.detach().split([Z, read - Z], 1)
    variance = move(torch.zeros(1, read, dtype=torch.float64)).variance[0]
    return W, move.bias.detach() + C @ given, variance.detach().diag()


def log_p_given_path(batch: Batch, b: int, Z: int, mean: Tensor, covariance: Tensor) -> float:
    T = int(batch.lengths[b])
    seen = batch.observed[b, :T].any(-1)
    return dense_gaussian_log_prob(batch.x[b, :T], seen, mean, covariance, DECODERS[Z])


def log_p_frames(
    batch: Batch,
    Z: int,
    K: int | None = None,
    covariance: str = "diag",
    chain: Transition | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """The static VAE's (K None), or the VAE-HMM's summed over paths; offset: (K, D), added to x by states."""
    first = (torch.zeros(1, Z).double(), torch.eye(Z).double()[None])
    if K is not None:
        first = spread(K, Z, covariance)[::2]
    potential = torch.zeros(*batch.x.shape[:2], len(first[0]), dtype=torch.float64)
    for b, T in enumerate(batch.lengths.tolist()):
        for t in range(T):
            for k, (m, V) in enumerate(zip(*first, strict=True)):
                x = batch.x[b, t : t + 1] - (0 if offset is None else offset[k])
                one = x, batch.observed[b, t : t + 1].any(-1)
                potential[b, t, k] = dense_gaussian_log_prob(*one, m[None], V[None, :, None], DECODERS[Z])
    transition = chain or (chain_over if batch.inputs is None else driven_chain)(len(first[0]))
    if batch.labels is not None:
        states = torch.arange(len(first[0]))
        wrong = (batch.labels[..., None] >= 0) & (batch.labels[..., None] != states)
        potential = potential.masked_fill(wrong, -math.inf)
    log_p = []
    for b, T in enumerate(batch.lengths.tolist()):
        fits = [potential[b, torch.arange(T), path].sum() for path in paths(T, len(first[0]))]
        moves = [log_p_path(transition, batch, b, path) for path in paths(T, len(first[0]))]
        log_p.append((torch.stack(fits) + torch.stack(moves)).logsumexp(0))
    return torch.stack(log_p).detach()


def log_p_walk(batch: Batch, model: DMM | SwitchingDMM) -> Tensor:
    """The linear DMM's, or the switching one's summed over paths."""
    Z = model.core.n_latent
    moves = [model.transition] if isinstance(model, DMM) else list(model.moves)
    chain = chain_over(1) if isinstance(model, DMM) else model.transition
    first_mean = model.initial_mean.detach().view(-1, Z)
    first_variance = (2 * model.initial_log_scale.detach()).exp().view(-1, Z)
    out = []
    for b, T in enumerate(batch.lengths.tolist()):
        scores = []
        for path in paths(T, len(moves)):
            if (
                batch.labels is not None
                and not ((batch.labels[b, :T] == path) | (batch.labels[b, :T] < 0)).all()
            ):
                continue
            walk = walk_moments(
                (first_mean[path[0]], first_variance[path[0]].diag()),
                [moments_of(moves[k], driving(model, batch, b, t)) for t, k in enumerate(path[1:], 1)],
            )
            score = log_p_path(chain, batch, b, path)
            scores.append(score.detach() + log_p_given_path(batch, b, Z, *walk))
        out.append(torch.stack(scores).logsumexp(0))
    return torch.stack(out)


def driving(model: DMM | SwitchingDMM, batch: Batch, b: int, t: int) -> Tensor | None:
    """What the move of z into step t reads: the inputs, where they drive z and not the states."""
    return batch.inputs[b, t] if isinstance(model, DMM) and batch.inputs is not None else None


def stays_over(K: int, low: int = 1) -> SemiMarkov:
    """Three lengths or more, one of them impossible in state 0."""
    plain, apart = chain_over(K), 1 - torch.eye(K).double()
    moves = plain.log_transition().exp().detach() * apart
    chain = Stationary(plain.log_initial().exp(), moves / moves.sum(1, keepdim=True))
    lengths = normals(K, 4, seed=67).softmax(1)
    lengths[0, 1] = 0
    return SemiMarkov(chain, CategoricalDuration(lengths, min_duration=low))


def log_p_path(chain: Transition, batch: Batch, b: int, path: Tensor) -> Tensor:
    """log p(path), under the inputs where they drive it, or stay by stay; the last stay may go on."""
    if isinstance(chain, SemiMarkov):
        runs = [(k, len(list(run))) for k, run in itertools.groupby(path.tolist())]
        lengths = chain.durations.log_prob().exp()
        score = chain.log_initial()[runs[0][0]]
        for (i, d), (j, _) in itertools.pairwise(runs):
            score = score + lengths[i, d - 1].log() + chain.log_transition()[i, j]
        k, d = runs[-1]
        return score + lengths[k, d - 1 :].sum().log()
    first, moves = chain.log_initial(batch.inputs), chain.log_transition(batch.inputs)
    first = first[b] if first.dim() > 1 else first
    score = first[path[0]]
    for t, (i, j) in enumerate(itertools.pairwise(path)):
        score = score + (moves[b, t] if moves.dim() == 4 else moves)[i, j]
    return score


def driven_chain(K: int, U: int = 2) -> InputDriven:
    plain = chain_over(K)
    chain = InputDriven(plain.log_initial().exp(), plain.log_transition().exp(), U)
    with torch.no_grad():
        chain.initial_slope.copy_(normals(K, U, seed=60))
        chain.transition_slope.copy_(normals(K, K, U, seed=61))
    return chain


class ExactFuture(Recognition):
    """q ∝ p(z_t | z_{t-1}) psi_t χ_t with the χ of a scalar linear walk in closed form: the true posterior."""

    looks_ahead = True

    def __init__(self, move: Linear) -> None:
        super().__init__()
        w, b, q = moments_of(move)
        self.w, self.b, self.q = w.item(), b.item(), q.item()

    def context(self, core: AEVB, batch: Batch) -> Tensor:
        h, J = core.evidence(batch.x, batch.observed)
        total = Evidence(torch.zeros_like(h[:, 0]), torch.zeros_like(J[:, 0]))
        out = []
        for t in reversed(range(h.shape[1])):
            total = total * Evidence(h[:, t], J[:, t])
            out.append(torch.cat(total, -1))
            shrink = 1 / (1 + self.q * total.J)  # ∫ N(z'; w z + b, q) psi(z') dz', as a function of z
            h_next, J_next = shrink * total.h, shrink * total.J
            total = Evidence(self.w * (h_next - self.b * J_next), self.w**2 * J_next)
        return torch.stack(out[::-1], 1)

    def step(self, prediction, z, context):
        return posterior(prediction, Evidence(*context.chunk(2, -1)))


def linear_core(Z: int, doubt: float = 1.0) -> AEVB:
    """doubt < 1: evidence weaker than the truth and a little off, so that q is wider than the posterior."""
    core = linear_gaussian_core(*DECODERS[Z])
    if doubt != 1:
        (encoder,) = core.encoder
        with torch.no_grad():
            J = doubt * encoder.bias[Z:].exp().log1p()
            encoder.bias[Z:] = J.expm1().log()
            encoder.bias[:Z] += 0.2
    return core


def start_at(model: DMM | SwitchingDMM, K: int = 1, differ: bool = False):
    model.double()
    with torch.no_grad():
        model.initial_mean.copy_(torch.full_like(model.initial_mean, 0.4))
        model.initial_log_scale.copy_(torch.full_like(model.initial_log_scale, -0.2))
        if differ:
            model.initial_mean.copy_(normals(K, model.core.n_latent, seed=30))
    return model


LABELS = [2, -1, 0, 1, -1, 1]

# A model at its true posterior, and log p(x)
AT_THE_TRUTH: dict[str, Callable[[], tuple[LatentModel, Batch, Tensor]]] = {}


def at_the_truth(name: str):
    return lambda build: AT_THE_TRUTH.setdefault(name, build)


for _Z in (1, 2):

    @at_the_truth(f"VAE-Z{_Z}")
    def _(Z=_Z):
        batch = short_batch(Z + 1)
        return VAE(linear_core(Z)), batch, log_p_frames(batch, Z)

    for _K in (1, 2, 3):

        @at_the_truth(f"VAEHMM-Z{_Z}-K{_K}")
        def _(Z=_Z, K=_K):
            batch = short_batch(Z + 1)
            model = VAEHMM(linear_core(Z), chain_over(K), *components(K, Z))
            return model, batch, log_p_frames(batch, Z, K)


for _covariance in ("full", "tied"):
    for _labels in (None, LABELS):

        @at_the_truth(f"VAEHMM-{_covariance}" + ("-labelled" if _labels else ""))
        def _(covariance=_covariance, labels=_labels):
            batch = short_batch(3, labels)
            model = VAEHMM(linear_core(2), chain_over(3), *spread(3, 2, covariance)[:2])
            return model, batch, log_p_frames(batch, 2, 3, covariance)


OFFSET = table([[0.9, -0.6], [0.0, 0.4], [-0.7, 0.2]])


def offset_of_outputs(offset: Tensor) -> Tensor:
    """What moves the means alone: the decoder's other outputs are for σ."""
    return torch.cat([offset, torch.zeros_like(offset)], 1)


@at_the_truth("VAEHMM-offset")
def _():
    """The same offset in all states, which the encoder can know of: the true evidence is that of x − b."""
    batch, model = short_batch(2), VAEHMM(linear_core(1), chain_over(3), *components(3, 1))
    same = OFFSET[:1].expand(3, 2)
    model.offset = torch.nn.Parameter(offset_of_outputs(same))
    (encoder,) = model.core.encoder
    with torch.no_grad():
        encoder.bias[:1] -= encoder.weight[:1] @ same[0]
    return model, batch, log_p_frames(batch, 1, 3, offset=same)


@at_the_truth("VAEHMM-labelled")
def _():
    batch = short_batch(3, LABELS)
    return VAEHMM(linear_core(2), chain_over(3), *components(3, 2)), batch, log_p_frames(batch, 2, 3)


@at_the_truth("VAEHMM-stays")
def _():
    batch, chain = short_batch(3), stays_over(3)
    model = VAEHMM(linear_core(2), chain, *components(3, 2))
    return model, batch, log_p_frames(batch, 2, 3, chain=chain)


@at_the_truth("DMM")
def _():
    batch, move = short_batch(2), drift(1)
    model = start_at(DMM(linear_core(1), move, ExactFuture(move)))
    return model, batch, log_p_walk(batch, model)


@at_the_truth("DMM-smoother")
def _():
    batch = short_batch(2)
    model = start_at(DMM(linear_core(1), drift(1), Smoothing()))
    return model, batch, log_p_walk(batch, model)


@at_the_truth("DMM-smoother-inputs")
def _():
    batch = short_batch(2, inputs=normals(6, 2, seed=62))
    model = start_at(DMM(linear_core(1), drift(1, U=2), Smoothing()))
    return model, batch, log_p_walk(batch, model)


@at_the_truth("SwitchingDMM-equal-moves")
def _():
    batch, move = short_batch(2), drift(1)
    moves = [copy.deepcopy(move) for _ in range(2)]
    model = start_at(SwitchingDMM(linear_core(1), chain_over(2), moves, ExactFuture(move)))
    return model, batch, log_p_walk(batch, model)


def test_the_smoothers_path_without_noise_is_the_posteriors_mean():
    """Two latents that move each other, ragged sequences and an unseen frame: E z given x from one dense Gaussian."""
    batch, move = short_batch(3), drift(2)
    model = start_at(DMM(linear_core(2), move, Smoothing()))
    C, d, scale = DECODERS[2]
    found = model.latents(batch)
    for b, T in enumerate(batch.lengths.tolist()):
        first = model.initial_mean.detach(), (2 * model.initial_log_scale.detach()).exp().diag()
        mean, covariance = walk_moments(first, [moments_of(move)] * (T - 1))
        seen = batch.observed[b, :T].flatten()
        read = torch.block_diag(*[C] * T)[seen]
        noise = (scale.square().repeat(T)[seen]).diag()
        rest = (batch.x[b, :T] - d).flatten()[seen] - read @ mean.flatten()
        joint = covariance.reshape(2 * T, 2 * T)
        gain = joint @ read.T @ torch.linalg.inv(read @ joint @ read.T + noise)
        close(found[b, :T].flatten().detach(), mean.flatten() + gain @ rest, **EXACT)


@pytest.mark.some(4)
@pytest.mark.parametrize("name", AT_THE_TRUTH)
def test_at_the_true_posterior_every_bound_is_log_p(name, cubes):
    model, batch, log_p = AT_THE_TRUTH[name]()
    weights = model.log_weights(batch, 7, seeded())
    close(weights, log_p.expand_as(weights), **EXACT)
    close(model.elbo_sampled(batch, 3, seeded()).elbo, log_p, **EXACT)
    close(model.importance_bound(batch, 3, seeded()), log_p, **EXACT)
    cubes(2)
    close(model.elbo(batch, 64).elbo, log_p, **EXACT)


@pytest.mark.parametrize("name", [name for name in AT_THE_TRUTH if "VAEHMM" in name])
def test_the_vae_hmms_objective_is_log_p_at_the_truth_with_one_sample(name):
    model, batch, log_p = AT_THE_TRUTH[name]()
    close(model.objective(batch, generator=seeded()), log_p, **EXACT)


@pytest.mark.parametrize("name", [name for name in AT_THE_TRUTH if "VAEHMM" in name])
@torch.no_grad()
def test_a_vae_hmm_decodes_by_its_emissions(name):
    """log p(x_t | s_t = k) itself at the truth, and the nearest thing to it under evidence that is a little off."""
    model, batch, log_p = AT_THE_TRUTH[name]()
    potential = model.state_potential(batch)
    close(model.verbs.log_partition(model.chain(batch)), log_p, **EXACT)
    model.core = linear_core(model.core.n_latent, doubt=0.7)
    off = (model.state_potential(batch) - potential)[batch.mask].abs().max()
    evidence = model.core.evidence(batch.x, batch.observed)
    crude = model.log_evidence(evidence)
    crude = crude - crude.mean(-1, keepdim=True) + potential.mean(-1, keepdim=True)  # evidence has no level
    assert off < 0.3, f"an emission is off by {off:.3f} nats"
    if model.n_components > 1:
        assert off < (crude - potential)[batch.mask].abs().max(), "the encoder's evidence would have done"


# A model elsewhere, and log p(x): q is wider than the posterior, so that weights have a variance


def recognition(name: str, Z: int) -> Recognition:
    made = {
        "PerStep": PerStep,
        "Filtering": Filtering,
        "smoother": Smoothing,
        "Product": lambda: Product(Z + 1, Z, 4),
        "STL": lambda: STL(Z + 1, Z, 4),
        "STR": lambda: STR(Z + 1, Z, 4),
        "STLR": lambda: STLR(Z + 1, Z, 4),
    }[name]().double()
    if isinstance(made, Structured):
        with torch.no_grad():
            made.head.bias[Z:] = 0.8
    return made


ELSEWHERE: dict[str, Callable[[], tuple[LatentModel, Batch, Tensor]]] = {}


def elsewhere(name: str):
    """Built once, since log p(x) over all paths is the dear part; a test gets a model of its own."""

    def register(build) -> None:
        once = functools.cache(build)
        ELSEWHERE[name] = lambda: (copy.deepcopy(once()[0]), *once()[1:])

    return register


@elsewhere("VAE")
def _():
    batch = short_batch(3)
    return VAE(linear_core(2, 0.6)), batch, log_p_frames(batch, 2)


for _kind in (VAEHMM, MeanFieldVAEHMM):
    for _labels in (None, LABELS):

        @elsewhere(_kind.__name__ + ("-labelled" if _labels else ""))
        def _(kind=_kind, labels=_labels):
            batch = short_batch(2, labels)
            model = kind(linear_core(1, 0.6), chain_over(3), *components(3, 1))
            return model, batch, log_p_frames(batch, 1, 3)


for _kind in (VAEHMM, SampledVAEHMM):

    @elsewhere(f"{_kind.__name__}-full")
    def _(kind=_kind):
        batch = short_batch(3)
        model = kind(linear_core(2, 0.6), chain_over(2), *spread(2, 2, "full")[:2])
        return model, batch, log_p_frames(batch, 2, 2, "full")


for _name in ("PerStep", "Filtering", "Product", "STL", "STR", "STLR"):

    @elsewhere(f"DMM-{_name}")
    def _(name=_name):
        batch = short_batch(2)
        model = start_at(DMM(linear_core(1, 0.6), drift(1), recognition(name, 1)))
        return model, batch, log_p_walk(batch, model)

    @elsewhere(f"SwitchingDMM-{_name}")
    def _(name=_name):
        batch, moves = short_batch(2), [drift(1, seed=4), drift(1, seed=5, width=0.9)]
        model = SwitchingDMM(linear_core(1, 0.6), chain_over(2), moves, recognition(name, 1))
        start_at(model, 2, differ=True)
        return model, batch, log_p_walk(batch, model)


for _kind in (VAEHMM, SampledVAEHMM, MeanFieldVAEHMM):
    for _labels in (None, LABELS):

        @elsewhere(f"{_kind.__name__}-offset" + ("-labelled" if _labels else ""))
        def _(kind=_kind, labels=_labels):
            batch = short_batch(2, labels)
            model = kind(linear_core(1, 0.6), chain_over(3), *components(3, 1), offset_of_outputs(OFFSET))
            return model, batch, log_p_frames(batch, 1, 3, offset=OFFSET)


@elsewhere("DMM-smoother")
def _():
    """Two latents that move each other, and evidence that is a little off."""
    batch, move = short_batch(3), drift(2)
    model = start_at(DMM(linear_core(2, 0.6), move, Smoothing()))
    return model, batch, log_p_walk(batch, model)


@elsewhere("VAEHMM-offset-stays")
def _():
    batch, chain = short_batch(2, [-1, -1, 0, -1, -1, -1]), stays_over(3)
    model = VAEHMM(linear_core(1, 0.6), chain, *components(3, 1), offset_of_outputs(OFFSET))
    return model, batch, log_p_frames(batch, 1, 3, chain=chain, offset=OFFSET)


INPUTS = normals(6, 2, seed=62)


@elsewhere("VAEHMM-driven")
def _():
    batch = short_batch(2, inputs=INPUTS)
    return VAEHMM(linear_core(1, 0.6), driven_chain(3), *components(3, 1)), batch, log_p_frames(batch, 1, 3)


@elsewhere("VAEHMM-stays")
def _():
    batch, chain = short_batch(2, [-1, -1, 0, -1, -1, -1]), stays_over(3)
    model = VAEHMM(linear_core(1, 0.6), chain, *components(3, 1))
    return model, batch, log_p_frames(batch, 1, 3, chain=chain)


@elsewhere("SwitchingDMM-stays")
def _():
    batch, moves = short_batch(2), [drift(1, seed=4), drift(1, seed=5, width=0.9)]
    model = start_at(SwitchingDMM(linear_core(1, 0.6), stays_over(2, 2), moves, Filtering()), 2, differ=True)
    return model, batch, log_p_walk(batch, model)


def log_p_grid(batch: Batch, model: SwitchingDMM) -> Tensor:
    """Of a latent in one dimension: the filter over (z, s) on a grid, states that z and inputs drive."""
    grid = torch.linspace(-9, 9, 301, dtype=torch.float64)[:, None]
    fit = model.core.log_likelihood(batch.x[:, :, None], batch.observed[:, :, None], grid).exp()  # (B, T, G)
    move = log_density(grid[:, None, None], model.move(grid)).exp()  # (to, from, K)
    out = []
    for b, T in enumerate(batch.lengths.tolist()):

        def read(z: Tensor, t: int, b: int = b) -> Tensor:
            return z if batch.inputs is None else torch.cat([z, batch.inputs[b, t].expand(len(z), -1)], 1)

        first = model.transition.first_under(read(torch.zeros(1, 1).double(), 0)).exp()
        alpha = first * log_density(grid[:, None], model.initial(grid)).exp() * fit[b, 0, :, None]
        for t in range(1, T):
            A = model.transition.moves_under(read(grid, t)).exp()  # (from, K, K)
            alpha = torch.einsum("gi,gij,hgj->hj", alpha, A, move) * 0.06 * fit[b, t, :, None]
        out.append((alpha.sum() * 0.06).log())
    return torch.stack(out).detach()


for _name, _inputs in (("Filtering", False), ("Product", True)):

    @elsewhere(f"SwitchingDMM-recurrent-{_name}" + ("-driven" if _inputs else ""))
    def _(name=_name, given=_inputs):
        batch = short_batch(2, inputs=INPUTS if given else None)
        moves = [drift(1, seed=4), drift(1, seed=5, width=0.9)]
        chain = driven_chain(2, 3 if given else 1)
        model = SwitchingDMM(linear_core(1, 0.6), chain, moves, recognition(name, 1), recurrent=True)
        start_at(model, 2, differ=True)
        return model, batch, log_p_grid(batch, model)


@elsewhere("DMM-driven")
def _():
    batch = short_batch(2, inputs=INPUTS)
    model = start_at(DMM(linear_core(1, 0.6), drift(1, U=2), Filtering()))
    return model, batch, log_p_walk(batch, model)


BEFORE = 0.3 * normals(2, 4, seed=64)  # what x_{t-1} and its mask add to x_t


def reading_before(core: AEVB, move, q: Recognition) -> DMM:
    model = start_at(DMM(core, move, q, autoregressive=True))
    with torch.no_grad():
        model.core.decoder.context.weight.normal_(generator=seeded(65))
        if len(core.decoder.rest) == 0:  # linear: the first rows add to the mean, those after them to σ
            model.core.decoder.context.weight.copy_(torch.cat([BEFORE, 0 * BEFORE]))
    return model


for _name in ("Filtering", "STR"):

    @elsewhere(f"DMM-autoregressive-{_name}")
    def _(name=_name):
        """Given x_{t-1}, what it adds to x_t is known: take it away and what is left is the plain linear model."""
        batch = short_batch(2)
        model = reading_before(linear_core(1, 0.6), drift(1), recognition(name, 1))
        last = torch.cat([batch.x, batch.observed], -1).roll(1, 1)
        last[:, 0] = 0
        return model, batch, log_p_walk(batch._replace(x=batch.x - last @ BEFORE.T), model)


@elsewhere("SwitchingDMM-labelled")
def _():
    batch, moves = short_batch(2, [1, -1, 0, -1, -1, 1]), [drift(1, seed=4), drift(1, seed=5, width=0.9)]
    model = SwitchingDMM(linear_core(1, 0.6), chain_over(2), moves, Filtering())
    start_at(model, 2, differ=True)
    return model, batch, log_p_walk(batch, model)


@elsewhere("DMM-Filtering-Z2")
def _():
    batch = short_batch(3)
    model = start_at(DMM(linear_core(2, 0.6), drift(2), recognition("Filtering", 2)))
    return model, batch, log_p_walk(batch, model)


every_model_elsewhere = pytest.mark.parametrize("name", ELSEWHERE)


def within(error: Tensor, samples: Tensor, n_sigma: float = 4.5) -> Tensor:
    """|error of a mean over the first dimension| against its standard error."""
    return error.abs() <= n_sigma * samples.std(0) / math.sqrt(len(samples)) + 1e-12


def repeated(batch: Batch, n: int) -> Batch:
    """n copies of every sequence, copy after copy: as good as n calls with other noise."""
    return batch._replace(
        **{k: v.repeat(n, *[1] * (v.dim() - 1)) for k, v in batch._asdict().items() if v is not None}
    )


def many(model: LatentModel) -> int:
    """Fewer samples where each has states to sum out."""
    return 800 if isinstance(model, StateModel) else 20_000


@pytest.mark.some(4)
@every_model_elsewhere
@torch.no_grad()
def test_importance_weights_average_to_p(name):
    model, batch, log_p = ELSEWHERE[name]()
    ratio = (model.log_weights(batch, many(model), seeded()) - log_p).exp()
    assert (ratio.std(0) > 0.01).any(), "at the truth this would show nothing"
    assert within(ratio.mean(0) - 1, ratio).all(), ratio.mean(0)
    assert (ratio.std(0) < 5).all(), f"weights too wild to conclude from: {ratio.std(0)}"


@pytest.mark.parametrize("kind", [Filtering, Smoothing])
@torch.no_grad()
def test_at_the_truth_q_promises_what_the_future_says_of_a_particle(kind):
    """log p(x_{t+1} | z_t), or of a smoother log p(x_{t+1:T} | z_t), up to a constant of the sequence."""
    batch, move, z = short_batch(3), drift(2), normals(5, 3, 2, seed=8)
    model = start_at(DMM(linear_core(2), move, kind()))
    promise = model.particles(batch, 5, seeded()).promise
    W, b, Q = step = moments_of(move)
    for i, T in enumerate(batch.lengths.tolist()):
        for t in range(T - 1):
            frames = slice(t + 1, T if kind is Smoothing else t + 2)
            x, seen = batch.x[i, frames], batch.observed[i, frames].any(-1)
            walks = [walk_moments((W @ one + b, Q), [step] * (len(x) - 1)) for one in z[:, i]]
            truth = table([dense_gaussian_log_prob(x, seen, *walk, DECODERS[2]) for walk in walks])
            found = promise(t, (z,))[:, i]
            close(found - found[0], truth - truth[0], **EXACT)


@torch.no_grad()
def test_at_the_truth_a_switching_models_promise_sums_over_its_states():
    """log Σ_k p(s_{t+1} = k | z_{1:t}) p(x_{t+1} | z_t, k), up to a constant of the sequence."""
    batch, moves, chain = short_batch(2), [drift(1, seed=4), drift(1, seed=5, width=0.9)], chain_over(2)
    z, belief = normals(5, 3, 1, seed=8), normals(5, 3, 2, seed=9).log_softmax(-1)
    model = start_at(SwitchingDMM(linear_core(1), chain, moves, Filtering()), 2, differ=True)
    promise = model.particles(batch, 5, seeded()).promise
    ahead = belief.exp() @ chain.log_transition().exp()
    for i, T in enumerate(batch.lengths.tolist()):
        for t in range(T - 1):
            x, seen = batch.x[i, t + 1 : t + 2], batch.observed[i, t + 1 : t + 2].any(-1)
            p = torch.zeros(5, dtype=torch.float64)
            for k, move in enumerate(moves):
                W, b, Q = moments_of(move)
                each = [
                    dense_gaussian_log_prob(x, seen, (W @ one + b)[None], Q[None, :, None], DECODERS[1])
                    for one in z[:, i]
                ]
                p += ahead[:, i, k] * table(each).exp()
            found = promise(t, (z, belief))[:, i]
            close(found - found[0], (p / p[0]).log(), **EXACT)


@torch.no_grad()
def test_a_q_that_was_not_told_what_is_missing_promises_nothing():
    """An encoder takes a missing entry for an average one, unless it reads which are; of whole frames it knows."""
    x, z = normals(6, 3, seed=1), normals(5, 3, 2, seed=8)
    x[1, 0], x[5] = NAN, NAN
    batch = Sequences.from_any(x, LENGTHS).batch()
    model = start_at(DMM(linear_core(2), drift(2), Smoothing()))
    promise = model.particles(batch, 5, seeded()).promise(0, (z,))
    assert (promise[:, 0] == 0).all()
    told = Sequences.from_any(normals(6, 3, seed=1), LENGTHS).batch()
    assert (model.particles(told, 5, seeded()).promise(0, (z,))[:, 0].diff() != 0).all()
    assert model.core.told(batch.observed).tolist() == [False, True, True]
    model.core.read_missing = True
    assert model.core.told(batch.observed).all()


@torch.no_grad()
def test_particles_that_follow_the_future_through_a_gap_are_not_punished_for_it():
    """The exact messages of what comes after it: log p(x) spreads by less than a third of what it does without."""
    x = torch.cat([normals(3, 3, seed=1), torch.full((12, 3), NAN), normals(3, 3, seed=2) + 3])
    batch = Sequences.from_any([x.numpy()]).batch()
    model = start_at(DMM(linear_core(2), drift(2), Smoothing()))
    log_p = log_p_walk(batch, model)
    spread, forward = [], model.particles
    for ahead in (True, False):
        if not ahead:
            model.particles = lambda *given: Proposal(forward(*given).advance)
        found = particle_filter(model, repeated(batch, 2000), 20, seeded())
        assert within((found - log_p).exp()[:, None].mean(0) - 1, (found - log_p).exp()[:, None]).all()
        spread.append(found.std())
    assert spread[0] < spread[1] / 3, spread


# a single particle is never drawn again: one model of each kind tells
ALONE = ["VAE", "VAEHMM-stays", "SampledVAEHMM-full", "MeanFieldVAEHMM", "DMM-STR", "SwitchingDMM-Product"]


@pytest.mark.some(4)
@pytest.mark.parametrize(("name", "n_samples"), [*((n, 4) for n in ELSEWHERE), *((n, 1) for n in ALONE)])
@torch.no_grad()
def test_a_particle_filter_averages_to_p(name, n_samples):
    """Unbiased whatever S, with resampling (S = 4: when the effective number is under 2) and without."""
    model, batch, log_p = ELSEWHERE[name]()
    ratio = (particle_filter(model, repeated(batch, 4000), n_samples, seeded()).view(4000, -1) - log_p).exp()
    assert within(ratio.mean(0) - 1, ratio).all(), ratio.mean(0)
    assert (ratio.std(0) < 5).all(), f"weights too wild to conclude from: {ratio.std(0)}"


@pytest.mark.some(4)
@every_model_elsewhere
@torch.no_grad()
def test_importance_bounds_rise_towards_log_p(name):
    model, batch, log_p = ELSEWHERE[name]()
    before = None
    for n_samples in (1, 5, 25):
        bounds = model.importance_bound(repeated(batch, 30), n_samples, seeded()).view(30, -1)
        mean, error = bounds.mean(0), bounds.std(0) / math.sqrt(30)
        assert (mean <= log_p + 4.5 * error + 1e-9).all(), f"S = {n_samples} exceeds log p"
        if before is not None:
            assert (mean >= before[0] - 4.5 * (error + before[1]) - 1e-9).all(), f"S = {n_samples} fell"
        before = mean, error
    large = model.importance_bound(batch, many(model), seeded())
    close(large, log_p, rtol=0, atol=0.25)
    elbo = model.elbo(batch, many(model), seeded()).elbo.sum()
    assert elbo < log_p.sum() - 0.02, "at the truth this would show nothing"
    assert large.sum() > elbo


@pytest.mark.some(4)
@every_model_elsewhere
@torch.no_grad()
def test_estimators_a_and_b_have_one_mean(name):
    """Of MeanFieldVAEHMM B is another, lower bound, A2 ≤ A1; so it is of a VAEHMM whose offsets tell s given z."""
    model, batch, _ = ELSEWHERE[name]()
    n = 20 if isinstance(model, StateModel) else 500
    a = model.elbo_sampled(repeated(batch, 30), n, seeded(0)).elbo.view(30, -1)
    b = model.elbo(repeated(batch, 30), n, seeded(1)).elbo.view(30, -1)
    error = ((a.var(0) + b.var(0)) / 30).sqrt()
    if type(model) is MeanFieldVAEHMM or (type(model) is VAEHMM and model.offset is not None):
        assert (b.mean(0) <= a.mean(0) + 4.5 * error).all()
        assert b.mean() < a.mean() - 0.01
    else:
        assert ((a.mean(0) - b.mean(0)).abs() <= 4.5 * error + 1e-12).all(), (a.mean(0), b.mean(0))


@pytest.mark.parametrize("name", [name for name in ELSEWHERE if name.startswith("VAEHMM")])
@torch.no_grad()
def test_the_vae_hmms_objective_is_at_least_its_elbo(name):
    model, batch, _ = ELSEWHERE[name]()
    one = model.emission_bound(repeated(batch, 200), 1, 1.0, seeded(0)).view(200, -1)
    elbo = model.elbo(repeated(batch, 200), 20, seeded(1)).elbo.view(200, -1)
    error = ((one.var(0) + elbo.var(0)) / 200).sqrt()
    assert (one.mean(0) >= elbo.mean(0) - 4.5 * error - 1e-9).all()


@pytest.mark.parametrize(
    "name",
    ["VAEHMM", "VAEHMM-full", "VAEHMM-labelled", "VAEHMM-offset", "VAEHMM-stays", "VAEHMM-left-right"],
)
@torch.no_grad()
def test_the_bound_over_the_likeliest_states_rises_to_the_whole_one(name):
    """Each k sums over fewer paths than the next; all of them are the plain bound, noise for noise."""
    model, batch = (ELSEWHERE[name]()[:2]) if name in ELSEWHERE else (MODELS[name](), holed_data().batch())
    K, bounds = model.n_components, []
    for top_k in (None, K + 3, *range(K, 0, -1)):
        model.top_k = top_k
        bounds.append(model.importance_bound(repeated(batch, 12), 50, seeded()).view(12, -1))
    assert torch.equal(bounds[0], bounds[1])
    assert torch.equal(bounds[0], bounds[2])
    for more, fewer in itertools.pairwise(bounds[2:]):
        assert fewer.isfinite().all()
        error = ((fewer.var(0) + more.var(0)) / 12).sqrt()
        assert (fewer.mean(0) < more.mean(0) + 4.5 * error + 1e-9).all(), (fewer.mean(0), more.mean(0))
    assert bounds[-1].mean() < bounds[0].mean() - 0.01


@torch.no_grad()
def test_what_is_kept_is_the_sum_over_its_paths():
    model, batch, _ = AT_THE_TRUTH["VAEHMM-Z1-K3"]()
    kept = model.likeliest(model.log_evidence(model.core.evidence(batch.x, batch.observed)), batch, 2)
    potential = model.state_potential(batch)
    among = torch.zeros_like(potential).scatter(-1, kept, 1.0) > 0
    fewer = Chain(*model.chain(batch)[:2], potential.masked_fill(~among, -math.inf), batch.lengths)
    model.top_k = 2
    close(model.importance_bound(batch, 3, seeded()), enumerate_posterior(fewer)[0], **EXACT)
    gamma = model.smooth(batch).gamma  # at the truth log c is the emission, but for its level
    dropped = torch.where(among, 1.0, gamma)[batch.mask].min(-1).values
    assert (dropped[:, None] <= gamma[batch.mask] + 1e-9).all(), "the likeliest are kept"


@torch.no_grad()
def test_the_states_kept_leave_a_path_whatever_moves_are_forbidden():
    """Of two frames never seen the likeliest states are 0 and then 2, between which there is no way."""
    chain = Stationary(table([0.4, 0.3, 0.3]), table([[1.0, 0, 0], [0, 0, 1], [0, 0, 1]]))
    model = VAEHMM(linear_core(1), chain, *components(3, 1), top_k=1)
    bound = model.importance_bound(Sequences.from_any([[NAN, NAN]] * 2).batch(), 2, seeded())
    close(bound, table([0.4]).log(), **EXACT)  # of the path 0, 0


@pytest.mark.parametrize("top_k", [None, 2])
@torch.no_grad()
def test_a_bound_is_the_same_however_many_samples_are_held_at_once(top_k, monkeypatch):
    """Seven samples together, three at a time and one by one, and no padding among what is decoded.

    Sixteens of numbers come out of torch's generator the same, together or one after the other.
    """
    model = VAEHMM(deep_core(), chain_over(3), *components(3, 2), top_k=top_k)
    batch = Sequences.from_any(normals(8, 2, seed=71), [4, 1, 2, 1]).batch()
    states, shown = top_k or 3, []
    log_likelihood = model.core.log_likelihood

    def watched(x: Tensor, observed: Tensor, z: Tensor, offset: Tensor | None) -> Tensor:
        shown.append(tuple(z.shape))
        return log_likelihood(x, observed, z, offset)

    monkeypatch.setattr(model.core, "log_likelihood", watched)
    bounds = []
    for at_once in (7, 3, 1):
        monkeypatch.setattr(vae_hmm, "MAX_VALUES", at_once * 8 * states * 2)
        bounds.append(model.importance_bound(batch, 7, seeded()))
    assert shown == [(n, 8, states, 2) for n in (7, 3, 3, 1, *[1] * 7)]
    for bound in bounds[1:]:
        close(bound, bounds[0], **EXACT)


@torch.no_grad()
def test_a_linear_dmm_tends_to_the_kalman_filters_likelihood():
    """Fifteen steps: the bounds of the filtering posterior close in on the dense Gaussian from below."""
    data = Sequences.from_any(normals(15, 2, seed=6)).batch()
    model = start_at(DMM(linear_core(1), drift(1), Filtering()))
    log_p = log_p_walk(data, model)
    gaps = [(log_p - model.importance_bound(data, S, seeded())).item() for S in (1, 100, 20_000)]
    assert gaps[2] == pytest.approx(0, abs=0.1)
    assert gaps[1] < 0.5
    assert (log_p - model.elbo(data, 2000, seeded()).elbo).item() > 0.5


# Emissions that read the frame before


@pytest.mark.parametrize("family", ["bernoulli", "categorical", "made"])
@torch.no_grad()
def test_with_holes_the_autoregressive_emission_is_still_a_distribution(family):
    """Given any z, probabilities over every value of what was seen sum to 1: a bound stays a bound."""
    n_symbols = 3 if family == "categorical" else 2
    options = {"categorical": {"n_symbols": 3}, "made": {"n_observed": 2}}.get(family, {})
    likelihood = likelihoods.named(family, **options)
    model = DMM(deep_core(likelihood), gated(), Filtering(), autoregressive=True).double()
    for part in model.modules():
        if isinstance(part, torch.nn.Linear):
            part.weight.normal_(generator=seeded())
    x = torch.full((n_symbols**4, 3, 2), NAN, dtype=torch.float64)
    seen = torch.tensor([[True, False], [True, True], [False, True]])
    x[:, seen] = paths(4, n_symbols).double()
    batch = Sequences.from_any(x).batch()
    z = normals(5, 1, 3, 2, seed=66).expand(-1, len(x), -1, -1)
    close(model.log_likelihood(batch, z).exp().sum(1), torch.ones(5).double(), **EXACT)
    stepwise = sum(model.log_likelihood_at(batch, t, z[:, :, t]) for t in range(3))
    close(stepwise, model.log_likelihood(batch, z), **EXACT)
    without = DMM(model.core, model.transition, model.recognition)
    without.load_state_dict(model.state_dict())
    differ = model.reconstruct(batch) - without.reconstruct(batch)
    assert (differ[:, 0] == 0).all(), "nothing lies before the first frame"
    if family == "bernoulli":
        assert differ[:, 1:].abs().min() > 1e-6


@torch.no_grad()
def test_a_frame_before_that_was_not_seen_is_none_of_zeros():
    model = reading_before(linear_core(1), drift(1), Filtering())
    z = torch.zeros(1, 1, 2, 1).double()
    last = torch.tensor([[0.0, 0.0]]).double()
    answers = [
        model.log_likelihood(Sequences.from_any([torch.cat([before, last])]).batch(), z)
        - model.core.log_likelihood(before.nan_to_num(), ~before.isnan(), z[0, 0, 0])
        for before in (last, last * NAN)
    ]
    assert (answers[0] - answers[1]).abs() > 0.01
    alone = model.core.log_likelihood(last, last == 0, z[0, 0, 0])
    close(answers[1].view(1), alone, **EXACT)  # as the first frame, before which there is none


@torch.no_grad()
def test_autoregressive_samples_follow_what_came_before():
    model = reading_before(linear_core(1), drift(1), Filtering())
    x, z = model.sample(3000, seeded())
    C, d, scale = DECODERS[1]
    before = torch.cat([x[:-1], torch.ones_like(x[:-1])], -1) @ BEFORE.T
    is_standard_normal((x[1:] - z[1:] @ C.T - d - before) / scale)


def test_a_decoder_that_does_not_begin_with_a_linear_layer_is_refused():
    core = deep_core()
    core.decoder = torch.nn.Sequential(torch.nn.Tanh(), core.decoder)
    with pytest.raises(TypeError, match="the decoder begins with Tanh"):
        DMM(core, gated(), Filtering(), autoregressive=True)


# The VAE-HMM's closed forms


@pytest.mark.parametrize("covariance", ["full", "tied"])
@torch.no_grad()
def test_what_a_dense_component_says_of_evidence_is_its_integral(covariance):
    """On a grid over the plane: log c, the mean and the covariance of N(μ, Σ) psi, and the divergence from it."""
    mean, matrix, covariances = spread(3, 2, covariance)
    model = VAEHMM(linear_core(2), chain_over(3), mean, matrix)
    h, J = normals(4, 2, seed=7), 3 * normals(4, 2, seed=8).square()
    axis = torch.linspace(-14, 14, 281, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)[:, None, None]  # (G, 1, 1, Z)
    prior = torch.distributions.MultivariateNormal(mean, covariances).log_prob(z)  # (G, 1, K)
    joint = prior + (h * z[:, 0] - 0.5 * J * z[:, 0].square()).sum(-1)[..., None]  # (G, 4, K)
    log_c = joint.logsumexp(0) + 2 * math.log(0.1)
    close(model.log_evidence(Evidence(h, J)), log_c, **EXACT)
    q, weight = model.responses(Evidence(h, J)), joint.softmax(0)[..., None]
    first = (weight * z).sum(0)
    close(q.mean, first, **EXACT)
    second = torch.einsum("gbk,gi,gj->bkij", weight[..., 0], z[:, 0, 0], z[:, 0, 0])
    close(q.covariance_matrix, second - first[..., None] * first[..., None, :], **EXACT)
    mean_field = MeanFieldVAEHMM(model.core, chain_over(3), mean, matrix)
    batch = short_batch(3)
    static = mean_field.posterior(batch)
    dense_q = torch.distributions.MultivariateNormal(static.mean, torch.diag_embed(static.variance))
    for k in range(3):
        p = torch.distributions.MultivariateNormal(mean[k], covariances[k])
        divergence = torch.distributions.kl_divergence(dense_q, p)
        close(mean_field.state_potential(batch)[..., k], -divergence, **EXACT)


@pytest.mark.parametrize("kind", [VAEHMM, MeanFieldVAEHMM, SampledVAEHMM])
@torch.no_grad()
def test_diagonal_matrices_are_the_diagonal_model(kind, cubes):
    mean, variance = GAUSSIAN
    core = deep_core()
    cubes(1)
    models = [kind(core, chain_over(3), mean, v) for v in (variance, torch.diag_embed(variance))]
    same(*(answers(m, holed_data().batch()) for m in models), "full instead of diag")
    tied = [kind(core, chain_over(3), mean, v) for v in (variance[:1].expand(3, 2), variance[0].diag()[None])]
    same(*(answers(m, holed_data().batch()) for m in tied), "tied instead of diag")


@torch.no_grad()
def test_a_vae_hmm_takes_over_as_much_of_a_covariance_as_it_has():
    mean, full, _ = spread(3, 2, "full")
    for covariance, expected in (
        ("diag", torch.diag_embed(full.diagonal(dim1=1, dim2=2))),
        ("full", full),
        ("tied", full.mean(0).expand(3, 2, 2)),
    ):
        model = VAEHMM(linear_core(2), chain_over(3), 0 * mean, 2 * spread(3, 2, covariance)[1])
        model.set_components(mean, full)
        p = model.components()
        dense = torch.diag_embed(p.variance) if covariance == "diag" else p.covariance_matrix
        close(dense, expected, **EXACT)
        close(p.mean, mean, **EXACT)
        free = {"diag": 6, "full": 9, "tied": 3}[covariance]
        assert sum(v.numel() for n, v in model.named_parameters() if n in ("log_scale", "factor")) == free


def test_log_evidence_is_the_integral_of_prior_and_evidence():
    model = VAEHMM(linear_core(2), chain_over(3), *components(3, 2))
    evidence = Evidence(3 * normals(4, 5, 2, seed=7), 3 * normals(4, 5, 2, seed=8).square())
    z = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    z = z[:, None, None, None, None]
    prior = torch.distributions.Normal(model.mean, model.log_scale.exp()).log_prob(z)
    psi = evidence.h[..., None, :] * z - 0.5 * evidence.J[..., None, :] * z.square()
    integral = (prior + psi).logsumexp(0) + math.log(0.01)  # trapezoids of that width
    close(model.log_evidence(evidence), integral.sum(-1), **EXACT)


def test_log_evidence_of_nothing_is_nothing_and_of_certainty_is_finite():
    model = VAEHMM(linear_core(2), chain_over(3), *components(3, 2))
    nothing = Evidence(torch.zeros(1, 1, 2).double(), torch.zeros(1, 1, 2).double())
    assert (model.log_evidence(nothing) == 0).all()
    J = torch.full((1, 1, 2), 1e12, dtype=torch.float64)
    mean, variance = components(3, 2)
    sharp = model.log_evidence(Evidence(J * 0.7, J))
    # psi is then √(2π/J) exp(½ h²/J) δ(z − 0.7)
    at = torch.distributions.Normal(mean, variance.sqrt()).log_prob(table(0.7)).sum(-1)
    constant = 2 * (0.5 * math.log(2 * math.pi / 1e12) + 0.5 * 0.49e12)
    close((sharp - constant)[0, 0], at, rtol=0, atol=1e-3)  # the constant alone is 5e11


@pytest.mark.parametrize("name", ["VAEHMM-labelled", "VAEHMM-full"])
@torch.no_grad()
def test_the_vae_hmms_posterior_density_is_a_mixture_over_paths(name):
    model, batch, _ = ELSEWHERE[name]()
    z, log_q = model.infer(batch, 6, seeded())
    evidence = model.core.evidence(batch.x, batch.observed)
    each = log_density(z[..., None, :], model.responses(evidence))  # (S, B, T, K)
    chain = model.chain(batch)
    for b, T in enumerate(batch.lengths.tolist()):
        every, score = log_joint(chain, b)
        given_path = each[:, b, torch.arange(T), every].sum(-1)  # (S, P)
        mixture = (given_path + score - score.logsumexp(0)).logsumexp(-1)
        close(log_q[:, b], mixture, **EXACT)


@torch.no_grad()
def test_any_guess_of_the_states_gives_the_bound_of_its_posterior():
    """The bound of q(s) Π q(z_t | s_t) for any q(s): by enumeration of paths, and at most that of the best q(s)."""
    model, batch, _ = ELSEWHERE["VAEHMM-labelled"]()
    B, T, K = *batch.mask.shape, model.n_components
    fit, cost, guess = normals(3, B, T, K, seed=0)
    bound = model.bound_of(batch, guess, fit, cost)
    prior = model.chain_of(torch.zeros_like(guess), batch)
    for b, n in enumerate(batch.lengths.tolist()):
        every, log_prior = log_joint(prior, b)
        at = batch.labels[b, :n]
        every, log_prior = (v[((every == at) | (at < 0)).all(-1)] for v in (every, log_prior))
        likely, dear, guessed = (v[b, torch.arange(n), every].sum(-1) for v in (fit, cost, guess))
        log_q = (log_prior + guessed).log_softmax(0)
        close(bound.log_likelihood[b], log_q.exp() @ likely, **EXACT)
        close(bound.kl[b], log_q.exp() @ (log_q - log_prior + dear), **EXACT)
    best = model.verbs.log_partition(model.chain_of(fit - cost, batch))
    assert (bound.elbo < best + 1e-9).all()  # one sequence has its states given
    assert (bound.elbo < best - 0.05).any()
    close(model.bound_of(batch, fit - cost, fit, cost).elbo, best, **EXACT)


@torch.no_grad()
def test_states_guessed_by_the_emissions_are_the_better_guess():
    model, batch, log_p = ELSEWHERE["VAEHMM"]()
    model.core = linear_core(model.core.n_latent, doubt=0.3)  # evidence that tells states apart badly
    evidence = model.core.evidence(batch.x, batch.observed)
    q = model.responses(evidence)
    z = draw(q, seeded(), (4000,))
    fit = model.core.log_likelihood(batch.x[..., None, :], batch.observed[..., None, :], z).mean(0)
    by_emissions, by_evidence = (
        model.bound_of(batch, g, fit, model.cost(q, evidence)).elbo
        for g in (model.state_potential(batch), model.log_evidence(evidence))
    )
    assert (by_emissions > by_evidence).all()
    assert (by_emissions < log_p).all()


@torch.no_grad()
def test_one_sample_with_offsets_is_no_more_than_log_p():
    """x = z + b_k + noise, b and μ such that the q(z_t) blind to k is the posterior in every state: A2 is log p(x).

    Were q(s) to see the draw in the bound, one draw a frame would be 0.3 nats above it.
    """
    s2, mean = 0.25, table([[2.0], [-2.0]])
    core = AEVB(1, 1, likelihoods.Gaussian(min_scale=0.0), hidden=()).double()
    for network, raw in ((core.encoder, 1 / s2), (core.decoder, s2**0.5)):
        network[-1].weight.copy_(table([[1.0], [0.0]]))
        network[-1].bias.copy_(table([0.0, math.log(math.expm1(raw))]))
    b = torch.cat([mean * s2, torch.zeros_like(mean)], 1)
    half = torch.full((2,), 0.5, dtype=torch.float64)
    chain = Stationary(half, half.expand(2, 2))
    model = MeanFieldVAEHMM(core, chain, mean, torch.ones_like(mean), b)
    few, batch = (Sequences.from_any(torch.zeros(n, 1, 1).double().numpy()).batch() for n in (1000, 20_000))
    each = torch.distributions.Normal(mean + b[:, :1], (1 + s2) ** 0.5).log_prob(table([0.0]))
    log_p = each.logsumexp(0) - math.log(2)
    close(model.elbo(few, 400).elbo.mean(), log_p[0], rtol=0, atol=0.01)
    one = model.elbo(batch, 1, seeded()).elbo
    assert one.mean() < log_p[0] + 4 * one.std() / len(one) ** 0.5


@pytest.mark.parametrize("name", ["VAEHMM", "VAEHMM-labelled", "VAE", "MeanFieldVAEHMM"])
@torch.no_grad()
def test_latents_are_the_mean_of_q(name):
    model, batch, _ = ELSEWHERE[name]()
    z, _ = model.infer(batch, 800, seeded())
    assert within(z.mean(0) - model.latents(batch), z)[batch.mask].all()


@torch.no_grad()
def test_known_states_are_obeyed():
    model, batch, _ = ELSEWHERE["VAEHMM-labelled"]()
    known = batch.labels >= 0
    assert torch.equal(model.viterbi(batch).states[known], batch.labels[known])
    gamma = model.smooth(batch).gamma[known]
    close(gamma.gather(1, batch.labels[known][:, None]), torch.ones(int(known.sum()), 1).double())


# All models on one ragged data set with holes


def deep_core(likelihood=None, D: int = 2) -> AEVB:
    return AEVB(D, 2, likelihood or likelihoods.Gaussian(), hidden=(5,)).double()


def deep_recognition(kind) -> Recognition:
    return (kind() if kind in (PerStep, Filtering, Smoothing) else kind(2, 2, 4)).double()


def gated() -> Gated:
    """Its proposals are positive, so that the ReLU before the variance lets a gradient through."""
    move = Gated(2, 4).double()
    with torch.no_grad():
        move.proposal[-1].bias += 1
    return move


def dmm(kind, transition=gated) -> DMM:
    return start_at(DMM(deep_core(), transition(), deep_recognition(kind)))


def switching(kind, chain: Transition | None = None, recurrent: bool = False) -> SwitchingDMM:
    moves = [gated(), Linear(2), gated()]
    model = SwitchingDMM(deep_core(), chain or chain_over(3), moves, deep_recognition(kind), recurrent)
    return start_at(model, 3, differ=True)


def left_right() -> Stationary:
    """Starts in its first state and never turns back: exact zeros."""
    return Stationary(table([1.0, 0, 0]), table([[0.7, 0.3, 0], [0, 0.6, 0.4], [0, 0, 1]]))


def hmm(emission: emissions.Emission, chain: Stationary | None = None) -> HMM:
    return HMM(chain or chain_over(3), emission)


GAUSSIAN = normals(3, 2, seed=9), 0.5 + normals(3, 2, seed=10).square()
MODELS: dict[str, Callable[[], Model]] = {
    "HMM": lambda: hmm(emissions.DiagonalGaussian(*GAUSSIAN)),
    "HMM-full": lambda: hmm(emissions.FullGaussian(GAUSSIAN[0], torch.diag_embed(GAUSSIAN[1]))),
    "HMM-left-right": lambda: hmm(emissions.DiagonalGaussian(*GAUSSIAN), left_right()),
    "VAE": lambda: VAE(deep_core()),
    "VAEHMM": lambda: VAEHMM(deep_core(), chain_over(3), *GAUSSIAN),
    "VAEHMM-left-right": lambda: VAEHMM(deep_core(), left_right(), *GAUSSIAN),
    "VAEHMM-full": lambda: VAEHMM(deep_core(), chain_over(3), *spread(3, 2, "full")[:2]),
    "SampledVAEHMM": lambda: SampledVAEHMM(deep_core(), chain_over(3), *GAUSSIAN),
    "MeanFieldVAEHMM": lambda: MeanFieldVAEHMM(deep_core(), chain_over(3), *GAUSSIAN),
    "VAEHMM-offset": lambda: VAEHMM(deep_core(), chain_over(3), *GAUSSIAN, normals(3, 4, seed=13)),
    "VAEHMM-offset-top": lambda: VAEHMM(deep_core(), chain_over(3), *GAUSSIAN, normals(3, 4, seed=13), 2),
    "SampledVAEHMM-offset": lambda: SampledVAEHMM(
        deep_core(), chain_over(3), *GAUSSIAN, normals(3, 4, seed=13)
    ),
    "MeanFieldVAEHMM-offset": lambda: MeanFieldVAEHMM(
        deep_core(), chain_over(3), *GAUSSIAN, normals(3, 4, seed=13)
    ),
    "DMM-PerStep": lambda: dmm(PerStep),
    "DMM-Filtering": lambda: dmm(Filtering),
    "DMM-Linear": lambda: dmm(Filtering, lambda: Linear(2)),
    "DMM-Product": lambda: dmm(Product),
    "DMM-smoother": lambda: dmm(Smoothing, lambda: Linear(2)),
    "DMM-autoregressive": lambda: reading_before(deep_core(), gated(), deep_recognition(Product)),
    "DMM-STL": lambda: dmm(STL),
    "DMM-STR": lambda: dmm(STR),
    "DMM-STLR": lambda: dmm(STLR),
    "SwitchingDMM-PerStep": lambda: switching(PerStep),
    "SwitchingDMM-Filtering": lambda: switching(Filtering),
    "SwitchingDMM-Product": lambda: switching(Product),
    "SwitchingDMM-STL": lambda: switching(STL),
    "SwitchingDMM-STR": lambda: switching(STR),
    "SwitchingDMM-STLR": lambda: switching(STLR),
    "VAEHMM-stays": lambda: VAEHMM(deep_core(), stays_over(3), *GAUSSIAN),
    "SwitchingDMM-stays": lambda: switching(Filtering, stays_over(3, 2)),
    "SwitchingDMM-recurrent": lambda: switching(Filtering, driven_chain(3), recurrent=True),
    "SwitchingDMM-left-right": lambda: switching(Filtering, left_right()),
}
every_model = pytest.mark.parametrize("name", MODELS)
# structured networks look at frames through networks of their own, and only so
UNUSED = {name: ("core.encoder", "core.log_sharpness") for name in MODELS if "-ST" in name}


def holed_data(labels=None) -> Sequences:
    x = normals(14, 2, seed=11)
    x[1, 0] = x[4] = x[9, 1] = x[13] = NAN
    return Sequences.from_any(x, [5, 2, 1, 6], labels=labels)


def longer(batch: Batch, extra: int, missing: bool) -> Batch:
    """Padded further, or every sequence followed by that many frames of which nothing was seen."""

    def grown(values: Tensor | None, fill: float) -> Tensor | None:
        if values is None:
            return None
        more = values.new_full((values.shape[0], extra, *values.shape[2:]), fill)
        return torch.cat([values, more], 1)

    return batch._replace(
        x=grown(batch.x, 0),
        observed=grown(batch.observed, False),
        labels=grown(batch.labels, -1),
        inputs=grown(batch.inputs, 7),
        lengths=batch.lengths + extra if missing else batch.lengths,
    )


def answers(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Everything a model says of each sequence that noise fixed by the sample leaves determined: (B, ...)."""
    out = {"objective": model.objective(batch)}
    steps = {}
    if isinstance(model, LatentModel):
        terms = model.elbo(batch, 4)
        out |= {"elbo fit": terms.log_likelihood, "elbo KL": terms.kl}
        out |= {"importance bound": model.importance_bound(batch, 4)}
        if not isinstance(model, VAEHMM):  # which also draws states
            out |= {"sampled elbo": model.elbo_sampled(batch, 4).elbo}
        steps |= {"latents": model.latents(batch), "reconstruction": model.reconstruct(batch)}
    if isinstance(model, StateModel):
        smoothed, best = model.smooth(batch), model.viterbi(batch)
        out |= {"log Z": smoothed.log_z, "Viterbi score": best.score}
        steps |= {"gamma": smoothed.gamma, "filter": model.filter(batch).probs, "Viterbi path": best.states}
    for name, value in steps.items():
        out[name] = torch.where(batch.mask.view(*batch.mask.shape, *[1] * (value.dim() - 2)), value, 0)
    return out


def same(left: dict[str, Tensor], right: dict[str, Tensor], case: str) -> None:
    for name, a in left.items():
        b = right[name]
        T = min(a.shape[1], b.shape[1]) if a.dim() > 1 else None
        a, b = (v if T is None else v[:, :T] for v in (a, b))
        close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}, {case}: {m}")


# labels speak to the chain and to what is said of states, whatever the recognition and the covariance
LABELLED = [
    n for n in MODELS if ("HMM" in n or "Switching" in n) and not n.endswith(("Step", "L", "R", "full"))
]


@pytest.mark.some(4)
@pytest.mark.parametrize(
    ("name", "labelled"),
    [pytest.param(name, False, id=name) for name in MODELS]
    + [pytest.param(name, True, id=f"{name}-labelled") for name in LABELLED],
)
@torch.no_grad()
def test_padding_batching_and_order_change_nothing(name, labelled, cubes):
    """Alone a sequence has no padding; of the four one is of a single frame, and one of middle length."""
    model = MODELS[name]()
    cubes(1)
    data = holed_data([0, -1, -1, 1, -1, 0, 0, -1, -1, -1, 1, -1, -1, -1] if labelled else None)
    together = answers(model, data.batch())
    order = torch.tensor([2, 0, 3, 1])
    turned = {k: v[order] for k, v in together.items()}
    same(
        answers(model, longer(data.batch(order), 3, missing=False)),
        turned,
        "in another order, padded further",
    )
    for b in (0, 2):
        alone = answers(model, data.batch(torch.tensor([b])))
        same(alone, {k: v[b : b + 1] for k, v in together.items()}, f"sequence {b} alone")


DRIVEN: dict[str, Callable[[], Model]] = {
    "VAEHMM": lambda: VAEHMM(deep_core(), driven_chain(3), *GAUSSIAN),
    "DMM-Filtering": lambda: dmm(Filtering, lambda: Gated(2, 4, n_inputs=2).double()),
    "DMM-STR": lambda: dmm(STR, lambda: drift(2, U=2)),
    "SwitchingDMM": lambda: switching(Product, driven_chain(3)),
}


@pytest.mark.parametrize("name", DRIVEN)
@torch.no_grad()
def test_inputs_stay_with_their_frames(name, cubes):
    model, u = DRIVEN[name](), normals(14, 2, seed=63)
    cubes(1)
    data = dataclasses.replace(holed_data(), inputs=u)
    together = answers(model, data.batch())
    same(answers(model, longer(data.batch(), 3, missing=False)), together, "padded further")
    for b in range(len(data)):
        alone = answers(model, data.batch(torch.tensor([b])))
        same(alone, {k: v[b : b + 1] for k, v in together.items()}, f"sequence {b} alone")
    other = answers(model, dataclasses.replace(data, inputs=u + 1).batch())["objective"]
    moved = data.lengths > 1 if "DMM-" in name else data.lengths > 0  # z_1 reads no input
    assert torch.equal(other != together["objective"], moved)


@torch.no_grad()
def test_a_gate_whose_inputs_weigh_nothing_is_the_plain_one(cubes):
    driven, plain = DRIVEN["DMM-Filtering"](), MODELS["DMM-Filtering"]()
    for layer, other in zip(driven.modules(), plain.modules(), strict=True):
        if isinstance(layer, torch.nn.Linear):
            n_read = other.in_features
            layer.weight.zero_()[:, :n_read].copy_(other.weight)
            layer.bias.copy_(other.bias)
    for name, value in plain.state_dict().items():
        if name.startswith(("initial", "core")):
            driven.state_dict()[name].copy_(value)
    cubes(1)
    data = dataclasses.replace(holed_data(), inputs=normals(14, 2, seed=63))
    same(answers(driven, data.batch()), answers(plain, holed_data().batch()), "driven by nothing")


@pytest.mark.parametrize("name", ["HMM", "HMM-full", "VAE", "VAEHMM", "DMM-Filtering", "DMM-Linear"])
@torch.no_grad()
def test_a_frame_never_seen_at_the_end_says_and_costs_nothing(name, cubes):
    """Its evidence is zero, so its posterior is its prediction and its KL is 0."""
    model, batch = MODELS[name](), holed_data().batch()
    cubes(1)
    full, extended = answers(model, batch), answers(model, longer(batch, 2, missing=True))
    for value in ("objective", "elbo fit", "elbo KL", "importance bound", "sampled elbo", "log Z"):
        if value in full:
            close(extended[value], full[value], **EXACT, msg=lambda m, value=value: f"{value}: {m}")


@pytest.mark.parametrize("name", ["VAE", "VAEHMM", "DMM-Filtering", "HMM", "HMM-full"])
@torch.no_grad()
def test_data_of_which_nothing_was_seen_have_probability_one(name):
    model = MODELS[name]()
    batch = Sequences.from_any([[[NAN, NAN]] * 3, [[NAN, NAN]]]).batch()
    close(model.objective(batch, generator=seeded()), torch.zeros(2).double(), **EXACT)


def test_sharpness_scales_evidence_and_not_where_it_points():
    core, batch = deep_core(), holed_data().batch()
    before = core.evidence(batch.x, batch.observed)
    factor = table([1.0, 1000.0])
    with torch.no_grad():
        core.log_sharpness += factor.log()
    after = core.evidence(batch.x, batch.observed)
    close(after.J, factor * before.J, **EXACT)
    close(after.h * before.J, before.h * after.J, **EXACT)


def test_a_frame_never_seen_gives_no_evidence():
    batch = holed_data().batch()
    evidence = deep_core().evidence(batch.x, batch.observed)
    blank = ~batch.observed.any(-1)
    assert (evidence.h[blank] == 0).all()
    assert (evidence.J[blank] == 0).all()
    assert (evidence.J[~blank] > 0).all()


def silent(name: str, parameter: str) -> bool:
    """A start that is certain, and the weights of z before the first step, where there is none."""
    start = "initial_logits" if name.endswith("left-right") else "initial_slope"
    return name.endswith(("left-right", "recurrent")) and parameter == f"transition.{start}"


@pytest.mark.some(4)
@pytest.mark.parametrize(
    ("name", "estimator"),
    [(name, "objective") for name in MODELS]
    + [(name, e) for name in MODELS if "HMM" not in name[:3] for e in ("elbo", "elbo_sampled")],
)
def test_gradients_reach_every_parameter_and_are_finite(name, estimator):
    model, batch = MODELS[name](), holed_data().batch()
    if estimator == "objective":
        value = model.objective(batch, generator=seeded())
    else:
        value = getattr(model, estimator)(batch, 2, seeded()).elbo
    assert value.shape == (4,)
    value.sum().backward()
    for parameter, tensor in model.named_parameters():
        if parameter.startswith(UNUSED.get(name, "none")):
            assert tensor.grad is None, f"{parameter} is said to be unused"
            continue
        assert tensor.grad is not None, f"{parameter} is not reached"
        assert tensor.grad.isfinite().all(), f"{parameter}: {tensor.grad}"
        if not silent(name, parameter):
            assert tensor.grad.abs().sum() > 0, f"{parameter} has gradient 0"


@pytest.mark.parametrize(
    "family", ["bernoulli", "poisson", "categorical", "student-t", "negative-binomial", "made"]
)
@pytest.mark.parametrize("kind", ["VAE", "VAEHMM", "DMM"])
def test_gradients_are_finite_for_every_likelihood(kind, family):
    likelihood = likelihoods.named(
        family, **{"categorical": {"n_symbols": 3}, "made": {"n_observed": 2}}.get(family, {})
    )
    core = deep_core(likelihood)
    model = {
        "VAE": lambda: VAE(core),
        "VAEHMM": lambda: VAEHMM(core, chain_over(3), *GAUSSIAN),
        "DMM": lambda: DMM(core, Gated(2), Product(likelihood.n_features(2), 2, 4)).double(),
    }[kind]()
    x = torch.tensor([[0.0, 1.0], [1.0, NAN], [NAN, NAN], [1.0, 1.0]], dtype=torch.float64)
    value = model.objective(Sequences.from_any(x, [3, 1]).batch(), generator=seeded()).sum()
    value.backward()
    assert value.isfinite()
    for parameter, tensor in model.named_parameters():
        assert tensor.grad.isfinite().all(), parameter


@pytest.mark.parametrize("name", ["VAE", "DMM-Filtering", "SwitchingDMM-Filtering", "VAEHMM"])
def test_beta_weighs_the_cost_of_z(name):
    """β = 0 leaves the fit alone, for the models whose objective is fit − β KL it is linear in β."""
    model, batch = MODELS[name](), holed_data().batch()
    at = [model.objective(batch, beta=beta, generator=seeded()) for beta in (0.0, 0.5, 1.0)]
    assert (at[0] > at[2]).all() or name == "SwitchingDMM-Filtering"
    if name != "VAEHMM":
        close(at[1], (at[0] + at[2]) / 2, **EXACT)


@every_model
def test_the_same_seed_gives_the_same_number(name):
    model, batch = MODELS[name](), holed_data().batch()
    first, again, other = (model.objective(batch, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    if isinstance(model, LatentModel):
        assert not torch.equal(first, other)


@torch.no_grad()
def test_the_prior_of_a_chain_of_stays_counts_once():
    """Of a module within a module."""
    for name in ("VAEHMM-stays", "SwitchingDMM-stays"):
        model = MODELS[name]()
        model.transition.moves.transmat_prior = 3.0
        A = model.transition.log_transition()
        close(model.log_parameter_prior(), 2 * A[-math.inf < A].sum(), **EXACT)


# Labels


def test_a_hidden_markov_model_with_all_labels_known_is_the_joint_of_path_and_data():
    model = MODELS["HMM"]()
    states = [0, 1, 1, 2, 0, 1, 1, 2, 0, 0, 0, 2, 1, 1]
    free, known = holed_data().batch(), holed_data(states).batch()
    close(model.objective(known), inference.path_score(model.chain(free), known.labels), **EXACT)
    posterior = model.smooth(known)
    close(posterior.xi.sum((1, 2)), (known.lengths - 1).double(), **EXACT)
    counts = torch.zeros(3, 3).double()
    for row, T in zip(known.labels, known.lengths, strict=True):
        for i, j in itertools.pairwise(row[:T]):
            counts[i, j] += 1
    close(posterior.xi.sum(0), counts, **EXACT)


@pytest.mark.parametrize("name", ["HMM", "VAEHMM", "MeanFieldVAEHMM", "SwitchingDMM-Filtering"])
def test_labels_that_are_all_unknown_are_no_labels(name, cubes):
    cubes(1)
    model = MODELS[name]()
    same(answers(model, holed_data([-1] * 14).batch()), answers(model, holed_data().batch()), "unlabelled")


@pytest.mark.parametrize("name", ["HMM", "VAEHMM", "MeanFieldVAEHMM", "SwitchingDMM-Filtering"])
def test_a_label_that_names_no_state_is_refused(name):
    batch = holed_data([0] * 13 + [3]).batch()
    with pytest.raises(ValueError, match=r"state 3.*n_components is 3"):
        MODELS[name]().objective(batch, generator=seeded())


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 states, emission 3"):
        HMM(chain_over(2), emissions.DiagonalGaussian(*GAUSSIAN))
    with pytest.raises(TypeError, match="recurrent=True with a transition of type Stationary"):
        SwitchingDMM(deep_core(), chain_over(1), [Gated(2)], Filtering(), recurrent=True)
    with pytest.raises(ValueError, match="1 moves for 2 states"):
        SwitchingDMM(deep_core(), chain_over(2), [Gated(2)], Filtering())


# Recognition


@pytest.mark.parametrize("family", ["DMM", "SwitchingDMM"])
@torch.no_grad()
def test_a_silent_future_makes_the_product_form_filter(family):
    product = MODELS[f"{family}-Product"]()
    product.recognition.head.weight.zero_()
    product.recognition.head.bias[2:] = -1e4  # softplus(−10⁴) = 0
    filtering = copy.deepcopy(product)
    filtering.recognition = Filtering()
    noise = normals(3, 4, 6, 2, seed=12)
    for a, b in zip(
        product.trajectory(holed_data().batch(), noise),
        filtering.trajectory(holed_data().batch(), noise),
        strict=True,
    ):
        a, b = (v if isinstance(v, Tensor) else torch.stack([v.mean, v.scale]) for v in (a, b))
        close(a, b, **EXACT)


@pytest.mark.parametrize("kind", [PerStep, Filtering, Product, STL, STR, STLR])
@pytest.mark.parametrize("family", ["DMM", "SwitchingDMM"])
@torch.no_grad()
def test_only_those_that_say_so_look_ahead(family, kind):
    model = MODELS[f"{family}-{kind.__name__}"]()
    data, changed = holed_data().batch(), holed_data().batch()
    changed.x[:, 3:] += changed.observed[:, 3:]
    noise = normals(2, 4, 6, 2, seed=13)
    before, after = (model.trajectory(b, noise)[0][:, :, :3] for b in (data, changed))
    assert torch.equal(before, after) != model.looks_ahead
    assert model.looks_ahead == (kind in (Product, STR, STLR))


@torch.no_grad()
def test_the_switching_dmm_predicts_with_the_moments_of_its_mixture():
    """Of a sequence never seen q is the prediction: mixture weights from the filter, matched in two moments."""
    model = MODELS["SwitchingDMM-Filtering"]()
    batch = Sequences.from_any(torch.full((2, 5, 2), NAN)).batch()
    z, q = model.trajectory(batch, normals(3, 2, 5, 2, seed=15))
    A = model.transition.log_transition().exp()
    for path, mean, scale in zip(z, q.mean, q.scale, strict=True):
        potential = model.state_potential(path[None])[0]
        belief = inference.filter(Chain(model.transition.log_initial(), A.log(), potential)).probs
        for t in range(5):
            each = model.move(path[:, t - 1]) if t else model.initial(path[:, 0])
            weight = (belief[:, t - 1] @ A if t else model.transition.log_initial().exp().expand(2, 3))[
                ..., None
            ]
            first = (weight * each.mean).sum(1)
            second = (weight * (each.variance + each.mean.square())).sum(1)
            close(mean[:, t], first, **EXACT)
            close(scale[:, t].square(), second - first.square(), **EXACT)


@pytest.mark.parametrize("kind", [Product, STR])
@torch.no_grad()
def test_looking_ahead_sees_past_a_hole_and_tells_it_from_a_zero(kind):
    model = MODELS[f"DMM-{kind.__name__}"]()

    def context(rows):
        return model.recognition.context(model.core, Sequences.from_any([rows]).batch())[0]

    hole, other = context([[NAN, NAN], [1.0, 2.0]]), context([[NAN, NAN], [3.0, -1.0]])
    assert (hole[0] != other[0]).all(), "the future must reach a frame that was not seen"
    # at the first step, whose own evidence is the same, only the frame after it differs
    after_hole, after_zero = context([[1.0, 1.0], [NAN, NAN]]), context([[1.0, 1.0], [0.0, 0.0]])
    assert (after_hole[0] != after_zero[0]).all(), "a missing frame must not look like a frame of zeros"


@pytest.mark.parametrize("cell", ["gru", "relu"])
@torch.no_grad()
def test_a_backward_network_knows_the_future_and_nothing_else(cell):
    gru = Recurrent(2, 3, backward=True, cell=cell).double()
    x, lengths = normals(3, 6, 2, seed=14), torch.tensor([6, 4, 1])
    inside = torch.arange(6) < lengths[:, None]
    output = gru(x, lengths)
    for t in range(6):
        past = x.clone()
        past[:, :t] = 99
        close(gru(past, lengths)[:, t:][inside[:, t:]], output[:, t:][inside[:, t:]], **EXACT)
    rubbish = torch.where(inside[..., None], x, 1e6)
    close(gru(rubbish, lengths)[inside], output[inside], **EXACT)
    for b, T in enumerate(lengths.tolist()):
        close(gru(x[b : b + 1, :T], lengths[b : b + 1])[0], output[b, :T], **EXACT)
        # and forwards in reversed time it is torch's own
        plain, _ = gru.cell(x[b, :T].flip(0))
        close(output[b, :T], plain.flip(0), **EXACT)
    future = x.clone()
    future[0, 5] += 1
    assert (gru(future, lengths)[0, 0] != output[0, 0]).any()


# Samples


def test_a_vae_samples_in_the_precision_of_its_weights():
    x, z = VAE(linear_core(2)).sample(5, seeded())
    assert x.dtype == z.dtype == torch.float64


@torch.no_grad()
def test_a_vae_samples_its_marginal():
    C, d, scale = (v.float() for v in DECODERS[2])
    x, z = VAE(linear_core(2).float()).sample(20_000, seeded())
    assert x.shape == (20_000, 3)
    assert z.shape == (20_000, 2)
    covariance = C @ C.T + scale.square().diag()
    assert within(x.mean(0) - d, x).all()
    close(x.T.cov(), covariance, rtol=0.05, atol=0.1)


def is_standard_normal(z: Tensor) -> None:
    n = len(z)
    assert (z.mean(0).abs() < 4.5 / math.sqrt(n)).all(), z.mean(0)
    assert ((z.square().mean(0) - 1).abs() < 4.5 * math.sqrt(2 / n)).all(), z.square().mean(0)


def follows(states: Tensor, transition: Stationary) -> None:
    """Counts of moves against the rows of A."""
    A = transition.log_transition().exp()
    counts = torch.zeros_like(A).index_put_(
        (states[:-1], states[1:]), torch.ones(len(states) - 1).double(), accumulate=True
    )
    n = counts.sum(1, keepdim=True)
    assert ((counts - n * A).abs() <= 4.5 * (n * A * (1 - A)).sqrt() + 1e-9).all(), counts / n


@torch.no_grad()
def test_samples_move_and_emit_as_the_model_says():
    """Each z less its predicted mean, over the predicted scale, is standard normal; states follow A."""
    n = 3000
    model = hmm(emissions.DiagonalGaussian(*GAUSSIAN))
    x, states = model.sample(n, seeded())
    follows(states, model.transition)
    is_standard_normal((x - GAUSSIAN[0][states]) / GAUSSIAN[1][states].sqrt())

    vae_hmm = VAEHMM(linear_core(2), chain_over(3), *GAUSSIAN)
    x, states, z = vae_hmm.sample(n, seeded())
    follows(states, vae_hmm.transition)
    is_standard_normal((z - GAUSSIAN[0][states]) / GAUSSIAN[1][states].sqrt())
    C, d, scale = DECODERS[2]
    is_standard_normal((x - z @ C.T - d) / scale)

    dmm_model = start_at(DMM(linear_core(1), drift(1), Filtering()))
    x, z = dmm_model.sample(n, seeded())
    p = dmm_model.transition(z[:-1])
    is_standard_normal((z[1:] - p.mean) / p.scale)

    moves = [drift(1, seed=4), drift(1, seed=5, width=0.9)]
    model = start_at(SwitchingDMM(linear_core(1), chain_over(2), moves, Filtering()))
    x, states, z = model.sample(n, seeded())
    follows(states, model.transition)
    p = model.move(z[:-1])
    rows = torch.arange(n - 1)
    is_standard_normal((z[1:] - p.mean[rows, states[1:]]) / p.scale[rows, states[1:]])


@torch.no_grad()
def test_linear_moves_taken_together_are_those_of_each_state():
    moves = [Linear(4) for _ in range(3)]
    for parameter in torch.nn.ModuleList(moves).parameters():
        parameter.copy_(torch.randn(parameter.shape))
    model = SwitchingDMM(AEVB(5, 4, likelihoods.Gaussian(), (4,)), chain_over(3), moves, Filtering())
    z = torch.randn(2, 7, 4)
    together = model.move(z)
    assert together.mean.shape == together.scale.shape == (2, 7, 3, 4)
    for k, move in enumerate(moves):
        close(together.mean[..., k, :], move(z).mean)
        close(together.scale[..., k, :], move(z).scale)


@pytest.mark.parametrize("U", [0, 2])
@torch.no_grad()
def test_states_of_samples_follow_the_z_before(U):
    """Of every move, less its probability under z_{t-1} (and u_t), over its spread: a standard normal number."""
    n, chain = 2000, driven_chain(2, 1 + U)
    model = start_at(
        SwitchingDMM(linear_core(1), chain, [drift(1), drift(1, 5)], Filtering(), recurrent=True), 2
    )
    u = normals(n, U, seed=70)
    _, states, z = model.sample(n, seeded(), u if U else None)
    p = chain.moves_under(torch.cat([z[:-1], u[1:]], 1)).exp()[torch.arange(n - 1), states[:-1], 1]
    score = (states[1:] - p).sum() / (p * (1 - p)).sum().sqrt()
    trend = ((states[1:] - p) * z[:-1, 0]).sum() / (p * (1 - p) * z[:-1, 0].square()).sum().sqrt()
    assert max(abs(score), abs(trend)) < 4.5, (score, trend)
    assert p.std() > 0.1, "z must matter"


@torch.no_grad()
def test_samples_start_where_the_model_says():
    n = 1500
    model = start_at(DMM(linear_core(1), drift(1), Filtering()))
    z = torch.stack([model.sample(1, seeded(i))[1][0] for i in range(n)])
    is_standard_normal((z - 0.4) / math.exp(-0.2))
    model = MODELS["HMM"]()
    states = torch.tensor([int(model.sample(1, seeded(i))[1]) for i in range(n)])
    frequency = torch.bincount(states, minlength=3) / n
    assert ((frequency - STARTPROB).abs() < 4.5 * (STARTPROB * (1 - STARTPROB) / n).sqrt()).all()


# The fused loops against the plain ones


@pytest.mark.parametrize("kind", [STL, STR, STLR])
def test_the_fused_walk_is_the_plain_one_in_values_and_gradients(kind):
    model = MODELS[f"DMM-{kind.__name__}"]()
    batch, noise = holed_data().batch(), normals(3, 4, 6, 2, seed=21)
    q, inside = model.recognition, holed_data().batch().mask[..., None]
    found = []
    for walk in (q.trajectory, lambda *given: super(Structured, q).trajectory(*given)):
        z, p = walk(lambda z: None, batch, q.context(model.core, batch), noise)
        value = sum((v * inside).sin().mul(i + 1.0).sum() for i, v in enumerate((z, p.mean, p.scale)))
        found.append(
            ((z * inside, p.mean * inside, p.scale * inside), torch.autograd.grad(value, q.parameters()))
        )
    for a, b in zip(*found, strict=True):
        for v, w in zip(a, b, strict=True):
            close(v, w, **EXACT)


@pytest.mark.parametrize("backward", [False, True])
def test_the_fused_recurrence_is_torchs_in_values_and_gradients(backward):
    network = Recurrent(2, 4, backward=backward, cell="relu").double()
    x, lengths = normals(3, 6, 2, seed=22).requires_grad_(), torch.tensor([4, 6, 1])

    def plain():
        rows = []
        for b, T in enumerate(lengths.tolist()):
            h, _ = network.cell(x[b, :T].flip(0) if backward else x[b, :T])
            rows.append(torch.cat([h.flip(0) if backward else h, h.new_zeros(6 - T, 4)]))
        return torch.stack(rows)

    outputs = [network(x, lengths), plain()]
    close(*outputs, **EXACT)
    gradients = [torch.autograd.grad(o.sin().sum(), [x, *network.parameters()]) for o in outputs]
    for a, b in zip(*gradients, strict=True):
        close(a, b, **EXACT)
