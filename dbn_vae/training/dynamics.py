"""How a deep Markov model, switching or not, starts: from the dynamics that an autoregressive HMM has found.

    y_t ≈ b_k + Σ_l A_kl y_{t-l} + ½ u (b_k − mean b),   k = s_t,   u ~ N(0, 1) one number a sequence
    z_t = (y_t, …, y_{t-p+1}, idle, u)

so that every state's move is a companion matrix.  States that only their dynamics tell apart have no gradient to begin
with while all moves are alike; here they are found by exact EM, and joint training goes on from there.  With one state
this is linear regression, and spares joint training the long way to the small steps and the sharp evidence of data
that move slowly.

y are the frames themselves where they fit into z, and then the core is taught to tell y_t from x_t and back; or else
the latents of the pre-trained core with p = 1, and then it stays as it is.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dbn_vae.aevb import AEVB
from dbn_vae.distributions import Conditional, draw, noise
from dbn_vae.emissions.autoregressive import Autoregressive
from dbn_vae.models.dmm import DMM
from dbn_vae.models.hmm import HMM
from dbn_vae.models.recognition import Product, visible
from dbn_vae.models.switching_dmm import SwitchingDMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.initialise import adopt_chain
from dbn_vae.training.reseed import fit_move
from dbn_vae.transitions.linear import Linear

COPY_NOISE = 0.2  # of the copies of earlier frames, as a share of the innovations' standard deviation
SHARPNESS = 0.5  # how well a frame tells y_t, in the same unit
SILENT = -5.0  # raw precision of evidence that says nothing yet
UNSEEN = -12.0  # and of what must never, however sharp the rest: through long gaps even a little would add up
HEARD = 3.0  # and of evidence that does
STILL = 0.01  # standard deviation of the steps of u
SHIFT = 0.25  # of a state's expectation in an update, as a share of its innovations' standard deviation
IMITATED = 2**11  # frames from which a move that is not linear learns


def autoregression(n_states: int, n_features: int, order: int) -> Autoregressive:
    """A template whose variances stay above 1e-4."""
    K, D = n_states, n_features
    eye = torch.eye(D, dtype=torch.float64)
    floor = torch.full((D,), 1e-4, dtype=torch.float64)
    return Autoregressive(eye.new_zeros(K, D), eye.new_zeros(K, order, D, D), eye.expand(K, D, D), floor)


class Start(NamedTuple):
    """What an autoregressive HMM says of y, a data set (N, D) in float64."""

    hmm: HMM
    y: Sequences
    intercept: Tensor  # (K, D)
    coefficients: Tensor  # (K, p, D, D)
    variance: Tensor  # (K, D) of the innovations
    variance_given_u: Tensor  # (K, D)
    u: Tensor  # (B,) posterior mean of every sequence's strength
    gain: float  # log p(y | s, u integrated out) − log p(y | s) along the decoded states s


@torch.no_grad()
def begun(hmm: HMM, y: Sequences) -> Start:
    """The dynamics and the strengths, these by EM along the decoded states.

    With the states known u has the posterior N(score / (1 + information), 1 / (1 + information)) and integrates out to
    ½ { score² / (1 + information) − log(1 + information) } a sequence.
    """
    emission = hmm.emission
    assert isinstance(emission, Autoregressive)
    b, typical = emission.mean, emission.covariance().diagonal(dim1=-2, dim2=-1)
    k, owner, rest = innovations(hmm, y)
    push = ((b - b.mean(0)) / 2)[k]
    own, nobody = F.one_hot(k, len(b)).to(rest), rest.new_zeros(len(y))
    count = own.sum(0)[:, None]

    def spread(squares: Tensor) -> Tensor:
        return torch.where(count > 0, (own.T @ squares / count).maximum(emission.floor), typical)

    def told(v: Tensor) -> tuple[Tensor, Tensor]:
        """Score and information (B,) of u."""
        return tuple(nobody.index_add(0, owner, (push * e / v[k]).sum(1)) for e in (rest, push))  # type: ignore[return-value]

    without = given = spread(rest.square())
    for _ in range(5):
        score, information = told(given)
        u, doubt = score / (1 + information), 1 / (1 + information)
        given = spread((rest - push * u[owner, None]).square() + push.square() * doubt[owner, None])
    score, information = told(given)
    fit = rest.square() / without[k] - rest.square() / given[k] + (without / given)[k].log()
    ratio = nobody.index_add(0, owner, fit.sum(1)) + score.square() / (1 + information) - information.log1p()
    gain = 0.5 * float(y.weights @ ratio)
    return Start(hmm, y, b, emission.coefficients(), without, given, score / (1 + information), gain)


def innovations(hmm: HMM, y: Sequences) -> tuple[Tensor, Tensor, Tensor]:
    """Of M frames seen with all their predecessors: decoded state (M,), sequence (M,), what was not expected (M, D)."""
    states, sequences, rests = [], [], []
    for batch in y.batches():
        path, (x, observed) = hmm.viterbi(batch).states, hmm.frames(batch)
        real = observed.all(-1)
        k = path[real]
        each = hmm.emission.deviation(x[real])  # type: ignore[operator]  # (K, M, D)
        states.append(k)
        sequences.append(batch.which[:, None].expand(real.shape)[real])
        rests.append(each[k, torch.arange(len(k))])
    return torch.cat(states), torch.cat(sequences), torch.cat(rests)


def adopt(
    model: DMM | SwitchingDMM,
    start: Start,
    data: Sequences,
    generator: torch.Generator,
    *,
    n_updates: int,
    n_frames: int,
) -> None:
    """Begin a model from a start.

    Args:
        data: the frames as the model sees them, of which y are the latents.
        n_updates, n_frames: gradient steps, and frames in each, in which the core learns that y are the frames
            themselves; 0 where it gave y and is to stay as it is.
    """
    p, D = start.coefficients.shape[1:3]
    strong = start.gain > 0 and p * D < model.core.n_latent and isinstance(model.recognition, Product)
    variance = start.variance_given_u if strong else start.variance
    z = path(start, strong, model.core.n_latent, generator).to(data.x)
    adopt_moves(model, start, variance, strong, z, generator)
    if isinstance(model, SwitchingDMM):
        living = torch.ones(model.n_components, dtype=torch.bool, device=z.device)
        y = start.y.to(dtype=z.dtype, device=z.device)
        adopt_chain(model.transition, start.hmm.to(z), living, y)
    if n_updates:
        sd = SHARPNESS * variance.mean(0).sqrt().to(z)
        teach(model.core, data, z, sd, n_updates, n_frames, generator)
    if strong:
        foresee(model, data, z[data.starts, -1], n_updates // 5, generator)


def moves_of(model: DMM | SwitchingDMM) -> list[Conditional]:
    """p(z_t | z_{t-1}) of every state, or of the one there is."""
    return list(model.moves) if isinstance(model, SwitchingDMM) else [model.transition]  # type: ignore[arg-type]


def small_step(start: Start) -> float:
    """A step of every coefficient that shifts no state's expectation by more than SHIFT of its innovations:

    SHIFT · min_kd σ_kd / (1 + p E‖y_t‖_1)
    """
    reach = 1 + start.coefficients.shape[1] * start.y.x.abs().sum(1).mean()
    return SHIFT * float(start.variance.min().sqrt() / reach)


def path(start: Start, strong: bool, n_latent: int, generator: torch.Generator) -> Tensor:
    """z (N, Z): the first frame is repeated before the start, and idle latents are noise."""
    y, order = start.y, start.coefficients.shape[1]
    row = torch.arange(y.n_frames)
    step = row - y.starts.repeat_interleave(y.lengths)
    parts = [y.x[row - step.clamp_max(lag)] for lag in range(order)]
    u = start.u.repeat_interleave(y.lengths)[:, None]
    idle = n_latent - strong - order * y.x.shape[1]
    return torch.cat([*parts, noise((len(row), idle), y.x, generator), u[:, : int(strong)]], 1)


@torch.no_grad()
def adopt_moves(
    model: DMM | SwitchingDMM,
    start: Start,
    variance: Tensor,
    strong: bool,
    z: Tensor,
    generator: torch.Generator,
) -> None:
    """Every state's autoregression in companion form, and p(z_1) as the first frames have it."""
    p, D = start.coefficients.shape[1:3]
    own, typical, Z = p * D, variance.mean(0), z.shape[1]
    sample = z[torch.linspace(0, len(z) - 1, min(len(z), IMITATED), device=z.device).long()]
    for k, move in enumerate(moves_of(model)):
        weight, bias, spread = z.new_zeros(Z, Z), z.new_zeros(Z), z.new_ones(Z)
        weight[:D, :own] = start.coefficients[k].transpose(0, 1).reshape(D, own)
        weight[D:own, : own - D] = torch.eye(own - D)
        bias[:D] = start.intercept[k]
        spread[:own] = torch.cat([variance[k], (COPY_NOISE**2 * typical).repeat(p - 1)])
        if strong:
            weight[:D, -1] = (start.intercept[k] - start.intercept.mean(0)) / 2
            weight[-1, -1], spread[-1] = 1.0, STILL**2
        linear = Linear(Z).to(z)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
        linear.raw_variance.copy_(spread + (-(-spread).expm1()).log())  # softplus, undone
        if isinstance(move, Linear):
            move.load_state_dict(linear.state_dict())
        else:
            assert isinstance(move, Conditional)
            fit_move(move, sample, draw(linear(sample), generator))
    first = z[start.y.starts.to(z.device)]
    model.initial_mean.copy_(first.mean(0).expand_as(model.initial_mean))
    scale = first.std(0) if len(first) > 2 else torch.ones_like(first[0])
    model.initial_log_scale.copy_(scale.clamp_min(0.1).log().expand_as(model.initial_log_scale))


