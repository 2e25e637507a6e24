"""Standard errors and intervals for everything that a classical HMM has learnt, and for what follows from it.

    observed    H⁻¹, H the observed information                        right if the model is
    sandwich    H⁻¹ S H⁻¹, S the spread of the sequences' scores       right if the sequences are independent
    bootstrap   refit to data drawn from the fitted model              right if the model is, and in small samples

H is that of unconstrained parameters θ; an attribute a(θ) has the variance ∂a/∂θ H⁻¹ ∂a/∂θᵀ (the delta method).

Source: Visser, Raijmakers and Molenaar (2000), Confidence intervals for hidden Markov model parameters; White (1982);
Zucchini, MacDonald and Langrock (2016), section 3.6, for the bootstrap.
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from sklearn.base import clone
from tqdm.auto import tqdm

from dbn_vae.estimators.base import require_at_least
from dbn_vae.estimators.classical import ClassicalHMM
from dbn_vae.estimators.monitor import warn
from dbn_vae.estimators.naming import stationary_distribution
from dbn_vae.estimators.variational import VariationalHMM
from dbn_vae.evaluation.information import Free, free_coordinates, observed_information, rare, scores
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences

PROBABILITIES = {"startprob", "transmat", "emissionprob", "weights", "stationary"}
DERIVED = ("stationary", "mean stay")
METHODS = ("observed", "sandwich", "bootstrap")
OFF_MAXIMUM = 0.1  # standard errors between the estimate and the maximum, beyond which that is said


@dataclass(frozen=True)
class Target:
    """One number to be told with its error."""

    parameter: str
    state: int | None
    index: tuple[int, ...]
    estimate: float
    scale: str


def uncertainty(
    model: ClassicalHMM,
    X: Any,
    lengths: Any = None,
    *,
    method: str = "observed",
    level: float = 0.95,
    n_samples: int = 200,
    random_state: Any = None,
    verbose: bool = False,
) -> pd.DataFrame:
    """Standard errors and intervals of a fitted classical HMM.

    Args:
        X, lengths: the data that the model was fitted to.
        method: "observed", "sandwich" (which needs several sequences) or "bootstrap".
        level: coverage of the intervals.
        n_samples, random_state, verbose: of the bootstrap: how many data sets, their seed, a progress bar.

    Returns:
        One row a number: parameter, state, index within the state, estimate, standard error, lower, upper, note.
        Besides the fitted attributes, the chain's stationary distribution ("stationary") and 1 / (1 − A_kk) ("mean
        stay").  Intervals are normal on the logarithm of what is positive and the logit of a probability, or the
        bootstrap's percentiles.  The note says why a number has no error: fixed, or at the edge of its range.

    Raises ValueError for arguments out of range, TypeError for a model without an exact likelihood.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}; it is one of {', '.join(METHODS)}")
    if not 0 < level < 1:
        raise ValueError(f"level={level}; it is a coverage between 0 and 1, such as 0.95")
    if not isinstance(model, ClassicalHMM) or isinstance(model, VariationalHMM):
        raise TypeError(
            f"uncertainty knows the parameters of classical HMMs, not those of a {type(model).__name__} "
            "(a variational HMM has posteriors, in its attributes that end in _posterior_)"
        )
    data = model.sequences(X, lengths)
    if method == "sandwich" and len(data) < 2:
        raise ValueError(
            "method='sandwich' compares sequences and there is only one; use 'observed' or 'bootstrap'"
        )
    table = pd.DataFrame(targets(model))
    table["state"] = table["state"].astype("Int64")
    work, module = copy.copy(model), model.build()
    work.prepare(module, data)  # priors, floors and what is frozen, as when it was fitted
    table["note"] = notes(work, model.n_parameters() == work.n_free_, table, data)
    told = (table["note"] == "").to_numpy()
    if method == "bootstrap":
        drawn = replicates(model, data, n_samples, random_state, verbose)
        told = told | (table["note"] == AT_THE_EDGE).to_numpy()
        with np.errstate(invalid="ignore", over="ignore"):  # a state that is never left stays ∞
            table["standard error"] = drawn.std(0, ddof=1)
        tail = (1 - level) / 2
        table["lower"], table["upper"] = np.quantile(drawn, [tail, 1 - tail], axis=0, method="higher")
    else:
        variance, troubles = delta_method(work, module, data, method)
        warn("uncertainty", troubles)
        floored = told & (
            variance < np.square(1e-9 * table["estimate"])
        )  # but for the rounding of differences
        table.loc[floored, "note"] = "held at its floor"
        told = told & ~floored
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


def targets(model: ClassicalHMM) -> list[Target]:
    """Every number of the model's attributes, of a symmetric matrix its lower half, and what follows from transmat_."""
    found = []
    for attribute in model.learnt():
        value = np.asarray(getattr(model, attribute))
        name, has_state = plain(attribute), model.per_state(attribute)
        for index in np.ndindex(*value.shape):
            if name == "covars" and is_matrix(model) and index[-1] > index[-2]:
                continue
            inner = index[1:] if has_state else index
            state, scale = (index[0] if has_state else None), scale_of(name, model, index)
            found.append(Target(name, state, inner, float(value[index]), scale))
    A = np.asarray(model.transmat_)
    with np.errstate(divide="ignore"):
        stay = 1 / (1 - A.diagonal())
    found += [Target(DERIVED[0], k, (), float(v), "logit") for k, v in enumerate(stationary_distribution(A))]
    found += [Target(DERIVED[1], k, (), float(v), "log over 1") for k, v in enumerate(stay)]
    return found


def plain(attribute: str) -> str:
    return attribute.strip("_")


