"""The cases that engine.py times, and each library's way to do them: four tasks, as functions of nothing."""

import bisect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

SHAPES = {  # name: sequences, length (lowest, highest), states, entries of a frame
    "1x100000x4x2": (1, (100_000, 100_000), 4, 2),
    "1x100000x32x8": (1, (100_000, 100_000), 32, 8),
    "100x1000x8x4": (100, (1000, 1000), 8, 4),
    "1000x200x16x8": (1000, (200, 200), 16, 8),
    "10000x50x5x2": (10_000, (50, 50), 5, 2),
    "1x1000000x4x2": (1, (1_000_000, 1_000_000), 4, 2),
    "64x500x128x16": (64, (500, 500), 128, 16),
    "ragged-1000x20-400x8x4": (1000, (20, 400), 8, 4),
    "1x100x3x1": (1, (100, 100), 3, 1),
}
QUICK = ["1x100000x4x2", "100x1000x8x4", "10000x50x5x2", "1x100x3x1"]
FAMILIES = ["diag", "full", "categorical"]
WORK = ["score", "posterior", "Viterbi", "EM"]
SYMBOLS = 32

Task = Callable[[], Any]


class Case(NamedTuple):
    """One model with its data."""

    family: str
    shape: str
    X: Any  # (n, D)
    lengths: Any  # (B,)
    parameters: dict[str, Any]  # hmmlearn's attributes
    updates: int  # of the fit that times EM

    @property
    def is_short(self) -> bool:
        """Whether what a fit does once takes longer than its updates."""
        return len(self.X) <= 1000

    @property
    def cells(self) -> float:
        """Σ_t K²."""
        return float(len(self.X)) * len(self.parameters["startprob_"]) ** 2


def make(family: str, shape: str) -> Case:
    """Data drawn from a model, and a start some way from it."""
    import numpy as np

    B, (low, high), K, D = SHAPES[shape]
    rng = np.random.default_rng(0)
    lengths = rng.integers(low, high + 1, B)
    n = int(lengths.sum())
    transmat = rng.dirichlet(np.ones(K), K) * 0.5 + 0.5 * np.eye(K)
    cumulated, path = transmat[:, :-1].cumsum(1).tolist(), [0]
    for u in rng.random(n - 1).tolist():
        path.append(bisect.bisect(cumulated[path[-1]], u))
    states = np.array(path)
    parameters: dict[str, Any] = {"startprob_": np.full(K, 1 / K), "transmat_": transmat}
    if family == "categorical":
        probs = rng.dirichlet(np.ones(SYMBOLS), K)
        X = (probs.cumsum(1)[states] < rng.random(n)[:, None]).sum(1).clip(max=SYMBOLS - 1)[:, None]
        parameters["emissionprob_"] = 0.8 * probs + 0.2 / SYMBOLS
    else:
        means = 2 * rng.normal(size=(K, D))
        X = means[states] + rng.normal(size=(n, D))
        parameters["means_"] = means + 0.2 * rng.normal(size=(K, D))
        parameters["covars_"] = np.ones((K, D)) if family == "diag" else np.tile(np.eye(D) + 0.1, (K, 1, 1))
    short = Case(family, shape, X, lengths, parameters, updates=10)  # a fit's default
    return short if short.is_short else short._replace(updates=3)


def estimator(case: Case, make_model: Callable[..., Any], **options: Any) -> dict[str, Task]:
    """Tasks of an estimator with hmmlearn's face."""

    def fresh(**more: Any) -> Any:
        model = make_model(n_components=len(case.parameters["startprob_"]), **options, **more)
        if case.family == "categorical":
            model.n_features = SYMBOLS
        for name, value in case.parameters.items():
            setattr(model, name, value.copy())
        return model

    model = fresh()
    fitted = {"n_iter": case.updates, "tol": -math.inf, "init_params": ""}
    return {
        "score": lambda: model.score(case.X, case.lengths),
        "posterior": lambda: model.predict_proba(case.X, case.lengths),
        "Viterbi": lambda: model.decode(case.X, case.lengths),
        "EM": lambda: list(fresh(**fitted).fit(case.X, case.lengths).monitor_.history)[: case.updates],
    }


def ours(case: Case) -> dict[str, Task]:
    import dbn_vae

    if case.family == "categorical":
        return estimator(case, dbn_vae.CategoricalHMM)
    return estimator(case, dbn_vae.GaussianHMM, covariance_type=case.family)


def hmmlearn(implementation: str) -> Callable[[Case], dict[str, Task]]:
    def tasks(case: Case) -> dict[str, Task]:
        from hmmlearn import hmm

        if case.family == "categorical":
            return estimator(case, hmm.CategoricalHMM, implementation=implementation)
        return estimator(case, hmm.GaussianHMM, covariance_type=case.family, implementation=implementation)

    return tasks


