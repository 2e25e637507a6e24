"""Exact inference against the sum over all K^T paths, and identities that need no oracle."""

import math

import pytest
import torch
from oracles import (
    enumerate_filter,
    enumerate_posterior,
    log_joint,
    paths,
    random_chain,
)
from scipy.stats import chi2

from dbn_vae import inference
from dbn_vae.inference import Chain, reference

EXACT = {"rtol": 1e-10, "atol": 1e-10}
VARIES = ["stationary", "batch", "time"]
CASES = [
    pytest.param((varies, T, K, zeros), id=f"{varies}-T{T}-K{K}" + ("-zeros" if zeros else ""))
    for varies in VARIES
    for T in (1, 2, 5)
    for K in (1, 2, 3)
    for zeros in (0.0, 0.5)
    if not (K == 1 and zeros)
]


@pytest.fixture(autouse=True)
def on_the_reference():
    with inference.using("reference"):
        yield


@pytest.fixture
def chain(request) -> Chain:
    varies, T, K, zeros = request.param
    return random_chain(3, T, K, seed=100 * T + K, varies=varies, zeros=zeros)


every_chain = pytest.mark.parametrize("chain", CASES, indirect=True)
close = torch.testing.assert_close


def with_emission(chain: Chain, log_emission: torch.Tensor) -> Chain:
    return chain._replace(log_emission=log_emission)


def stack_paths(chain: Chain, b: int) -> tuple[Chain, torch.Tensor]:
    """Sequence b once for each of its possible paths, and those paths."""
    one = single(chain, b)
    every = paths(one.log_emission.shape[1], one.log_emission.shape[-1])
    repeated = [table.expand(len(every), *table.shape[1:]) for table in one[:3]]
    return Chain(*repeated), every


def single(chain: Chain, b: int) -> Chain:
    """Sequence b alone, cut to its length."""
    initial, transition, emission, lengths = chain.canonical()
    T = int(lengths[b])
    if transition.dim() == 2:
        transition = transition[None]
    elif transition.dim() == 3:
        transition = transition[b : b + 1]
    else:
        transition = transition[b : b + 1, : T - 1]
    return Chain(initial[b : b + 1], transition, emission[b : b + 1, :T])


# Against enumeration


@every_chain
def test_smoothing_is_the_sum_over_paths(chain):
    log_z, gamma, xi = enumerate_posterior(chain)
    posterior = inference.smooth(chain)
    close(posterior.log_z, log_z, **EXACT)
    close(posterior.gamma, gamma, **EXACT)
    close(posterior.xi, xi, **EXACT)
    close(inference.log_partition(chain), log_z, **EXACT)


@every_chain
def test_filtering_is_the_posterior_of_the_sequence_cut_off(chain):
    filtered = inference.filter(chain)
    close(filtered.probs, enumerate_filter(chain), **EXACT)
    for t in range(chain.log_emission.shape[1]):
        cut = chain._replace(lengths=chain.lengths.clamp_max(t + 1))
        close(filtered.log_normalizer[:, : t + 1].sum(1), enumerate_posterior(cut)[0], **EXACT)
    assert (filtered.log_normalizer[~chain.mask()] == 0).all()


@every_chain
def test_viterbi_finds_the_best_of_all_paths(chain):
    best = inference.viterbi(chain)
    for b, T in enumerate(chain.lengths.tolist()):
        every, score = log_joint(chain, b)
        assert best.states[b, :T].tolist() == every[score.argmax()].tolist(), f"sequence {b}"
        close(best.score[b], score.max(), **EXACT)
    assert (best.states[~chain.mask()] == -1).all()
    close(inference.path_score(chain, best.states), best.score, **EXACT)


@every_chain
def test_path_score_is_the_joint_of_every_path(chain):
    for b in range(len(chain.log_emission)):
        repeated, every = stack_paths(chain, b)
        close(inference.path_score(repeated, every), log_joint(chain, b)[1], **EXACT)


def test_path_score_ignores_what_stands_on_padding():
    chain = random_chain(2, 4, 3, seed=1)._replace(lengths=torch.tensor([4, 2]))
    states = torch.tensor([[0, 1, 0, 0], [0, 0, -1, -1]])
    expected = inference.path_score(chain, states)
    for rubbish in (0, 2, -7):
        other = torch.where(chain.mask(), states, rubbish)
        assert torch.equal(inference.path_score(chain, other), expected), f"padding {rubbish}"


