"""Online EM: in the limit of one batch it is EM, sums move with the parameters, and a stream leads to the optimum."""

import copy
from itertools import islice

import numpy as np
import pytest
import torch
from test_em import FAMILIES, random_data, random_model
from torch import Tensor

from dbn_vae import CategoricalHMM, GaussianHMM, VariationalGaussianHMM, emissions
from dbn_vae.emissions import closed_form
from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training import decay, em, online
from dbn_vae.training.online import update
from dbn_vae.transitions import Stationary

close = torch.testing.assert_close
CLOSED = [f for f in FAMILIES if f != "logistic-regression"]
closed = pytest.mark.parametrize("family", CLOSED)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def parameters(model: HMM) -> Tensor:
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.some(4)
@closed
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_with_step_1_and_one_batch_it_is_em(family: str, strength: float) -> None:
    """Update for update, missing values, weights and priors included."""
    g = torch.Generator().manual_seed(1)
    data = random_data(family, g, 5, 0.2, True)
    model = random_model(family, g, strength)
    twin = copy.deepcopy(model)
    batch = islice(em(twin, data), 4)
    stream = online(model, data, batch_size=5, generator=generator(), step_size=lambda t: 1.0)
    next(batch)
    for expected, _ in zip(batch, stream, strict=False):
        value, _ = update(copy.deepcopy(model), [data.batch()], None, 1.0)
        assert value == pytest.approx(expected.log_likelihood, rel=1e-9)
        close(parameters(model), parameters(twin), rtol=1e-6, atol=1e-6)


# the sums of the others are expectations of what is hidden in a state as well, and move with more than the centre
HIDDEN = ("student-t", "negative-binomial", "mixture", "zero-inflated")


@pytest.mark.parametrize("family", [f for f in CLOSED if f not in HIDDEN])
def test_sums_taken_about_old_parameters_say_the_same_about_new_ones(family: str) -> None:
    """Frames seen whole, with given weights."""
    g = torch.Generator().manual_seed(2)
    old, new = random_model(family, g).emission, random_model(family, g).emission
    assert closed_form(old)
    assert closed_form(new)
    x, observed = random_model(family, g).frames(random_data(family, g, 1, T=30).batch())
    x, observed = x[0], observed[0]
    w = torch.rand(len(x), new.n_components, generator=g, dtype=torch.float64)
    close(
        new.recentred(old.statistics(x, observed, w), old),
        new.statistics(x, observed, w),
        rtol=1e-9,
        atol=1e-9,
    )


def test_the_centre_of_students_t_moves_with_weights_given() -> None:
    """At infinite degrees of freedom every frame weighs 1, and only the centre is left."""
    g = torch.Generator().manual_seed(2)
    loc = torch.randn(2, 3, 2, generator=g, dtype=torch.float64)
    old, new = (emissions.StudentT(m, torch.ones_like(m), 1e12) for m in loc)
    x, w = torch.randn(30, 2, generator=g).double(), torch.rand(30, 3, generator=g).double()
    seen = torch.ones_like(x, dtype=torch.bool)
    found = new.recentred(old.statistics(x, seen, w), old)
    close(found[:4], new.statistics(x, seen, w)[:4], rtol=1e-8, atol=1e-8)


def chain() -> Stationary:
    return Stationary(torch.tensor([0.6, 0.4]).double(), torch.tensor([[0.9, 0.1], [0.2, 0.8]]).double())


def gaussians(mean: list[list[float]], variance: float = 1.0) -> emissions.DiagonalGaussian:
    means = torch.tensor(mean).double()
    return emissions.DiagonalGaussian(means, torch.full_like(means, variance))


@pytest.mark.parametrize(("batch_size", "passes"), [(1, 10), (5, 20)])
def test_a_stream_leads_to_the_optimum_of_all_the_data(batch_size: int, passes: int) -> None:
    """From one start EM and online EM end at the same log-likelihood to 0.001 nats a frame."""
    g = torch.Generator().manual_seed(3)
    truth = HMM(chain(), gaussians([[0.0, 0.0], [2.0, -1.0]]))
    data = Sequences.from_any([truth.sample(20, g)[0].numpy() for _ in range(100)])
    model = HMM(chain(), gaussians([[-1.0, 1.0], [1.0, 0.0]], 4.0))
    twin = copy.deepcopy(model)
    start = float(model.objective(data.batch()).sum().detach())
    steps = online(model, data, batch_size=batch_size, generator=g, step_size=decay(0.8))
    for step in steps:
        if step.epoch == passes:
            break
    *_, last = islice(em(twin, data), 200)
    reached = float(model.objective(data.batch()).sum().detach())
    assert last.log_likelihood - reached < 1e-3 * data.n_frames
    assert last.log_likelihood - start > 0.1 * data.n_frames, "there was nothing to learn"


