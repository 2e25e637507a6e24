"""What every transition must do: its M-step is the maximum under its constraint, EM with it climbs, and its count of
free parameters is the dimension of what it can be."""

import math
from collections.abc import Callable
from itertools import islice, pairwise

import pytest
import torch
from oracles import enumerate_posterior
from torch import Tensor

from dbn_vae import inference
from dbn_vae.aevb import AEVB
from dbn_vae.distributions import n_choices
from dbn_vae.emissions import Categorical, DiagonalGaussian
from dbn_vae.inference import Chain
from dbn_vae.likelihoods import Gaussian
from dbn_vae.models import HMM, Filtering
from dbn_vae.models.chains import sum_out_states
from dbn_vae.models.hmm import sample_states, state_chain
from dbn_vae.models.switching_dmm import SwitchingDMM
from dbn_vae.sequences import Sequences
from dbn_vae.training import randomly, start
from dbn_vae.training.em import em, expect
from dbn_vae.transitions import (
    Gated,
    InputDriven,
    PartlyFixed,
    Stationary,
    Tied,
    Transition,
    cyclic,
    left_to_right,
    sticky,
)  # fmt: skip

K, U = 4, 2
close = torch.testing.assert_close
STEP = torch.arange(K)
CIRCLE = (STEP - STEP[:, None]) % K


