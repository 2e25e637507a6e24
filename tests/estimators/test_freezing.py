"""params: for every subset of letters what is left out stays bit by bit, the rest moves, and only the rest counts."""

import copy
import itertools
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
from test_estimators import CLASSICAL, LENGTHS, frames

K, D, V, M = 2, 3, 4, 2
POSTERIORS = {
    "s": ["startprob"],
    "t": ["transmat"],
    "m": ["means", "beta"],
    "c": ["dof", "scale"],
    "e": ["emissionprob"],
}
COVARIANCES = {"diag": K * D, "spherical": K, "full": K * D * (D + 1) // 2, "tied": D * (D + 1) // 2}
# of a mixture's covariances "tied" means one matrix a state
MIXED = {
    "diag": K * M * D,
    "spherical": K * M,
    "full": K * M * D * (D + 1) // 2,
    "tied": K * D * (D + 1) // 2,
}


LETTERED = [name for name in CLASSICAL if name != "emission"]  # a module freezes its own parts


def letters_of(name: str) -> str:
    make, _ = CLASSICAL[name]
    return "st" + "".join(type(make()).letters)


def free(name: str, letter: str) -> int:
    """Free parameters of one letter, counted by hand for K = 2."""
    family, _, kind = name.partition("-")
    if letter in "st":
        return {"s": K - 1, "t": K * (K - 1)}[letter]
    if letter == "c":
        return (MIXED if family == "gmm" else COVARIANCES)[kind]
    if letter == "m":
        return K * M * D if family == "gmm" else K * D
    if letter == "w":
        return K * (M - 1)
    if letter == "l":
        return K * frames("counts").shape[1]
    columns = frames(CLASSICAL[name][1]).shape[1]
    return {
        "categorical": K * (V - 1),
        "variational": K * (V - 1),
        "bernoulli": K * columns,
        "multinomial": K * (columns - 1),
    }[family]


@cache
def start(name: str) -> Any:
    """Fitted for a moment: nowhere near an optimum, no parameter 0."""
    make, kind = CLASSICAL[name]
    model = make().set_params(n_init=1, n_iter=1, tol=-np.inf)
    if name.startswith(
        "gaussian"
    ):  # its default prior is no longer maximum likelihood, which the history records
        model.set_params(covars_prior=0)
    rng = np.random.default_rng(1)
    X = frames(kind)
    return model.fit(X[rng.permutation(len(X))], LENGTHS)


def attributes(model: Any, letter: str) -> list[np.ndarray]:
    if hasattr(model, "startprob_posterior_"):
        return [np.array(getattr(model, f"{n}_posterior_")) for n in POSTERIORS[letter]]
    own = {"s": "startprob_", "t": "transmat_"} | type(model).letters
    return [np.array(getattr(model, own[letter]))]


CASES = [
    (name, "".join(subset))
    for name in LETTERED
    for n in range(len(letters_of(name)) + 1)
    for subset in itertools.combinations(letters_of(name), n)
    # the chain's halves know nothing of the emission's parts: apart only where these are all learnt, or none
    if len({*"st"} & {*subset}) != 1 or len({*subset} - {*"st"}) in (0, len(letters_of(name)) - 2)
]


@pytest.mark.some(4)
@pytest.mark.parametrize(("name", "params"), CASES, ids=[f"{n}-{p or 'none'}" for n, p in CASES])
def test_every_subset(name: str, params: str) -> None:
    model = copy.deepcopy(start(name))
    letters = letters_of(name)
    before = {letter: attributes(model, letter) for letter in letters}
    model.set_params(params=params, init_params="", n_iter=6, tol=-np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(frames(CLASSICAL[name][1]), LENGTHS)
    for letter in letters:
        for old, new in zip(before[letter], attributes(model, letter), strict=True):
            if letter in params:
                assert not np.array_equal(old, new), f"{letter} is to be learnt and did not move"
            else:
                assert np.array_equal(old, new), (
                    f"{letter} is frozen and moved by {np.abs(old - new).max():.1e}"
                )
    history = np.array(model.monitor_.history)
    assert (np.diff(history) > -1e-9 * abs(history[0])).all(), f"fell: {history}"
    if not params:
        assert np.ptp(history) == 0
    assert model.n_parameters() == sum(free(name, letter) for letter in params)


def test_the_cases_are_all_there() -> None:
    """Of n letters of an emission 2ⁿ subsets, with the whole chain and without, and four more."""
    letters = [4 * [2], 4 * [1], 4 * [3], 4 * [2], [1]]
    assert len(CASES) == sum(2 * 2**n + 4 for n in itertools.chain(*letters))