def test_a_prior_weighs_as_with_all_the_sequences_at_hand() -> None:
    """Where nothing is observed, symbols are the prior's mode however small the batch; rows of A as EM's own."""
    nothing = Sequences.from_any([[[np.nan]] * 3] * 8)
    model = HMM(
        chain(),
        emissions.Categorical(torch.tensor([[0.5, 0.5], [0.9, 0.1]]).double(), torch.tensor([3.0, 2.0])),
    )
    for step in online(model, nothing, batch_size=2, generator=generator()):
        if step.update == 3:
            break
    close(model.emission.probs().detach(), torch.tensor([[2 / 3, 1 / 3]] * 2).double())
    sticky = Stationary(chain().log_initial().exp(), chain().log_transition().exp(), 1.0, 5.0)
    model = HMM(sticky, gaussians([[0.0], [1.0]]))
    counted = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).double()
    initial = torch.tensor([0.6, 0.4]).double()
    moves = 8 * ((initial + initial @ counted)[:, None] * counted) + 4
    next(online(model, nothing, batch_size=2, generator=generator()))
    close(model.transition.log_transition().exp(), moves / moves.sum(1, keepdim=True))


def test_an_emission_without_sums_is_refused_with_the_remedy() -> None:
    g = torch.Generator().manual_seed(0)
    model, data = random_model("logistic-regression", g), random_data("logistic-regression", g)
    with pytest.raises(TypeError, match=r"LogisticRegression does not have; use ascend"):
        next(online(model, data, batch_size=1, generator=g))
    with pytest.raises(ValueError, match=r"alpha=0\.5; step sizes"):
        decay(0.5)


# -- partial_fit


def chunks(n: int = 30) -> list[np.ndarray]:
    g = torch.Generator().manual_seed(4)
    truth = HMM(chain(), gaussians([[0.0], [4.0]]))
    return [truth.sample(40, g)[0].numpy() for _ in range(n)]


@pytest.mark.parametrize("make", [GaussianHMM, VariationalGaussianHMM])
def test_partial_fit_goes_on_from_a_fit(make: type[GaussianHMM]) -> None:
    """Chunk after chunk it comes near the fit to all, which the first chunk alone is far from."""
    X = chunks()
    everything = make(2, random_state=0, n_iter=100).fit(X).sort_states()
    model = make(2, random_state=0, n_iter=100).partial_fit(X[:3])
    alone = everything.score(X) - model.score(X)
    for i in range(3, 30, 3):
        model.partial_fit(X[i : i + 3])
    assert everything.score(X) - model.score(X) < alone / 10
    assert np.abs(np.sort(model.means_.ravel()) - everything.means_.ravel()).max() < 0.06


def test_partial_fit_with_step_1_is_one_update_of_em_on_the_new_sequences() -> None:
    X = chunks(4)
    model = GaussianHMM(2, random_state=0, covars_prior=0, n_iter=3, tol=-np.inf).fit(X[:2])
    twin = GaussianHMM(2, covars_prior=0, n_iter=1, tol=-np.inf, init_params="")
    for name in ("startprob_", "transmat_", "means_", "_covars_"):
        setattr(twin, name, getattr(model, name).copy())
    model.partial_fit(X[2:], step_size=1)
    twin.fit(X[2:])
    np.testing.assert_allclose(model.means_, twin.means_, rtol=1e-9)
    np.testing.assert_allclose(model.transmat_, twin.transmat_, rtol=1e-9)
    np.testing.assert_allclose(model.covars_, twin.covars_, rtol=1e-9)


def test_partial_fit_says_what_it_cannot_do() -> None:
    X = chunks(4)
    by_hand = GaussianHMM(2)
    fitted = GaussianHMM(2, random_state=0, n_iter=20).fit(X[:2])
    for name in ("startprob_", "transmat_", "means_", "_covars_"):
        setattr(by_hand, name, getattr(fitted, name))
    with pytest.raises(ValueError, match="no running sums are known; call fit"):
        by_hand.partial_fit(X[2:])
    by_hand.set_params(init_params="").fit(X[:2]).partial_fit(X[2:])
    renamed = copy.deepcopy(fitted).sort_states(-fitted.means_[:, 0])
    with pytest.raises(ValueError, match="no running sums"):
        renamed.partial_fit(X[2:])
    with pytest.raises(ValueError, match="step_size=2; it must be above 0"):
        fitted.partial_fit(X[2:], step_size=2)
    with pytest.raises(ValueError, match="features"):
        fitted.partial_fit(np.zeros((5, 3)))
    symbols = CategoricalHMM(2, random_state=0, n_features=3, n_iter=20).partial_fit(
        np.array([[0], [1], [0], [1]] * 5)
    )
    with pytest.raises(ValueError, match="Give the zero probabilities a prior"):
        symbols.partial_fit(np.array([[2], [2]]))
    symbols.set_params(emissionprob_prior=1.5).fit(np.array([[0], [1], [0], [1]] * 5))
    symbols.partial_fit(np.array([[2], [2]]))
    assert (symbols.emissionprob_[:, 2] > 0).all()