def test_path_score_ignores_states_out_of_range_on_padding():
    chain = random_chain(2, 4, 3, seed=1)._replace(lengths=torch.tensor([4, 2]))
    states = torch.tensor([[0, 1, 0, 0], [0, 0, 99, 99]])
    clean = torch.where(chain.mask(), states, 0)
    close(inference.path_score(chain, states), inference.path_score(chain, clean), **EXACT)


@every_chain
def test_a_stream_of_steps_is_the_filter(chain):
    filtered = inference.filter(chain)
    for b, T in enumerate(chain.lengths.tolist()):
        initial, transition, emission, _ = single(chain, b).canonical()
        belief = initial[0] + emission[0, 0]
        c = belief.logsumexp(0)
        for t in range(T):
            if t:
                A = transition[0] if transition.dim() == 3 else transition[0, t - 1]
                belief, c = inference.step(belief, A, emission[0, t])
            else:
                belief = belief - c
            close(belief.exp(), filtered.probs[b, t], **EXACT)
            close(c, filtered.log_normalizer[b, t], **EXACT)


@pytest.mark.parametrize("zeros", [0.0, 0.5])
@pytest.mark.parametrize("varies", VARIES)
def test_sampled_paths_have_the_posterior_frequencies(varies, zeros):
    chain = random_chain(3, 4, 3, seed=7, varies=varies, zeros=zeros, scale=0.7)
    chain = chain._replace(lengths=torch.tensor([4, 2, 3]))
    n = 4000
    drawn = inference.sample(chain, n, torch.Generator().manual_seed(0))
    assert (drawn[:, ~chain.mask()] == -1).all()
    for b, T in enumerate(chain.lengths.tolist()):
        every, score = log_joint(chain, b)
        expected = n * (score - score.logsumexp(0)).exp()
        code = 3 ** torch.arange(T - 1, -1, -1)
        counts = torch.bincount((drawn[:, b, :T] * code).sum(-1), minlength=len(every))
        assert (counts[expected == 0] == 0).all(), f"sequence {b}: an impossible path was drawn"
        few = expected < 5  # pooled, as a chi-square test needs
        observed = torch.cat([counts[~few], counts[few].sum()[None]])
        wanted = torch.cat([expected[~few], expected[few].sum()[None]])
        distance = ((observed - wanted)[wanted > 0].square() / wanted[wanted > 0]).sum()
        assert distance < chi2.ppf(1 - 1e-5, max(int((wanted > 0).sum()) - 1, 1)), f"sequence {b}"