def teach(
    core: AEVB,
    data: Sequences,
    z: Tensor,
    sd: Tensor,
    n_updates: int,
    n_frames: int,
    generator: torch.Generator,
) -> None:
    """Show a core z_t (N, Z) for each frame: the decoder learns x_t, and the encoder that y_t is x_t where it was seen.

    sd: (D,) of what z_t may be off; y_t is the first D entries of z_t.
    """
    D, Z = len(sd), z.shape[1]
    with torch.no_grad():
        raw = core.encoder[-1].bias[Z:]  # type: ignore[index]
        raw.fill_(SILENT)  # it shall tell y_t well, and at first nothing of the rest
        raw[:D] = HEARD
        core.log_sharpness[:D] = -2 * sd.log() - math.log(HEARD)
    optimizer = torch.optim.Adam(core.parameters(), 1e-2, fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_updates)
    for _ in range(n_updates):
        which = torch.randint(len(z), (n_frames,), generator=generator).to(z.device)
        x, seen, truth = data.x[which], data.observed[which], z[which]
        error = sd * noise((n_frames, D), sd, generator)
        location, raw = core.encoder(core.features(x, seen)).split(Z, 1)
        miss = (((location[:, :D] - truth[:, :D]) / sd).square() * seen).mean()
        doubt = (raw[:, :D] - torch.where(seen, HEARD, UNSEEN)).square().mean()
        shown = torch.cat([truth[:, :D] + error, truth[:, D:]], 1)
        loss = miss + doubt - core.log_likelihood(x, seen, shown).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(core.parameters(), 10.0)
        optimizer.step()
        decay.step()


def foresee(
    model: DMM | SwitchingDMM, data: Sequences, u: Tensor, n_updates: int, generator: torch.Generator
) -> None:
    """Teach the network of the future how strong a sequence is: u (B,)."""
    q = model.recognition
    assert isinstance(q, Product)
    with torch.no_grad():
        q.head.bias[-1] = HEARD
    optimizer = torch.optim.Adam(q.parameters(), 1e-2, fused=True)
    for _ in range(n_updates):
        which = torch.randperm(len(data), generator=generator)[:64].sort().values.to(u.device)
        batch = data.batch(which)
        location = q.head(q.future(visible(model.core, batch), batch.lengths)).chunk(2, -1)[0][..., -1]
        loss = ((location - u[which, None]).square() * batch.mask).sum() / batch.mask.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
