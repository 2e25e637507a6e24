"""Standard errors and intervals for everything that an HMM has learnt, and for what follows from it.

    observed    H⁻¹, H the observed information                        right if the model is
    sandwich    H⁻¹ S H⁻¹, S the spread of the sequences' scores       right if the sequences are independent
    bootstrap   refit to data drawn from the fitted model              right if the model is, and in small samples

H is that of unconstrained parameters θ; a quantity a(θ) has the variance ∂a/∂θ H⁻¹ ∂a/∂θᵀ (the delta method).

Source: Visser, Raijmakers and Molenaar (2000), Confidence intervals for hidden Markov model parameters; White (1982);
Zucchini, MacDonald and Langrock (2016), section 3.6, for the bootstrap.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm
from tqdm.auto import tqdm

from dbn_vae.estimators.arguments import require_whole
from dbn_vae.estimators.hmm import HMMEstimator
from dbn_vae.estimators.monitor import ConvergenceMonitor, warn
from dbn_vae.estimators.variational import VariationalHMM
from dbn_vae.evaluation.chain_quantities import model_quantities
from dbn_vae.evaluation.information import free_coordinates, jacobian, observed_information, scores
from dbn_vae.evaluation.quantities import Quantity
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences

METHODS = ("observed", "sandwich", "bootstrap")
OFF_MAXIMUM = 0.1  # standard errors between the estimate and the maximum, beyond which that is said
ROUNDING = 1e-9  # of an estimate: a standard error below that is none
SPREADS = {"covariance", "noise", "scale", "shape", "concentration"}  # which a floor may hold
STARTS = ("startprob", "initial_logits", "initial_slope")
MOVES = ("transmat", "transition_logits", "transition_slope")  # with a column a state as well

FIXED = "fixed: not learnt"
STRUCTURE = "exact: a structural zero, or 1 beside them"
ONE_SEQUENCE = "one sequence cannot tell it"
AT_THE_EDGE = "at the edge of its range"
AT_THE_FLOOR = "held at its floor"


@dataclass(frozen=True)
class Target:
    """One number to be told with its error."""

    parameter: str
    state: int | None
    index: tuple[int, ...]
    estimate: float
    scale: str
    note: str


def uncertainty(
    model: HMMEstimator,
    X: Any,
    lengths: Any = None,
    *,
    inputs: Any = None,
    method: str = "observed",
    level: float = 0.95,
    n_samples: int = 200,
    random_state: Any = None,
    verbose: bool = False,
) -> pd.DataFrame:
    """Standard errors and intervals of a fitted classical HMM, EmissionHMM or HSMM.

    Args:
        X, lengths, inputs: the data that the model was fitted to; Sequences bring labels and weights along.
        method: "observed", "sandwich" (which needs several sequences) or "bootstrap".
        level: coverage of the intervals.
        n_samples, random_state, verbose: of the bootstrap: how many data sets, their seed, a progress bar.

    Returns:
        One row a number: parameter, state, index within the state, estimate, standard error, lower, upper, note.
        Parameters are called as the fitted attributes, or as the module `model_` calls them.  With them stand the
        chain's stationary distribution ("stationary") and 1 / (1 − A_kk) or the mean of a duration ("mean stay");
        where inputs drive the chain, its logits and slopes beside those of staying.  Intervals are normal on the
        logarithm of what is positive and the logit of a probability, or the bootstrap's percentiles.  The note says
        why a number has no error: fixed, or at the edge of its range.

    Raises ValueError for arguments out of range, TypeError for a model without an exact likelihood.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}; it is one of {', '.join(METHODS)}")
    if not 0 < level < 1:
        raise ValueError(f"level={level}; it is a coverage between 0 and 1, such as 0.95")
    if not isinstance(model, HMMEstimator) or isinstance(model, VariationalHMM):
        raise TypeError(
            "uncertainty knows the parameters of classical HMMs, EmissionHMM and HSMM, not those of a "
            f"{type(model).__name__} (a variational HMM has posteriors, in its attributes that end in _posterior_; "
            "deep models have no exact likelihood)"
        )
    data = model.sequences(X, lengths, inputs=inputs)
    if method == "sandwich" and len(data) < 2:
        raise ValueError(
            "method='sandwich' compares sequences and there is only one; use 'observed' or 'bootstrap'"
        )
    module = model.as_fitted(data)
    # exact zeros stood there before the fit; otherwise some may be estimates, and none counts as exact
    structural = model.n_parameters() == module.transition.n_free() + module.emission.n_free()
    names, found = model.attributes(), model_quantities(module, data)
    table = pd.DataFrame(targets(found, data, names, structural))
    table["state"] = table["state"].astype("Int64")
    told = (table["note"] == "").to_numpy()
    if method == "bootstrap":
        drawn = replicates(model, data, n_samples, random_state, verbose)
        told = told | (table["note"] == AT_THE_EDGE).to_numpy()
        with np.errstate(invalid="ignore", over="ignore"):  # a state that is never left stays ∞
            table["standard error"] = drawn.std(0, ddof=1)
        tail = (1 - level) / 2
        table["lower"], table["upper"] = np.quantile(drawn, [tail, 1 - tail], axis=0, method="higher")
    else:
        variance, troubles = delta_method(module, data, method, found, table)
        warn("uncertainty", troubles)
        still = told & (variance < np.square(ROUNDING * table["estimate"]))
        spread = table["parameter"].map(lambda p: original(p, names) in SPREADS)
        table.loc[still, "note"] = np.where(spread[still], AT_THE_FLOOR, AT_THE_EDGE)
        told = told & ~still
        table["standard error"] = np.sqrt(variance)
        table["lower"], table["upper"] = normal_interval(table, norm.ppf((1 + level) / 2))
    numbers = ["standard error", "lower", "upper"]
    table.loc[~told, numbers] = np.nan
    exact = table["note"].isin([FIXED, STRUCTURE]).to_numpy()
    table.loc[exact, "standard error"] = 0.0
    table.loc[exact, ["lower", "upper"]] = table.loc[exact, ["estimate", "estimate"]].to_numpy()
    table.attrs |= {"method": method, "level": level}
    return table[["parameter", "state", "index", "estimate", *numbers, "note"]]