def test_sampling_repeats_with_its_seed_and_only_then():
    chain = random_chain(2, 20, 3, seed=3)
    first, again, other = (
        inference.sample(chain, 5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@every_chain
def test_no_sampled_path_beats_viterbi(chain):
    best = inference.viterbi(chain).score
    for states in inference.sample(chain, 20, torch.Generator().manual_seed(0)):
        score = inference.path_score(chain, states)
        assert (score > -math.inf).all()
        assert (score <= best + 1e-10).all()


# Gradients: to differentiate is to smooth


def leaves(chain: Chain) -> list[torch.Tensor]:
    return [potential.clone().requires_grad_() for potential in chain[:3]]


@every_chain
def test_the_gradient_of_log_z_is_the_posterior(chain):
    fused, plain = leaves(chain), leaves(chain)
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    mine = torch.autograd.grad(weight @ inference.log_partition(Chain(*fused, chain.lengths)), fused)
    torchs = torch.autograd.grad(
        weight @ reference.log_partition(Chain(*plain, chain.lengths)),
        plain,
        materialize_grads=True,  # with T = 1 no move is ever made
    )
    _, gamma, xi = enumerate_posterior(chain)
    by_batch = weight.view(-1, *[1] * (xi.dim() - 1)) * xi
    shared = chain.log_transition.dim() == 2
    fisher = (
        weight[:, None] * gamma[:, 0],
        by_batch.sum(0) if shared else by_batch,
        weight[:, None, None] * gamma,
    )
    for name, a, b, c in zip(Chain._fields, mine, torchs, fisher, strict=False):
        close(a, b, **EXACT, msg=lambda m, name=name: f"{name}: {m}")
        close(a, c, **EXACT, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("varies", VARIES)
def test_gradcheck_to_second_order(varies):
    chain = random_chain(2, 3, 2, seed=5, varies=varies, scale=1.0)

    def log_z(*potentials):
        return inference.log_partition(Chain(*potentials, chain.lengths))

    assert torch.autograd.gradcheck(log_z, leaves(chain))
    assert torch.autograd.gradgradcheck(log_z, leaves(chain))


@pytest.mark.parametrize("zeros", [0.0, 0.5])
@pytest.mark.parametrize("varies", VARIES)
def test_second_derivatives_take_the_same_value_by_two_routes(varies, zeros):
    """Through the posterior of the kernel, and by torch differentiating the recursion twice."""
    chain = random_chain(3, 4, 3, seed=11, varies=varies, zeros=zeros)
    g = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in chain[:3]]
    products = []
    for log_partition in (inference.log_partition, reference.log_partition):
        potentials = leaves(chain)
        log_z = log_partition(Chain(*potentials, chain.lengths)).square().sum()
        first = torch.autograd.grad(log_z, potentials, create_graph=True)
        inner = sum((f * d).sum() for f, d in zip(first, direction, strict=True))
        products.append(torch.autograd.grad(inner, potentials))
    for name, a, b in zip(Chain._fields, *products, strict=False):
        assert a.isfinite().all(), name
        close(a, b, **EXACT, msg=lambda m, name=name: f"{name}: {m}")


def test_verbs_leave_no_graph_and_no_trace_in_the_input():
    chain = random_chain(2, 3, 2, seed=2)
    potentials = leaves(chain)
    posterior = inference.smooth(Chain(*potentials, chain.lengths))
    assert not any(value.requires_grad for value in posterior)
    assert not inference.viterbi(Chain(*potentials, chain.lengths)).score.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(potentials, chain[:3], strict=True))


# Counting: with potentials 0 and −inf the sum over paths is a number of paths


@pytest.mark.parametrize("K", [1, 2, 3, 7])
@pytest.mark.parametrize("T", [1, 2, 9])
def test_zero_potentials_count_the_paths(T, K):
    nought = torch.zeros(1, T, K, dtype=torch.float64)
    chain = Chain(nought[0, 0], nought.new_zeros(K, K), nought)
    log_z, gamma, xi = inference.smooth(chain)
    assert log_z.item() == pytest.approx(T * math.log(K), abs=1e-12)
    close(gamma, torch.full_like(gamma, 1 / K), **EXACT)
    close(xi, torch.full_like(xi, (T - 1) / K**2), **EXACT)


def test_a_forbidden_diagonal_counts_the_colourings_of_a_path_graph():
    T, K = 30, 4
    nought = torch.zeros(1, T, K, dtype=torch.float64)
    moves = torch.zeros(K, K, dtype=torch.float64).fill_diagonal_(-math.inf)
    count = math.log(K) + (T - 1) * math.log(K - 1)
    assert inference.log_partition(Chain(nought[0, 0], moves, nought)).item() == pytest.approx(count)


# Extremes


def assert_exact(chain: Chain) -> None:
    """Everything against enumeration, which adds log-probabilities and so cannot underflow."""
    log_z, gamma, xi = enumerate_posterior(chain)
    posterior = inference.smooth(chain)
    close(posterior.log_z, log_z, rtol=1e-12, atol=1e-10)
    close(posterior.gamma, gamma, **EXACT)
    close(posterior.xi, xi, **EXACT)
    close(inference.filter(chain).log_z, log_z, rtol=1e-12, atol=1e-10)
    close(inference.filter(chain).probs, enumerate_filter(chain), **EXACT)
    for b in range(len(gamma)):
        score = log_joint(chain, b)[1].max()
        close(inference.viterbi(chain).score[b], score, rtol=1e-12, atol=1e-10)


def table(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


EXTREMES = {
    # A state a thousand nats behind at one step is the only one left at the next.
    "1000 nats apart": Chain(
        table([0.5, 0.5]).log(),
        table([[1.0, 0.0], [0.0, 1.0]]).log(),
        table([[[0.0, -1000.0], [-1500.0, 0.0], [0.0, -7.0]]]),
    ),
    "1000 nats apart, leaky": Chain(
        table([0.5, 0.5]).log(),
        table([[0.0, -1000.0], [-1200.0, 0.0]]),
        table([[[0.0, -1000.0], [-3000.0, 0.0], [0.0, -2500.0], [-600.0, 0.0]]]),
    ),
    # The one route to the only state that can emit leads through odds of e^-60 and e^-200.
    "rare but certain": Chain(
        table([[0.0, -60.0], [0.0, -200.0]]),
        table([[0.0, -math.inf], [-math.inf, -1.0]]),
        table([[[0.0, 0.0], [-math.inf, 0.0]]] * 2),
    ),
    "transition of 1e-300": Chain(
        table([1.0, 0.0]).log(),
        table([[1.0, 1e-300], [1e-300, 1.0]]).log(),
        table([[[0.0, -math.inf], [-math.inf, 0.0], [0.0, -math.inf]]]),
    ),
    "jump of odds 1e-10 is counted": Chain(
        table([0.5, 0.5]).log(),
        table([[1 - 1e-10, 1e-10], [1e-10, 1 - 1e-10]]).log(),
        table([[[0.0, -80.0], [0.0, -80.0], [-80.0, 0.0], [-80.0, 0.0]]]),
    ),
    "potentials near -1e5": Chain(
        table([0.3, 0.7]).log(),
        table([[0.9, 0.1], [0.2, 0.8]]).log(),
        table([[[-1e5, -1e5 - 3], [-1e5 + 2, -1e5], [-99000.0, -99001.0]]]),
    ),
    "potentials near +1e5": Chain(
        table([0.3, 0.7]).log(),
        table([[0.9, 0.1], [0.2, 0.8]]).log(),
        table([[[1e5, 1e5 - 3], [1e5 + 2, 1e5], [99000.0, 99001.0]]]),
    ),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_lose_nothing(name):
    assert_exact(EXTREMES[name])


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_have_finite_gradients(name):
    chain = EXTREMES[name].canonical()
    potentials = leaves(chain)
    (log_z,) = inference.log_partition(Chain(*potentials, chain.lengths)).sum()[None]
    for grad in torch.autograd.grad(log_z, potentials):
        assert grad.isfinite().all()


def test_a_thousand_nats_by_hand():
    """Two disconnected states: log Z is the better of their two sums, not of their two prefixes."""
    log_z = inference.log_partition(EXTREMES["1000 nats apart"])
    assert log_z.item() == pytest.approx(math.log(0.5) - 1007, rel=1e-14)


def test_impossible_sequences_have_probability_zero_and_no_gradient():
    chain = random_chain(3, 4, 2, seed=4, ragged=False)
    emission = chain.log_emission.clone()
    emission[1, 2] = -math.inf
    chain = with_emission(chain, emission)
    log_z, gamma, xi = inference.smooth(chain)
    assert log_z[1] == -math.inf
    assert log_z[[0, 2]].isfinite().all()
    assert (gamma[1] == 0).all()
    assert (xi[1] == 0).all()
    assert inference.viterbi(chain).score[1] == -math.inf
    filtered = inference.filter(chain)
    assert filtered.log_z[1] == -math.inf
    close(filtered.probs[1].sum(-1), table([1.0, 1.0, 0.0, 0.0]))
    potentials = leaves(chain)
    total = inference.log_partition(Chain(*potentials, chain.lengths))
    grads = torch.autograd.grad(total[[0, 2]].sum() + total[1], potentials, create_graph=True)
    assert all(g.isfinite().all() for g in grads)
    close(grads[2][1], torch.zeros(4, 2, dtype=torch.float64))
    second = torch.autograd.grad(sum(g.square().sum() for g in grads), potentials)
    assert all(g.isfinite().all() for g in second)


@pytest.mark.parametrize("start", [[1.0, 0.0], [0.0, 1.0]])
def test_an_impossible_start_or_move_is_minus_infinity(start):
    symbols = table([[[0.0, -math.inf], [-math.inf, 0.0]]])
    identity = table([[1.0, 0.0], [0.0, 1.0]]).log()
    assert inference.log_partition(Chain(table(start).log(), identity, symbols)) == -math.inf


def test_a_constant_added_to_an_emission_is_added_to_log_z():
    chain = random_chain(3, 6, 3, seed=6, ragged=False)
    shift = torch.linspace(-1e4, 1e4, 18, dtype=torch.float64).reshape(3, 6, 1)
    moved = inference.smooth(with_emission(chain, chain.log_emission + shift))
    plain = inference.smooth(chain)
    close(moved.log_z, plain.log_z + shift.sum((1, 2)), rtol=1e-12, atol=1e-9)
    close(moved.gamma, plain.gamma, rtol=1e-8, atol=1e-10)


def test_single_precision_keeps_its_digits_over_a_long_sequence():
    double = random_chain(2, 700, 3, seed=8, ragged=False)
    single_precision = Chain(*(p.float() for p in double[:3]), double.lengths)
    exact, rough = inference.smooth(double), inference.smooth(single_precision)
    assert rough.log_z.dtype == rough.gamma.dtype == rough.xi.dtype == torch.float32
    close(rough.log_z.double(), exact.log_z, rtol=5e-7, atol=0)
    close(rough.gamma.double(), exact.gamma, rtol=0, atol=2e-5)
    close(rough.xi.double(), exact.xi, rtol=1e-5, atol=1e-3)


# Invariances


def posterior_by_name(chain: Chain) -> dict[str, torch.Tensor]:
    return {
        **inference.smooth(chain)._asdict(),
        **{f"filter {k}": v for k, v in inference.filter(chain)._asdict().items()},
        **{f"viterbi {k}": v for k, v in inference.viterbi(chain)._asdict().items()},
    }


def padded(chain: Chain, extra: int, rubbish: float) -> Chain:
    """The chain on a longer grid, every padded potential filled with rubbish."""
    B, T, K = chain.log_emission.shape
    emission = torch.cat([chain.log_emission, chain.log_emission.new_zeros(B, extra, K)], 1)
    longer = torch.arange(T + extra) < chain.lengths[:, None]
    emission = emission.masked_fill(~longer[..., None], rubbish)
    transition = chain.log_transition
    if transition.dim() == 4:
        transition = torch.cat([transition, transition.new_zeros(B, extra, K, K)], 1)
        transition = transition.masked_fill(~longer[:, 1:, None, None], rubbish)
    return Chain(chain.log_initial, transition, emission, chain.lengths)


@pytest.mark.parametrize("rubbish", [-3.0, 50.0, -1e4, -math.inf])
@pytest.mark.parametrize("varies", VARIES)
def test_padding_changes_nothing(varies, rubbish):
    check_padding(random_chain(3, 4, 3, seed=9, varies=varies), rubbish)


@pytest.mark.parametrize("rubbish", [1e4, math.nan, math.inf])
@pytest.mark.parametrize("varies", VARIES)
def test_padding_changes_nothing_whatever_stands_in_it(varies, rubbish):
    check_padding(random_chain(3, 4, 3, seed=9, varies=varies), rubbish)


def check_padding(chain: Chain, rubbish: float) -> None:
    T = chain.log_emission.shape[1]
    short, long = posterior_by_name(chain), posterior_by_name(padded(chain, 3, rubbish))
    for name, value in long.items():
        if value.dim() == 4:  # xi of every step
            value = value[:, : T - 1]
        elif "score" not in name and "log_z" not in name and name != "xi":
            value = value[:, :T]
        close(value, short[name], **EXACT, msg=lambda m, name=name: f"{name}: {m}")
    potentials = leaves(padded(chain, 3, rubbish))
    log_z = inference.log_partition(Chain(*potentials, chain.lengths))
    close(log_z.detach(), short["log_z"], **EXACT)
    grads = torch.autograd.grad(log_z.sum(), potentials)
    close(grads[2][:, :T], short["gamma"], **EXACT)
    assert (grads[2][:, T:] == 0).all()


@every_chain
def test_a_batch_is_a_loop_over_its_sequences(chain):
    together = posterior_by_name(chain)
    for b, T in enumerate(chain.lengths.tolist()):
        for name, value in posterior_by_name(single(chain, b)).items():
            whole = together[name][b]
            if value.dim() == 4:  # xi of every step
                whole = whole[: T - 1]
            elif value.dim() >= 2 and name != "xi":
                whole = whole[:T]
            close(value[0], whole, **EXACT, msg=lambda m, b=b, name=name: f"sequence {b}, {name}: {m}")


@pytest.mark.parametrize("varies", VARIES)
def test_the_order_of_the_sequences_is_immaterial(varies):
    chain = random_chain(4, 5, 3, seed=12, varies=varies)
    order = torch.tensor([2, 0, 3, 1])
    shared = chain.log_transition.dim() == 2
    turned = Chain(
        chain.log_initial[order],
        chain.log_transition if shared else chain.log_transition[order],
        chain.log_emission[order],
        chain.lengths[order],
    )
    plain = posterior_by_name(chain)
    for name, value in posterior_by_name(turned).items():
        close(value, plain[name][order], **EXACT, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("varies", VARIES)
def test_relabelled_states_give_the_relabelled_posterior(varies):
    chain = random_chain(3, 5, 3, seed=13, varies=varies, zeros=0.3)
    new = torch.tensor([2, 0, 1])  # new[i]: the old name of state i
    renamed = Chain(
        chain.log_initial[:, new],
        chain.log_transition[..., new, :][..., new],
        chain.log_emission[..., new],
        chain.lengths,
    )
    plain, other = inference.smooth(chain), inference.smooth(renamed)
    close(other.log_z, plain.log_z, **EXACT)
    close(other.gamma, plain.gamma[..., new], **EXACT)
    close(other.xi, plain.xi[..., new, :][..., new], **EXACT)
    best, same = inference.viterbi(chain), inference.viterbi(renamed)
    old_names = torch.where(same.states >= 0, new[same.states], -1)
    assert torch.equal(old_names, best.states)
    close(same.score, best.score, **EXACT)


@pytest.mark.parametrize("varies", VARIES)
def test_time_runs_both_ways(varies):
    """The chain read backwards, with π moved to its last step, has the same posterior reversed."""
    chain = random_chain(3, 5, 3, seed=14, varies=varies, ragged=False, zeros=0.3)
    emission = chain.log_emission.clone()
    emission[:, 0] += chain.log_initial
    transition = chain.log_transition.mT
    backwards = Chain(
        torch.zeros_like(chain.log_initial),
        transition.flip(1) if transition.dim() == 4 else transition,
        emission.flip(1),
    )
    forwards, reverse = inference.smooth(chain), inference.smooth(backwards)
    close(reverse.log_z, forwards.log_z, **EXACT)
    close(reverse.gamma, forwards.gamma.flip(1), **EXACT)
    xi = reverse.xi.mT
    close(xi.flip(1) if xi.dim() == 4 else xi, forwards.xi, **EXACT)
    states = inference.viterbi(backwards).states
    assert torch.equal(states.flip(1), inference.viterbi(chain).states)


def test_repeated_tables_are_the_stationary_chain():
    chain = random_chain(3, 5, 3, seed=15)
    plain = inference.smooth(chain)
    for shape in [(3, 3, 3), (3, 4, 3, 3)]:
        repeated = chain._replace(log_transition=chain.log_transition.expand(shape))
        other = inference.smooth(repeated)
        close(other.log_z, plain.log_z, **EXACT)
        close(other.gamma, plain.gamma, **EXACT)
        close(other.xi.sum(1) if len(shape) == 4 else other.xi, plain.xi, **EXACT)


# What a user may hand in wrongly

GOOD = {
    "log_initial": torch.zeros(2),
    "log_transition": torch.zeros(2, 2),
    "log_emission": torch.zeros(3, 4, 2),
    "lengths": torch.tensor([4, 2, 1]),
}


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        ("log_emission", (4, 2)),
        ("log_transition", (3, 3)),
        ("log_transition", (3, 4, 2, 2)),
        ("log_initial", (3,)),
        ("log_initial", (2, 2)),
        ("lengths", (2,)),
    ],
)
def test_tables_that_do_not_fit_are_named_with_their_shape(field, shape):
    wrong = torch.zeros(shape, dtype=GOOD[field].dtype)
    with pytest.raises(ValueError, match=field) as error:
        inference.smooth(Chain(**{**GOOD, field: wrong}))
    assert str(tuple(shape)) in str(error.value)


def test_an_unknown_backend_is_refused_and_the_choice_ends_with_the_block():
    with pytest.raises(ValueError, match="'abacus'"), inference.using("abacus"):
        pass
    assert inference.log_partition(Chain(**GOOD)).shape == (3,)


def test_large_potentials_beside_padding() -> None:
    """exp of a log-potential above 709 overflows; on padding nothing of it may be left."""
    chain = random_chain(3, 6, 2, seed=1)
    lengths = torch.tensor([6, 3, 1])
    small, large = (
        chain._replace(lengths=lengths, log_transition=chain.log_transition + c) for c in (0.0, 800.0)
    )
    a, b = reference.smooth(small.canonical()), reference.smooth(large.canonical())
    torch.testing.assert_close(b.xi, a.xi, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(b.log_z, a.log_z + 800.0 * (lengths - 1), rtol=1e-12, atol=0)