def is_matrix(model: ClassicalHMM) -> bool:
    """Whether covars_ holds matrices."""
    return getattr(model, "covariance_type", None) in ("full", "tied")


def scale_of(name: str, model: ClassicalHMM, index: tuple[int, ...]) -> str:
    """On which scale a number has no end, and an interval no way out: "log", "logit", or "" for any real number."""
    if name in PROBABILITIES:
        return "logit"
    variance = name == "covars" and (not is_matrix(model) or index[-1] == index[-2])
    return "log" if variance or name == "lambdas" else ""


FIXED = "fixed: not in params"
STRUCTURE = "exact: a structural zero, or 1 beside them"
ONE_SEQUENCE = "one sequence cannot tell it"
AT_THE_EDGE = "at the edge of its range"


def notes(model: ClassicalHMM, structural: bool, table: pd.DataFrame, data: Sequences) -> list[str]:
    """Why a number has no error of its own; "" where it has one.

    structural: exact zeros stood there before the fit; otherwise some may be estimates, and none counts as exact.
    """
    letter = {plain(a): c for c, a in model.letters.items()}
    letter |= {"startprob": "s", "transmat": "t"} | dict.fromkeys(DERIVED, "t")
    rows = {"startprob": np.asarray(model.startprob_)[None], "transmat": np.asarray(model.transmat_)}
    certain = {name: (p > 0).sum(1) == 1 for name, p in rows.items()}  # all others are exactly 0
    found, K = [], model.n_components
    for name, state, value in zip(table["parameter"], table["state"], table["estimate"], strict=True):
        n = len(data) if name == "startprob" else data.n_frames
        p = 1 / value if name == "mean stay" else value
        only = name in certain and certain[name][state if name == "transmat" else 0]
        probability = name in PROBABILITIES | {"mean stay"}
        note = ""
        if letter[name] not in model.params:
            note = FIXED
        elif (structural and name in rows and (value == 0 or only)) or (K == 1 and name in (*rows, *DERIVED)):
            note = STRUCTURE
        elif name == "startprob" and n == 1:
            note = ONE_SEQUENCE
        elif (probability and rare(min(p, 1 - p), n)) or (name == "lambdas" and rare(p, n)):
            note = AT_THE_EDGE
        found.append(note)
    return found


# -- derivatives


def delta_method(
    model: ClassicalHMM, module: HMM, data: Sequences, method: str
) -> tuple[np.ndarray, list[str]]:
    """The variance of every target, NaN where the information gives none, and what a user should know of it."""
    free = free_coordinates(module, data.n_frames, len(data))
    gradient, information = observed_information(module, data, free)
    J = jacobian(copy.copy(model), module, free)
    if not len(gradient):
        return np.zeros(len(J)), []
    # in units in which the diagonal is 1, so that units of X play no part
    scale = 1 / np.sqrt(np.abs(information.diagonal()).clip(1e-300))
    values, vectors = np.linalg.eigh(information * scale[:, None] * scale)
    if not values[0] > 1e-10:
        flat = np.abs(J @ (scale * vectors[:, 0])) / np.linalg.norm(J * scale, axis=1).clip(1e-300)
        worst = targets(model)[int(flat.argmax())]
        where = worst.parameter if worst.state is None else f"{worst.parameter} of state {worst.state}"
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


def jacobian(work: ClassicalHMM, module: HMM, free: list[Free]) -> np.ndarray:
    """∂ targets / ∂ θ: (n, P).  By differences of fourth order, since attributes are NumPy arrays; these are exact for
    polynomials up to degree 4, which covariances are of their factors, and good to 12 digits for the others."""
    columns = []
    for parameter, which in free:
        values = parameter.data
        for index in map(tuple, which.nonzero().tolist()):
            origin = float(values[index])
            h = 1e-3 * max(1.0, abs(origin) / 100)  # logarithms stay below 100, and locations are linear
            at = []
            for step in (-2, -1, 1, 2):
                values[index] = origin + step * h
                work.keep(module)
                at.append(np.array([t.estimate for t in targets(work)]))
            values[index] = origin
            with np.errstate(invalid="ignore"):
                column = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
            columns.append(np.nan_to_num(column))  # ∞ − ∞ of a state that is never left
    return np.stack(columns, 1) if columns else np.zeros((len(targets(work)), 0))


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
    model: ClassicalHMM, data: Sequences, n_samples: int, random_state: Any, verbose: bool
) -> np.ndarray:
    """The targets of models refitted to data drawn from the fitted one, with its lengths and gaps: (n_samples, n)."""
    require_at_least(2, n_samples=n_samples)
    if data.labels is not None or not bool((data.weights == 1).all()):
        raise ValueError("method='bootstrap' draws states afresh and cannot keep labels or weights of X")
    seeds = torch.randint(2**31 - 1, (n_samples, len(data)), generator=model.generator(random_state))
    lengths = data.lengths.tolist()
    found = []
    for row in tqdm(seeds.tolist(), desc="bootstrap", disable=not verbose, leave=False):
        X = np.concatenate([model.sample(n, random_state=s)[0] for n, s in zip(lengths, row, strict=True)])
        X[~data.observed.numpy()] = np.nan
        # EM starts where it should arrive: with a loose tol it would not leave
        again = clone(model).set_params(
            init_params="", tol=min(model.tol, 1e-5), n_iter=max(model.n_iter, 500)
        )
        for attribute in model.learnt():
            setattr(again, attribute, np.array(getattr(model, attribute)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again.fit(X, lengths=lengths)
        again.align_to(model, X, lengths)
        found.append([t.estimate for t in targets(again)])
    return np.array(found)