# -- what is told


def targets(found: list[Quantity], data: Sequences, names: dict[str, str], structural: bool) -> list[Target]:
    """Every number that is shown, with what keeps it from having an error; of a symmetric matrix the lower half."""
    told = []
    for q in found:
        value = q.value.detach().numpy()
        name = names.get(q.name.split(".")[-1], q.name)
        exact = structural_zeros(q, value) if structural else np.zeros(value.shape, dtype=bool)
        for index in shown(q):
            note = ""
            if q.fixed is not None and q.fixed[index]:
                note = FIXED
            elif exact[index]:
                note = STRUCTURE
            elif q.name in STARTS and len(data) == 1:
                note = ONE_SEQUENCE
            elif q.edge is not None and q.edge[index]:
                note = AT_THE_EDGE
            own, inner = q.shared == 1, index[1:]
            if not own and len(value) > 1:
                inner = index  # groups of states, by their number
            scale = q.scale
            if scale == "matrix":
                scale = "log" if index[-1] == index[-2] else ""
            told.append(Target(name, index[0] if own else None, inner, float(value[index]), scale, note))
    return told


def shown(q: Quantity) -> list[tuple[int, ...]]:
    """The entries of a quantity that are told."""
    every = np.ndindex(*q.value.shape)
    return [
        i
        for i in every
        if not (q.scale == "matrix" and i[-1] > i[-2]) and (q.shown is None or bool(q.shown[i]))
    ]


def structural_zeros(q: Quantity, value: np.ndarray) -> np.ndarray:
    """Zeros of the chain, and the 1 of a row of nothing else; all that follows from a chain of one state."""
    if q.name in ("startprob", "transmat"):
        return (value == 0) | ((value > 0).sum(-1, keepdims=True) == 1)
    return np.full(value.shape, q.name in ("stationary", "mean stay") and len(value) == 1)


def original(name: str, names: dict[str, str]) -> str:
    """What the module calls a parameter, its path left out."""
    return {own: part for part, own in names.items()}.get(name, name.split(".")[-1])


# -- derivatives