def numbers(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def simplex(g: torch.Generator, *shape: int) -> Tensor:
    return numbers(g, *shape).softmax(-1)


def with_zeros(g: torch.Generator) -> Tensor:
    table = simplex(g, K, K)
    table[0, 2] = table[3, 1] = table[3, 0] = 0
    return table / table.sum(1, keepdim=True)


FIXED = torch.zeros(K, K, dtype=torch.bool)
FIXED[0, 0] = FIXED[1, 2] = FIXED[1, 3] = FIXED[3] = True  # one, two, none and all entries of a row


def partly_fixed(g: torch.Generator, alpha: float = 1.0) -> PartlyFixed:
    table = with_zeros(g)
    return PartlyFixed(simplex(g, K), table, FIXED, alpha, alpha)


def tied_rows(g: torch.Generator) -> Tied:
    return Tied(simplex(g, K), simplex(g, 2, K)[[0, 1, 0, 0]], torch.tensor([5, -1, 5, 5]), 1.5, 1.5)


def tied_entries(g: torch.Generator) -> Tied:
    """Rows 0 to 2 stay alike and leave alike; row 3 is its own."""
    groups = torch.full((K, K), 1)
    groups.fill_diagonal_(0)
    groups[3] = torch.tensor([7, 7, 8, 9])
    table = torch.full((K, K), 0.1, dtype=torch.float64)
    table.fill_diagonal_(0.7)
    table[3] = torch.tensor([0.25, 0.25, 0.5, 0.0])
    return Tied(simplex(g, K), table, groups)


def driven(g: torch.Generator, precision: float = 0.0) -> InputDriven:
    chain = InputDriven(simplex(g, K), with_zeros(g), U, precision)
    with torch.no_grad():
        chain.initial_slope.copy_(numbers(g, K, U))
        chain.transition_slope.copy_(numbers(g, K, K, U))
    return chain


# one line a family, and its number of free parameters, counted by hand
FAMILIES: dict[str, tuple[Callable[[torch.Generator], Transition], int]] = {
    "stationary": (lambda g: Stationary(simplex(g, K), with_zeros(g), 1.5, 1.5), 3 + 2 + 3 + 3 + 1),
    "sticky": (lambda g: sticky(K), 3 + 12),
    "left-to-right": (lambda g: left_to_right(K, max_jump=2), 0 + 2 + 2 + 1 + 0),
    "restarting": (lambda g: left_to_right(K, absorbing=False), 0 + 1 + 1 + 1 + 1),
    "cyclic": (lambda g: cyclic(K), 3 + 4),
    "partly-fixed": (partly_fixed, 3 + 1 + 1 + 3 + 0),
    "partly-fixed-map": (lambda g: partly_fixed(g, 1.7), 3 + 1 + 1 + 3 + 0),
    "tied-rows": (tied_rows, 3 + 3 + 3),
    "tied-entries": (tied_entries, 3 + 1 + 1),
    "circle": (lambda g: Tied(simplex(g, K), simplex(g, K)[CIRCLE], CIRCLE), 3 + 3),
    "input-driven": (driven, (1 + U) * (3 + 2 + 3 + 3 + 1)),
    "input-driven-map": (lambda g: driven(g, 0.3), (1 + U) * (3 + 2 + 3 + 3 + 1)),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
CONSTANT = [f for f in FAMILIES if not f.startswith("input")]


def made(family: str, seed: int = 0) -> tuple[Transition, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    return FAMILIES[family][0](g), g


def counts(chain: Transition, g: torch.Generator, n: int = 50) -> tuple[Tensor, ...]:
    """Random expected counts, none of an impossible move: what maximize reads."""
    shape = (n,) if isinstance(chain, InputDriven) else ()
    u = numbers(g, n, U)
    first, pairs = (10 * torch.rand(*shape, *s, generator=g, dtype=torch.float64) for s in ((K,), (K, K)))
    possible = chain.log_initial(u[:, None]).exp() > 0, chain.log_transition(u[None]).exp() > 0
    first, pairs = first * possible[0], pairs * possible[1].reshape(-1, K, K)[0]
    return (first, pairs, u, numbers(g, n, U)) if shape else (first, pairs)


def expected_objective(chain: Transition, statistics: tuple[Tensor, ...]) -> Tensor:
    """Σ counts · log p + log-prior, written out."""
    first, pairs, *inputs = statistics
    if isinstance(chain, InputDriven):
        log_pi = torch.stack([chain.log_initial(u[None, None])[0] for u in inputs[0]])
        log_A = torch.stack([chain.log_transition(torch.stack([u, u])[None])[0, 0] for u in inputs[1]])
    else:
        log_pi, log_A = chain.log_initial(), chain.log_transition()
    both = (first, log_pi), (pairs, log_A)
    return sum((torch.where(n > 0, n * p, 0.0).sum() for n, p in both), chain.log_prior())  # type: ignore[return-value]


def probabilities(chain: Transition, u: Tensor) -> Tensor:
    """Everything that the chain says where u_1 and u_2 are the same row of u (n, U), for all rows."""
    twice = u[:, None].expand(-1, 2, -1)
    return torch.cat([chain.log_initial(twice).exp().flatten(), chain.log_transition(twice).exp().flatten()])


@every_family
@pytest.mark.parametrize("seed", range(3))
def test_the_m_step_is_a_maximum_under_the_constraint(family: str, seed: int) -> None:
    """From anywhere it never lowers the expected objective, and there the gradient along the constraint vanishes."""
    chain, g = made(family, seed)
    statistics = counts(chain, g)
    before = expected_objective(chain, statistics).item()
    chain.maximize(*statistics)
    value = expected_objective(chain, statistics)
    assert value.item() >= before
    slopes = torch.autograd.grad(value, list(chain.parameters()))
    steepest = max(float(s.abs().max()) for s in slopes)
    assert steepest < (1e-3 if isinstance(chain, InputDriven) else 1e-9) * float(statistics[1].sum()) / 100
    top = value.item()
    with torch.no_grad():
        for _ in range(5):  # and it is a maximum, not a saddle
            moved = [p.clone() for p in chain.parameters()]
            for p in chain.parameters():
                p += 0.05 * numbers(g, *p.shape)
            assert expected_objective(chain, statistics).item() <= top
            for p, old in zip(chain.parameters(), moved, strict=True):
                p.copy_(old)


@every_family
def test_n_free_is_the_dimension_of_what_the_chain_can_be(family: str) -> None:
    """The rank of the Jacobian of all probabilities in all parameters, and the count by hand."""
    chain, g = made(family)
    u = numbers(g, 12, U)
    parameters = dict(chain.named_parameters())

    def says(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(Asked(chain), {f"chain.{n}": v for n, v in values.items()}, (u,))

    jacobian = torch.autograd.functional.jacobian(
        lambda *values: says(dict(zip(parameters, values, strict=True))), tuple(parameters.values())
    )
    flat = torch.cat([j.flatten(1) for j in jacobian], 1)
    finite = torch.cat([p.flatten() > -math.inf for p in parameters.values()])
    assert torch.linalg.matrix_rank(flat[:, finite], tol=1e-9) == chain.n_free() == FAMILIES[family][1]
    chain.frozen = frozenset({"transition"})
    start_only = chain.n_free()
    chain.frozen = frozenset({"initial"})
    assert start_only + chain.n_free() == FAMILIES[family][1]


class Asked(torch.nn.Module):
    def __init__(self, chain: Transition) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, u: Tensor) -> Tensor:
        return probabilities(self.chain, u)


def random_data(g: torch.Generator) -> Sequences:
    lengths = [18, 1, 7, 25, 2]
    xs = [torch.randint(3, (n, 1), generator=g).double() for n in lengths]
    us = [numbers(g, n, U) for n in lengths]
    return Sequences.from_any(
        [x.numpy() for x in xs], inputs=[u.numpy() for u in us], weights=[1.0, 0.5, 2.0, 1.0, 0.0]
    )


@pytest.mark.some(4)
@pytest.mark.parametrize(
    ("family", "seed"),
    [(f, 0) for f in FAMILIES] + [(f, 1) for f in CONSTANT],  # inputs make an M-step an ascent of its own
)
def test_em_never_falls_and_stops_where_the_gradient_vanishes(family: str, seed: int) -> None:
    chain, g = made(family, seed)
    model = HMM(chain, Categorical(simplex(g, K, 3), 1.5))
    if isinstance(chain, InputDriven):
        chain.precision = max(chain.precision, 0.1)  # so few data have no maximum without it
    data = random_data(g)
    zeros = chain.log_transition(data.batch().inputs).exp() == 0
    values: list[float] = []
    for step in islice(em(model, data), 2000):
        values.append(step.objective)
        if len(values) > 1 and values[-1] - values[-2] < 1e-9:
            break
    assert min(b - a for a, b in pairwise(values)) > -1e-9
    assert values[-1] > values[0] + 0.5
    batch = data.batch()
    assert (chain.log_transition(batch.inputs).exp()[zeros] == 0).all(), "structure must stay"
    value = batch.weights @ model.objective(batch) + model.log_parameter_prior()
    slopes = torch.autograd.grad(value, list(chain.parameters()), allow_unused=True)
    assert max(float(s.abs().max()) for s in slopes if s is not None) < 1e-3


@every_family
def test_what_is_frozen_stays(family: str) -> None:
    chain, g = made(family)
    before = [p.clone() for p in chain.parameters()]
    chain.frozen = frozenset({"initial", "transition"})
    chain.maximize(*counts(chain, g))
    assert all(torch.equal(a, b) for a, b in zip(before, chain.parameters(), strict=True))


@pytest.mark.parametrize("family", CONSTANT)
def test_a_row_without_counts_keeps_its_value(family: str) -> None:
    """Under maximum likelihood; never a row of NaN."""
    chain, _ = made(family)
    chain.startprob_prior = chain.transmat_prior = 1.0
    before = chain.log_transition().clone()
    chain.maximize(torch.zeros(K).double(), torch.zeros(K, K).double())
    close(chain.log_transition(), before, rtol=0, atol=1e-12)


# -- one by one


def test_fixed_entries_keep_their_value_and_the_others_share_the_rest() -> None:
    g = torch.Generator().manual_seed(0)
    table = with_zeros(g)
    chain = PartlyFixed(simplex(g, K), table, FIXED)
    close(chain.log_transition().exp(), table, rtol=1e-14, atol=0)
    pairs = 10 * torch.rand(K, K, generator=g, dtype=torch.float64)
    chain.maximize(torch.ones(K).double(), pairs)
    after = chain.log_transition().exp()
    close(after[FIXED], table[FIXED], rtol=1e-14, atol=0)
    free = ~FIXED & (table > 0)
    for i in range(3):
        share = pairs[i][free[i]] / pairs[i][free[i]].sum()
        close(after[i][free[i]], share * (1 - table[i][FIXED[i]].sum()), rtol=1e-13, atol=0)
    optimizer = torch.optim.SGD(chain.parameters(), lr=0.1)  # a gradient step cannot move them either
    (-(pairs.flip(0) * chain.log_transition().clamp_min(-1e3))).sum().backward()
    optimizer.step()
    close(chain.log_transition().exp()[FIXED], table[FIXED], rtol=1e-14, atol=0)
    close(chain.log_transition().exp().sum(1), torch.ones(K).double(), rtol=1e-12, atol=0)


def test_entries_fixed_at_one_leave_nothing_to_share() -> None:
    eye = torch.eye(K, dtype=torch.float64)
    chain = PartlyFixed(torch.full((K,), 1 / K).double(), eye, eye == 1)
    chain.maximize(torch.ones(K).double(), torch.ones(K, K).double())
    assert torch.equal(chain.log_transition().exp(), eye)
    assert chain.n_free() == K - 1 and torch.isfinite(chain.log_prior())


def test_tied_rows_pool_their_counts() -> None:
    g = torch.Generator().manual_seed(1)
    chain = Tied(simplex(g, K), simplex(g, 2, K)[[0, 1, 0, 0]], torch.tensor([0, 1, 0, 0]))
    pairs = 10 * torch.rand(K, K, generator=g, dtype=torch.float64)
    chain.maximize(torch.ones(K).double(), pairs)
    pooled = pairs[[0, 2, 3]].sum(0)
    A = chain.log_transition().exp()
    for i in (0, 2, 3):
        close(A[i], pooled / pooled.sum(), rtol=1e-13, atol=0)
    close(A[1], pairs[1] / pairs[1].sum(), rtol=1e-13, atol=0)


def test_a_walk_on_a_circle_learns_its_steps() -> None:
    """Tied along diagonals: the share of moves by d, wherever they began."""
    g = torch.Generator().manual_seed(2)
    chain = Tied(simplex(g, K), simplex(g, K)[CIRCLE], CIRCLE)
    pairs = 10 * torch.rand(K, K, generator=g, dtype=torch.float64)
    chain.maximize(torch.ones(K).double(), pairs)
    share = torch.stack([pairs[d == CIRCLE].sum() for d in range(K)]) / pairs.sum()
    close(chain.log_transition().exp(), share[CIRCLE], rtol=1e-13, atol=0)


def test_structures() -> None:
    def zeros(chain: Stationary) -> list[str]:
        return ["".join(".x"[int(p > 0)] for p in row) for row in chain.log_transition().exp()]

    assert zeros(left_to_right(4)) == ["xx..", ".xx.", "..xx", "...x"]
    assert zeros(left_to_right(4, max_jump=2)) == ["xxx.", ".xxx", "..xx", "...x"]
    assert zeros(left_to_right(4, absorbing=False)) == ["xx..", ".xx.", "..xx", "x..x"]
    assert zeros(cyclic(4)) == ["xx..", ".xx.", "..xx", "x..x"]
    assert zeros(cyclic(4, max_jump=2)) == ["xxx.", ".xxx", "x.xx", "xx.x"]
    assert left_to_right(4).log_initial().exp().tolist() == [1, 0, 0, 0]
    states = sample_states(left_to_right(4, stay=0.5), 60, torch.Generator().manual_seed(0))
    assert states[0] == 0 and states[-1] == 3 and set(states.diff().tolist()) == {0, 1}
    turns = sample_states(cyclic(4, stay=0.5), 60, torch.Generator().manual_seed(0))
    assert set((turns.diff() % 4).tolist()) == {0, 1}
    for chain in (left_to_right(1), cyclic(1)):
        assert chain.log_transition().exp().tolist() == [[1.0]]
    assert n_choices(torch.full((2, 3), -math.inf)) == 0


# -- inputs


def test_a_driven_chain_is_the_enumeration_of_its_tables() -> None:
    """And what stands on padding does not matter."""
    g = torch.Generator().manual_seed(0)
    chain = driven(g)
    data = random_data(g)
    batch = data.subset([1, 2, 4]).batch()
    potential = numbers(g, *batch.x.shape[:2], K)
    tables = state_chain(chain, potential, batch)
    T = batch.x.shape[1]
    for b, t, i in ((1, 3, 2), (1, 5, 0), (2, 0, 1)):
        row = (chain.transition_logits + chain.transition_slope @ batch.inputs[b, t + 1])[i].softmax(-1)
        close(tables.log_transition[b, t, i].exp(), row, rtol=1e-12, atol=1e-14)
    assert tables.log_transition.shape == (3, T - 1, K, K)
    cut = Chain(*(p.detach() for p in tables[:3]), batch.lengths)
    first_five = batch.lengths.clamp(max=5)  # enumeration is exponential
    short = Chain(cut.log_initial, cut.log_transition[:, :4], cut.log_emission[:, :5], first_five)
    log_z, _, xi = enumerate_posterior(short)
    posterior = inference.smooth(short)
    close(posterior.log_z, log_z, rtol=1e-12, atol=0)
    close(posterior.xi, xi, rtol=0, atol=1e-12)
    noisy = batch.inputs.masked_fill(~batch.mask[..., None], 1e3)
    again = state_chain(chain, potential, batch._replace(inputs=noisy))
    close(inference.log_partition(again), inference.log_partition(tables), rtol=1e-14, atol=0)


def test_without_weights_it_is_the_stationary_chain_and_learns_the_same_intercepts() -> None:
    g = torch.Generator().manual_seed(3)
    pi, A, probs = simplex(g, K), with_zeros(g), simplex(g, K, 3)
    data = random_data(g)
    free, constant = (
        HMM(InputDriven(pi, A, U), Categorical(probs)),
        HMM(Stationary(pi, A), Categorical(probs)),
    )
    close(free.objective(data.batch()), constant.objective(data.batch()), rtol=1e-12, atol=0)
    a, b = (expect(m, data.batches()) for m in (free, constant))
    close(a.visits, b.visits, rtol=1e-12, atol=1e-12)
    close(a.transition[0].sum(0), b.transition[0], rtol=1e-12, atol=1e-12)
    close(a.transition[1].sum(0), b.transition[1], rtol=1e-12, atol=1e-12)
    assert len(a.transition[1]) == (data.lengths - 1)[data.weights > 0].sum()
    still = data.replace(inputs=torch.zeros_like(data.inputs))
    next(steps := em(free, still)), next(steps)
    next(steps := em(constant, still)), next(steps)
    close(free.transition.log_transition(still.inputs[None])[0, 0].exp(), constant.transition.log_transition().exp(),
          rtol=1e-6, atol=1e-6)  # fmt: skip


def test_a_switch_learns_one_table_a_position() -> None:
    """One input of 0 or 1 saturates the model: the maximum is the shares of the moves made under each."""
    g = torch.Generator().manual_seed(4)
    chain = InputDriven(simplex(g, K), simplex(g, K, K), 1)
    n = 40
    u, first_u = (torch.randint(2, (n, 1), generator=g).double() for _ in range(2))
    first, pairs = torch.rand(n, K, generator=g).double(), torch.rand(n, K, K, generator=g).double()
    chain.maximize(first, pairs, first_u, u)
    for position in (0.0, 1.0):
        at = torch.full((1, 2, 1), position).double()
        total = pairs[u[:, 0] == position].sum(0)
        close(chain.log_transition(at)[0, 0].exp(), total / total.sum(1, keepdim=True), rtol=1e-5, atol=1e-6)
        begun = first[first_u[:, 0] == position].sum(0)
        close(chain.log_initial(at)[0].exp(), begun / begun.sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_frames", [1, 20, 2**18])
def test_statistics_add_over_batches_and_fused_emissions_agree(max_frames: int) -> None:
    g = torch.Generator().manual_seed(5)
    model = HMM(driven(g), DiagonalGaussian(numbers(g, K, 1), 1 + torch.rand(K, 1, generator=g).double()))
    data = random_data(g)
    e = expect(model, data.batches(max_frames))
    with inference.using("reference"):
        whole = expect(model, [data.batch()])
    close(e.log_likelihood, whole.log_likelihood, rtol=1e-12, atol=0)
    close(e.visits, whole.visits, rtol=1e-11, atol=0)
    for mine, theirs in zip(e.emission, whole.emission, strict=True):
        close(mine, theirs, rtol=1e-10, atol=1e-10)
    values = []
    for s in (e, whole):
        first, pairs, first_u, u = s.transition
        values += [torch.einsum("nij,nu->iju", pairs, u), torch.einsum("ni,nu->iu", first, first_u)]
    close(values[0], values[2], rtol=0, atol=1e-10)
    close(values[1], values[3], rtol=0, atol=1e-10)


def test_paths_follow_their_inputs() -> None:
    g = torch.Generator().manual_seed(6)
    chain = InputDriven(torch.tensor([0.5, 0.5]).double(), torch.full((2, 2), 0.5).double(), 1)
    with torch.no_grad():
        chain.transition_slope[:, 1] = 60.0  # towards state 1 where u = 1, towards 0 where u = −1
        chain.initial_slope[1] = 60.0
    u = torch.randint(2, (40, 1), generator=g).double() * 2 - 1
    assert torch.equal(sample_states(chain, 40, g, inputs=u), (u[:, 0] > 0).long())
    model = HMM(chain, DiagonalGaussian(torch.tensor([[-9.0], [9.0]]).double(), torch.ones(2, 1).double()))
    x, states = model.sample(40, g, u)
    assert torch.equal((x[:, 0] > 0).long(), states) and torch.equal(states, (u[:, 0] > 0).long())
    assert len(sample_states(chain, 1, g, inputs=u[:1])) == 1
    with pytest.raises(ValueError, match="inputs has 40 rows"):
        sample_states(chain, 5, g, inputs=u)
    with pytest.raises(ValueError, match="reads 1 inputs a step, but none are given"):
        sample_states(chain, 5, g)


def test_driven_moves_are_recovered() -> None:
    """The weights that made the data, from the data alone, within what so many moves can tell."""
    g = torch.Generator().manual_seed(7)
    truth = InputDriven(torch.tensor([0.5, 0.5]).double(), torch.tensor([[0.8, 0.2], [0.2, 0.8]]).double(), 1)
    with torch.no_grad():
        truth.transition_slope[0, 1], truth.transition_slope[1, 0] = 1.5, -1.0
    emission = DiagonalGaussian(torch.tensor([[-2.0], [2.0]]).double(), torch.ones(2, 1).double())
    us = [numbers(g, 400, 1) for _ in range(10)]
    xs = [HMM(truth, emission).sample(400, g, u)[0] for u in us]
    data = Sequences.from_any([x.numpy() for x in xs], inputs=[u.numpy() for u in us])
    guess = DiagonalGaussian(torch.tensor([[-1.0], [1.0]]).double(), torch.ones(2, 1).double())
    model = HMM(InputDriven(torch.full((2,), 0.5).double(), torch.full((2, 2), 0.5).double(), 1), guess)
    for _ in islice(em(model, data), 25):
        pass
    w = model.transition.transition_slope.detach()
    assert abs(w[0, 1] - w[0, 0] - 1.5)[0] < 0.25 and abs(w[1, 0] - w[1, 1] + 1.0)[0] < 0.25
    with torch.no_grad():
        learnt = model.objective(data.batch()).sum()
        assert learnt > HMM(truth, emission).objective(data.batch()).sum(), "the maximum beats the truth"
        model.transition.transition_slope.zero_()
        assert model.objective(data.batch()).sum() < learnt - 100


def test_starts_serve_a_driven_chain() -> None:
    g = torch.Generator().manual_seed(8)
    data = random_data(g)
    pi, A, probs = simplex(g, K), with_zeros(g), simplex(g, K, 3)
    models = [HMM(t, Categorical(probs)) for t in (InputDriven(pi, A, U), Stationary(pi, A))]
    responsibilities = randomly(data, K, g)
    for model in models:
        start(model, data, responsibilities)
    batch = data.batch()
    close(models[0].objective(batch), models[1].objective(batch), rtol=1e-6, atol=0)


def test_deep_models_pass_the_inputs_on() -> None:
    """Sample by sample, and a driven chain without weights is the stationary one in a switching DMM."""
    g = torch.Generator().manual_seed(9)
    batch = random_data(g).batch()
    potential = numbers(g, 3, *batch.x.shape[:2], K)
    chain = driven(g)
    one_by_one = torch.stack([inference.log_partition(state_chain(chain, p, batch)) for p in potential])
    close(sum_out_states(chain, potential, batch), one_by_one, rtol=1e-12, atol=0)
    pi, A = simplex(g, 2), simplex(g, 2, 2)
    torch.manual_seed(0)
    core, moves = AEVB(1, 2, Gaussian(), hidden=(4,)).double(), [Gated(2, 4).double() for _ in range(2)]
    bounds = [
        SwitchingDMM(core, t, moves, Filtering()).elbo(batch, 2, torch.Generator().manual_seed(1)).elbo
        for t in (Stationary(pi, A), InputDriven(pi, A, U))
    ]
    close(bounds[0], bounds[1], rtol=1e-10, atol=0)


# -- what users get wrong


def test_errors_name_the_argument_and_the_remedy() -> None:
    half = torch.full((2, 2), 0.5).double()
    pi = half[0]
    with pytest.raises(ValueError, match=r"fixed has shape \(2,\)"):
        PartlyFixed(pi, half, torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"its rows sum to \[1\.0, 1\."):
        PartlyFixed(pi, torch.tensor([[0.5, 0.5], [0.7, 0.5]]).double(), half == 1)
    with pytest.raises(ValueError, match="groups has shape"):
        Tied(pi, half, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="rows 0 and 1 of groups share some groups"):
        Tied(pi, half, torch.tensor([[0, 1], [1, 2]]))
    with pytest.raises(ValueError, match=r"transmat\[\d, \d\]=0\.\d differs"):
        Tied(pi, torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double(), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="max_jump=0"):
        left_to_right(3, max_jump=0)
    with pytest.raises(ValueError, match=r"stay=1\.0"):
        cyclic(3, stay=1.0)
    chain = InputDriven(pi, half, 2)
    with pytest.raises(ValueError, match="reads 2 inputs a step, but 3 are given"):
        chain.log_transition(torch.zeros(1, 4, 3))
