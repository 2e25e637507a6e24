"""The priors that docs/guide/priors.md writes down are those that EM ascends: differences of log-densities by SciPy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dbn_vae import GMMHMM, BernoulliHMM, CategoricalHMM, GaussianHMM, MultinomialHMM, PoissonHMM
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences

K, D, V = 2, 3, 4
RNG = np.random.default_rng(0)


def rows(*shape: int) -> np.ndarray:
    return RNG.dirichlet(np.ones(shape[-1]), shape[:-1])


def matrices(n: int) -> np.ndarray:
    root = RNG.normal(size=(n, D, 2 * D))
    return root @ root.transpose(0, 2, 1) / D + 0.2 * np.eye(D)


def with_values(model: Any, **values: np.ndarray) -> Any:
    model.startprob_, model.transmat_ = rows(K), rows(K, K)
    for name, value in values.items():
        setattr(model, name, value)
    return model


def log_prior(model: Any, width: int = D) -> float:
    module = model.build()
    model.prepare(module, Sequences.from_any(RNG.normal(size=(9, width))))
    assert isinstance(module, HMM)
    with torch.no_grad():
        return float(module.log_parameter_prior())


def dirichlet(alpha: float, table: np.ndarray) -> float:
    return sum(
        stats.dirichlet.logpdf(row, np.full(len(row), alpha)) for row in table.reshape(-1, table.shape[-1])
    )


def chain(model: Any) -> float:
    return dirichlet(2.0, model.startprob_[None]) + dirichlet(1.5, model.transmat_)


def categorical() -> tuple[Any, float]:
    model = with_values(CategoricalHMM(K, emissionprob_prior=1.7), emissionprob_=rows(K, V))
    return model, dirichlet(1.7, model.emissionprob_)


def multinomial() -> tuple[Any, float]:
    model = with_values(MultinomialHMM(K, 5, emissionprob_prior=1.7), emissionprob_=rows(K, D))
    return model, dirichlet(1.7, model.emissionprob_)


def bernoulli() -> tuple[Any, float]:
    model = with_values(BernoulliHMM(K, emissionprob_prior=1.7), emissionprob_=RNG.random((K, D)))
    return model, stats.beta.logpdf(model.emissionprob_, 1.7, 1.7).sum()


def poisson() -> tuple[Any, float]:
    model = with_values(PoissonHMM(K, lambdas_prior=1.2, lambdas_weight=0.7), lambdas_=1 + RNG.random((K, D)))
    return model, stats.gamma.logpdf(model.lambdas_, 2.2, scale=1 / 0.7).sum()


def gaussian(kind: str) -> tuple[Any, float]:
    nu, w, m, psi = 12.0, 0.6, 0.4, 0.9
    model = GaussianHMM(K, kind, means_prior=m, means_weight=w, covars_prior=psi, covars_weight=nu)
    covars = {
        "diag": lambda: 0.3 + RNG.random((K, D)),
        "spherical": lambda: 0.3 + RNG.random(K),
        "full": lambda: matrices(K),
        "tied": lambda: matrices(1)[0],
    }[kind]()
    with_values(model, means_=RNG.normal(size=(K, D)), covars_=covars)
    # the means' densities take one power of det(Σ)^−½ each, and an inverse Wishart of ν degrees has ν + D + 1 of them
    shared = K if kind == "tied" else 1
    total = sum(
        stats.multivariate_normal.logpdf(mean, np.full(D, m), S / w)
        for mean, S in zip(model.means_, model.covars_, strict=True)
    )
    if kind in ("full", "tied"):
        dof = nu - D - shared - D - 1
        for S in model.covars_[::shared]:
            total += stats.invwishart.logpdf(S, dof, psi * np.eye(D))
        return model, total
    for S in model.covars_:
        v = S.diagonal()
        n = nu - 2  # what is left of each entry's power when its mean's is taken
        total += -0.5 * (n * np.log(v) + psi / v).sum()
    return model, total


def mixture(kind: str) -> tuple[Any, float]:
    M, w, m = 2, 0.6, 0.4
    model = GMMHMM(K, M, covariance_type=kind, weights_prior=1.7, means_prior=m, means_weight=w,
                   covars_prior=8.0, covars_weight=7.0 if kind == "full" else 1.3)  # fmt: skip
    covars = matrices(K * M).reshape(K, M, D, D) if kind == "full" else 0.3 + RNG.random((K, M, D))
    with_values(model, weights_=rows(K, M), means_=RNG.normal(size=(K, M, D)), covars_=covars)
    total = dirichlet(1.7, model.weights_)
    for k in range(K):
        for j in range(M):
            S = covars[k, j] if kind == "full" else np.diag(covars[k, j])
            total += stats.multivariate_normal.logpdf(model.means_[k, j], np.full(D, m), S / w)
            if kind == "full":
                total += stats.invwishart.logpdf(S, 7.0, 8.0 * np.eye(D))
            else:
                total += stats.invgamma.logpdf(S.diagonal(), 8.0, scale=1.3).sum()
    return model, total


CASES = {
    "categorical": categorical, "multinomial": multinomial, "bernoulli": bernoulli, "poisson": poisson,
    **{kind: lambda kind=kind: gaussian(kind) for kind in ("diag", "spherical", "full", "tied")},
    **{f"mixture {kind}": lambda kind=kind: mixture(kind) for kind in ("diag", "full")},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_priors_density_is_the_one_written_down(name: str) -> None:
    ours, theirs = [], []
    for _ in range(3):
        model, density = CASES[name]()
        model.set_params(startprob_prior=2.0, transmat_prior=1.5)
        ours.append(log_prior(model, 1 if name == "categorical" else D))
        theirs.append(density + chain(model))
    np.testing.assert_allclose(np.diff(ours), np.diff(theirs), rtol=1e-9, atol=1e-9)