def delta_method(
    module: HMM, data: Sequences, method: str, found: list[Quantity], table: pd.DataFrame
) -> tuple[np.ndarray, list[str]]:
    """The variance of every target, NaN where the information gives none, and what a user should know of it."""
    free = free_coordinates(module, data)
    gradient, information = observed_information(module, data, free)
    J = jacobian([q.value[i] for q in found for i in shown(q)], free)
    if not len(gradient):
        return np.zeros(len(J)), []
    if not np.isfinite(information).all():
        return np.full(len(J), np.nan), [
            "the second derivatives of the log-likelihood are not finite, and there are no errors; if the emission is "
            "your own, write its log_prob without kinks where the data lie, or use method='bootstrap'"
        ]
    # in units in which the diagonal is 1, so that units of X play no part
    scale = 1 / np.sqrt(np.abs(information.diagonal()).clip(1e-300))
    values, vectors = np.linalg.eigh(information * scale[:, None] * scale)
    if not values[0] > 1e-10:
        flat = np.abs(J @ (scale * vectors[:, 0])) / np.linalg.norm(J * scale, axis=1).clip(1e-300)
        worst = table.iloc[int(flat.argmax())]
        where = (
            worst["parameter"]
            if pd.isna(worst["state"])
            else f"{worst['parameter']} of state {worst['state']}"
        )
        return np.full(len(J), np.nan), [
            f"the information matrix is not positive definite (smallest eigenvalue {values[0]:.2g} in units of its "
            f"diagonal): the data do not tell {where}, or EM stopped short of a maximum. Refit with a smaller tol "
            "and a larger n_iter; if that does not help, use fewer states, or a prior"
        ]
    root = (vectors / np.sqrt(values)) * scale[:, None]  # root rootᵀ = H⁻¹
    troubles = []
    distance = float(np.linalg.norm(root.T @ gradient))
    if distance > OFF_MAXIMUM:
        troubles.append(
            f"the estimates are {distance:.2g} standard errors from the maximum of the likelihood, where EM stopped; "
            "refit with a smaller tol and a larger n_iter"
        )
    if method == "sandwich":
        s = scores(module, data, free)
        B = len(s)
        root = root @ root.T @ (s - s.mean(0)).T * np.sqrt(B / (B - 1))
        if len(gradient) >= B:
            troubles.append(
                f"{B} sequences are few to tell {len(gradient)} parameters' spread by; prefer 'observed'"
            )
    return np.square(J @ root).sum(1), troubles


def normal_interval(table: pd.DataFrame, z: float) -> tuple[np.ndarray, np.ndarray]:
    """Estimate ± z standard errors, each on its scale without ends; see scale_of."""
    x, e = table["estimate"].to_numpy(), table["standard error"].to_numpy()
    scale = table["scale"].to_numpy()
    ends = []
    for sign in (-z, z):
        with np.errstate(all="ignore"):
            odds = x / (1 - x) * np.exp(sign * e / (x * (1 - x)))
            on = {
                "": x + sign * e,
                "log": x * np.exp(sign * e / x),
                "logit": odds / (1 + odds),
                "log over 1": 1 + (x - 1) * np.exp(sign * e / (x - 1)),
            }
        ends.append(np.select([scale == name for name in on], list(on.values())))
    return ends[0], ends[1]


# -- the bootstrap


def replicates(
    model: HMMEstimator, data: Sequences, n_samples: int, random_state: Any, verbose: bool
) -> np.ndarray:
    """The targets of models refitted to data drawn from the fitted one, with its lengths, gaps and inputs:
    (n_samples, n)."""
    require_whole(2, n_samples=n_samples)
    if data.labels is not None or data.step_weights is not None or not bool((data.weights == 1).all()):
        raise ValueError("method='bootstrap' draws states afresh and cannot keep labels or weights of X")
    seeds = torch.randint(2**31 - 1, (n_samples, len(data)), generator=model.generator(random_state))
    lengths = data.lengths.tolist()
    inputs = [None] * len(data) if data.inputs is None else list(data.inputs.split(lengths))
    # EM starts where it should arrive: with a loose tol it would not leave
    again = copy.copy(model)
    again.tol, again.n_iter, again.verbose = min(model.tol, 1e-5), max(model.n_iter, 500), False
    found = []
    for row in tqdm(seeds.tolist(), desc="bootstrap", disable=not verbose, leave=False):
        drawn = zip(lengths, row, inputs, strict=True)
        X = np.concatenate([model.sample(n, random_state=s, inputs=u)[0] for n, s, u in drawn])
        X[~data.observed.numpy()] = np.nan
        fresh = model.read(X, lengths, inputs=data.inputs)
        module = model.as_fitted(fresh)
        again.climb(module, fresh, ConvergenceMonitor(again.tol, again.n_iter))
        again.keep(module)
        asked = {"lengths": lengths, "inputs": data.inputs}
        order = naming(model.predict_proba(X, **asked), again.predict_proba(X, **asked))
        found.append(
            [float(v[i]) for q, v in renamed(model_quantities(module, fresh), order) for i in shown(q)]
        )
    return np.array(found)


def naming(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Which of their states is each of ours: see NamedStates.align_to."""
    _, order = linear_sum_assignment(-(ours.T @ theirs))
    return order


def renamed(found: list[Quantity], order: np.ndarray) -> list[tuple[Quantity, np.ndarray]]:
    """Values whose state k is the state order[k] of those given."""
    values = []
    for q in found:
        value = q.value.detach().numpy()
        value = value[order] if q.shared == 1 else value
        values.append((q, value[:, order] if q.name in MOVES else value))
    return values