def dynamax(case: Case) -> dict[str, Task]:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    from dynamax import hidden_markov_model as dhmm

    if len(set(case.lengths.tolist())) > 1:
        raise ValueError("sequences of one length only")
    K, B = len(case.parameters["startprob_"]), len(case.lengths)
    start = {
        "initial_probs": jnp.array(case.parameters["startprob_"]),
        "transition_matrix": jnp.array(case.parameters["transmat_"]),
    }
    if case.family == "categorical":
        model = dhmm.CategoricalHMM(K, 1, SYMBOLS)
        start["emission_probs"] = jnp.array(case.parameters["emissionprob_"])[:, None]
        x = jnp.array(case.X.reshape(B, -1, 1))
    elif case.family == "diag":
        model = dhmm.DiagonalGaussianHMM(K, case.X.shape[1])
        start |= {
            "emission_means": jnp.array(case.parameters["means_"]),
            "emission_scale_diags": jnp.sqrt(jnp.array(case.parameters["covars_"])),
        }
        x = jnp.array(case.X.reshape(B, -1, case.X.shape[1]))
    else:
        model = dhmm.GaussianHMM(K, case.X.shape[1])
        start |= {
            "emission_means": jnp.array(case.parameters["means_"]),
            "emission_covariances": jnp.array(case.parameters["covars_"]),
        }
        x = jnp.array(case.X.reshape(B, -1, case.X.shape[1]))
    params, props = model.initialize(**start)
    score = jax.jit(jax.vmap(lambda y: model.marginal_log_prob(params, y)))
    posterior = jax.jit(jax.vmap(lambda y: model.smoother(params, y).smoothed_probs))
    viterbi = jax.jit(jax.vmap(lambda y: model.most_likely_states(params, y)))

    @jax.jit
    def update(p: Any, m: Any, y: Any) -> Any:
        statistics, log_z = jax.vmap(lambda one: model.e_step(p, one))(y)
        p, m = model.m_step(p, props, statistics, m)
        return p, m, log_z.sum()

    def em() -> list[float]:
        p, m, history = params, model.initialize_m_step_state(params, props), []
        for _ in range(case.updates):
            p, m, value = update(p, m, x)
            history.append(value)
        return [float(v) for v in history]

    return {
        "score": lambda: float(score(x).sum()),
        "posterior": lambda: posterior(x).block_until_ready().reshape(-1, K),
        "Viterbi": lambda: (None, viterbi(x).block_until_ready().reshape(-1)),
        "EM": em,
    }


@contextmanager
def doubles() -> Iterator[None]:
    """pomegranate's own buffers take torch's default type."""
    import torch

    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def pomegranate(case: Case) -> dict[str, Task]:
    import numpy as np
    import torch
    from pomegranate import distributions
    from pomegranate.hmm import DenseHMM

    if len(set(case.lengths.tolist())) > 1:
        raise ValueError("sequences of one length only")
    if len(case.X) > 200_000 and len(case.lengths) == 1:
        raise ValueError("minutes a call")
    P, K = case.parameters, len(case.parameters["startprob_"])

    def fresh() -> Any:
        if case.family == "categorical":
            parts = [distributions.Categorical(torch.tensor(p[None])) for p in P["emissionprob_"]]
        else:
            parts = [
                distributions.Normal(torch.tensor(m), torch.tensor(c), covariance_type=case.family)
                for m, c in zip(P["means_"], P["covars_"], strict=True)
            ]
        # an end probability multiplies every p(x); 1 leaves it alone
        ends = torch.ones(K, dtype=torch.float64)
        return DenseHMM(
            parts, edges=torch.tensor(P["transmat_"]), starts=torch.tensor(P["startprob_"]), ends=ends
        )

    def em() -> list[float]:
        model, history = fresh(), []
        for _ in range(case.updates):
            history.append(float(model.summarize(x).sum()))
            model.from_summaries()
        return history

    x = torch.tensor(case.X.reshape(len(case.lengths), -1, case.X.shape[1]))
    with doubles():
        model = fresh()
    tasks: dict[str, Task] = {
        "score": lambda: float(model.log_probability(x).sum()),
        "posterior": lambda: np.asarray(model.predict_proba(x)).reshape(-1, K),
        "Viterbi": lambda: (None, np.asarray(model.viterbi(x)).reshape(-1)),
        "EM": em,
    }

    def in_doubles(task: Task) -> Task:
        def run() -> Any:
            with doubles():
                return task()

        return run

    return {work: in_doubles(task) for work, task in tasks.items()}


LIBRARIES: dict[str, Callable[[Case], dict[str, Task]]] = {
    "ours": ours,
    "hmmlearn log": hmmlearn("log"),
    "hmmlearn scaling": hmmlearn("scaling"),
    "dynamax": dynamax,
    "pomegranate": pomegranate,
}
