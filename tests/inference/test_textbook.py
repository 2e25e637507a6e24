"""Numbers printed in books and lecture notes, recomputed there by hand or by other programs."""

import math

import pytest
import torch
from torch import Tensor

from dbn_vae import inference
from dbn_vae.datasets import load_earthquakes
from dbn_vae.emissions import Poisson
from dbn_vae.inference import Chain
from dbn_vae.inference.backends import available
from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import em
from dbn_vae.transitions import Stationary


@pytest.fixture(autouse=True, params=sorted({*available} - {"cuda"}))  # the chains here are on the CPU
def on_every_backend(request):
    with inference.using(request.param):
        yield


def table(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def discrete(startprob, transmat, emissionprob, symbols) -> Chain:
    B = table(emissionprob).log()
    return Chain(table(startprob).log(), table(transmat).log(), B[:, symbols].T[None])


def forward_probabilities(chain: Chain) -> torch.Tensor:
    """Rabiner's α_t(k) = p(x_{1:t}, s_t = k): (T, K)."""
    filtered = inference.filter(chain)
    return filtered.probs[0] * filtered.log_normalizer[0].cumsum(0).exp()[:, None]


def near(values, digits: int = 10):
    return pytest.approx(values, abs=0.6 * 10**-digits)


def test_weather_guessing_game():
    """Wikipedia, "Hidden Markov model": Rainy, Sunny; walk, shop, clean."""
    chain = discrete([0.6, 0.4], [[0.7, 0.3], [0.4, 0.6]], [[0.1, 0.4, 0.5], [0.6, 0.3, 0.1]], [0, 1, 2])
    log_z, gamma, _ = inference.smooth(chain)
    assert log_z.exp().item() == near(0.033612)
    assert log_z.item() == near(-3.3928721329)
    alpha = [0.06, 0.24, 0.0552, 0.0486, 0.02904, 0.004572]
    assert forward_probabilities(chain).flatten().tolist() == near(alpha)
    posterior = [0.2317029632, 0.7682970368, 0.6240628347, 0.3759371653, 0.8639771510, 0.1360228490]
    assert gamma.flatten().tolist() == near(posterior)
    best = inference.viterbi(chain)
    assert best.states.tolist() == [[1, 0, 0]]
    assert best.score.exp().item() == near(0.01344)
    for path, probability in [((1, 1, 0), 0.00864), ((0, 0, 0), 0.00588)]:
        score = inference.path_score(chain, torch.tensor([path]))
        assert score.exp().item() == near(probability), path
    three = inference.k_best(chain, 3)
    assert three.states[:, 0].tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert three.score[:, 0].exp().tolist() == near([0.01344, 0.00864, 0.00588])


def test_healthy_or_fever():
    """Wikipedia, "Viterbi algorithm": Healthy, Fever; normal, cold, dizzy."""
    chain = discrete([0.6, 0.4], [[0.7, 0.3], [0.4, 0.6]], [[0.5, 0.4, 0.1], [0.1, 0.3, 0.6]], [0, 1, 2])
    log_z, gamma, _ = inference.smooth(chain)
    assert log_z.exp().item() == near(0.03628)
    assert gamma[0, :, 0].tolist() == near([0.8765159868, 0.6229327453, 0.2121278942])
    best = inference.viterbi(chain)
    assert best.states.tolist() == [[0, 0, 1]]
    assert best.score.exp().item() == near(0.01512)


def test_umbrella_world():
    """Russell and Norvig, Artificial Intelligence, and Wikipedia, "Forward-backward algorithm"."""
    chain = discrete([0.5, 0.5], [[0.7, 0.3], [0.3, 0.7]], [[0.1, 0.9], [0.8, 0.2]], [1, 1, 0, 1, 1])
    log_z, gamma, _ = inference.smooth(chain)
    assert log_z.item() == near(-3.3725020443)
    filtered = [0.8181818182, 0.8833570413, 0.1906679397, 0.7307940046, 0.8673388896]
    assert inference.filter(chain).probs[0, :, 0].tolist() == near(filtered)
    smoothed = [0.8673388896, 0.8204190536, 0.3074835760, 0.8204190536, 0.8673388896]
    assert gamma[0, :, 0].tolist() == near(smoothed)
    best = inference.viterbi(chain)
    assert best.states.tolist() == [[0, 0, 1, 0, 0]]
    assert best.score.item() == near(-4.4590282910)


def test_ice_cream_of_three_days():
    """Jurafsky and Martin, Speech and Language Processing, appendix A: HOT, COLD; 3 1 3."""
    chain = discrete([0.8, 0.2], [[0.6, 0.4], [0.5, 0.5]], [[0.2, 0.4, 0.4], [0.5, 0.4, 0.1]], [2, 0, 2])
    log_z, gamma, _ = inference.smooth(chain)
    assert log_z.exp().item() == near(0.028562)
    alpha = [0.32, 0.02, 0.0404, 0.069, 0.023496, 0.005066]
    assert forward_probabilities(chain).flatten().tolist() == near(alpha)
    assert gamma[0, :, 0].tolist() == near([0.9366290876, 0.3960506967, 0.8226314684])
    best = inference.viterbi(chain)
    assert best.states.tolist() == [[0, 1, 0]]
    assert best.score.exp().item() == near(0.0128)


# fmt: off
ICE_CREAMS = [2, 3, 3, 2, 3, 2, 3, 2, 2, 3, 1, 3, 3, 1, 1, 1, 2,
              1, 1, 1, 3, 1, 2, 1, 1, 1, 2, 3, 3, 2, 3, 2, 2]
# fmt: on


def test_ice_cream_of_a_summer_and_its_baum_welch():
    """Eisner (2002), An interactive spreadsheet for teaching the forward-backward algorithm: C, H.

    Each state may also move to the end, so a row of A sums to 0.9, and the last emission carries
    the move to STOP.
    """
    x = torch.tensor(ICE_CREAMS) - 1
    start, moves = table([0.5, 0.5]), table([[0.8, 0.1], [0.1, 0.8]])
    stop, emission = table([0.1, 0.1]), table([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    trajectory = []
    for _ in range(11):
        potential = emission.log()[:, x].T.clone()
        potential[-1] += stop.log()
        log_z, gamma, xi = inference.smooth(Chain(start.log(), moves.log(), potential[None]))
        trajectory.append(log_z.item())
        visits = gamma[0].sum(0)
        start, moves, stop = gamma[0, 0], xi[0] / visits[:, None], gamma[0, -1] / visits
        emission = torch.stack([gamma[0, x == v].sum(0) for v in range(3)], 1) / visits[:, None]
    published = [-41.5378178211, -36.7422925932, -35.9576881140, -35.6511069385, -35.4893308273]
    assert trajectory[:5] == near(published, digits=9)
    assert trajectory[10] == near(-35.3342724478)
    perplexity = [math.exp(-log_z / 34) for log_z in trajectory]
    assert perplexity[:4] == near([3.39295, 2.94661, 2.87939, 2.85354], digits=5)


def test_weather_chain_seen_without_noise():
    """Rabiner (1989), section II, eq. 4: sunny, sunny, sunny, rainy, rainy, sunny, cloudy, sunny."""
    moves = [[0.4, 0.3, 0.3], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]]
    observed = [2, 2, 2, 0, 0, 2, 1, 2]
    chain = discrete([0.0, 0.0, 1.0], moves, torch.eye(3).tolist(), observed)
    assert inference.log_partition(chain).exp().item() == pytest.approx(1.536e-4, rel=1e-12)
    assert inference.viterbi(chain).states.tolist() == [observed]


def test_chains_worked_by_hand():
    """Three cases small enough for the head (after the tests of pyhsmm)."""
    mirror = [[1.0, 0.0], [0.0, 1.0]]
    stays = discrete([1.0, 0.0], mirror, mirror, [0] * 10)
    assert inference.log_partition(stays).item() == 0
    nowhere = discrete([1.0, 0.0], mirror, mirror, [1] * 10)
    assert inference.log_partition(nowhere).item() == -math.inf
    alternates = discrete([1.0, 0.0], [[0.9, 0.1], [0.2, 0.8]], mirror, [0, 1] * 5)
    expected = 5 * math.log(0.1) + 4 * math.log(0.2)
    assert inference.log_partition(alternates).item() == pytest.approx(expected, rel=1e-14)


def test_potentials_of_one_count_the_paths():
    """K^T of them, and K^(T−1) of those go through any one state at any one step."""
    K, T = 3, 12
    chain = Chain(torch.zeros(K).double(), torch.zeros(K, K).double(), torch.zeros(1, T, K).double())
    log_z, gamma, xi = inference.smooth(chain)
    assert log_z.exp().item() == pytest.approx(K**T, rel=1e-12)
    assert (gamma * log_z.exp()).flatten().tolist() == pytest.approx([K ** (T - 1)] * T * K, rel=1e-12)
    assert (xi * log_z.exp()).flatten().tolist() == pytest.approx([(T - 1) * K ** (T - 2)] * K * K, rel=1e-12)


# Zucchini and MacDonald (2009), Hidden Markov Models for Time Series: major earthquakes a year,
# 1900 to 2006.  The file does not come with the package; data/README.md says where to get it.


@pytest.fixture
def earthquakes() -> Tensor:
    """(107, 1)."""
    try:
        return torch.from_numpy(load_earthquakes()[1]).double()[:, None]
    except FileNotFoundError as error:
        pytest.skip(str(error))


def poisson_chain(start, moves, rates) -> HMM:
    return HMM(Stationary(table(start), table(moves)), Poisson(table(rates)[:, None]))


@pytest.mark.parametrize(
    ("rates", "stay", "published", "published_rates"),
    [
        ([10.0], 1.0, 391.91893, [19.3645]),
        ([10.0, 30.0], 0.9, 341.8787, [15.4208, 26.0182]),
        ([10.0, 20.0, 30.0], 0.8, 328.52748, [13.134, 19.713, 29.710]),
    ],
)
def test_earthquakes_by_em(earthquakes, rates, stay, published, published_rates):
    """The start free: the least −log L, and its rates."""
    m = len(rates)
    moves = torch.full((m, m), (1 - stay) / max(m - 1, 1)).fill_diagonal_(stay)
    model = poisson_chain([1 / m] * m, moves.tolist(), rates)
    objectives = []
    for step in em(model, Sequences.from_any(earthquakes)):
        objectives.append(step.objective)
        if len(objectives) > 1 and objectives[-1] - objectives[-2] < 1e-11:
            break
    if m == 2:
        assert -objectives[0] == near(413.27542, digits=5)  # at the start
        moves = model.transition.log_transition().exp().detach()
        assert [moves[0, 1].item(), moves[1, 0].item()] == near([0.0716, 0.1190], digits=4)
        assert model.transition.log_initial().exp().tolist() == near([1.0, 0.0])
    assert -objectives[-1] == near(published, digits=4)
    assert model.emission.rates().flatten().tolist() == near(published_rates, digits=3)


@pytest.mark.parametrize(
    ("rates", "published", "published_rates"),
    [
        ([10.0, 30.0], 342.3183, [15.4723, 26.1254]),
        ([10.0, 20.0, 30.0], 329.4603, [13.1457, 19.7211, 29.7145]),
    ],
)
def test_earthquakes_by_gradient_with_a_stationary_start(earthquakes, rates, published, published_rates):
    """π is the stationary distribution of A, so no M-step has a closed form: maximised directly."""
    m = len(rates)
    emission = Poisson(table(rates)[:, None])
    logits = (2 * torch.eye(m, dtype=torch.float64)).requires_grad_()
    seen = torch.ones(1, len(earthquakes), 1, dtype=torch.bool)
    optimizer = torch.optim.LBFGS(
        [logits, *emission.parameters()], max_iter=300, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        moves = logits.softmax(1)
        # δ (I − A + 1) = (1, …, 1) has the solution δ = δ A, Σ δ = 1
        start = torch.linalg.solve((torch.eye(m).double() - moves + 1).T, torch.ones(m).double())
        chain = Chain(start.log(), moves.log(), emission.log_prob(earthquakes[None], seen))
        return -inference.log_partition(chain).sum()

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    assert loss().item() == near(published, digits=4)
    assert emission.rates().flatten().tolist() == near(published_rates, digits=3)
