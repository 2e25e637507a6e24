"""How many states: the same family with 1, 2, 3, ... of them, each fitted, and a criterion that pays for parameters.

    aic = −2 log p(x) + 2 ν        bic = −2 log p(x) + ν log n        icl = bic + 2 H(s | x)

ν free parameters, n frames, H the entropy of the whole state path: less is better.  The classification criterion ICL
(Biernacki, Celeux and Govaert 2000) is here with the expected log-probability of the path, log p(x) − H, in place of
that of the best path (McLachlan and Peel 2000, section 6.10.3; for HMMs Celeux and Durand 2008).

cv is the log-probability a held-out frame had under a model that never saw it, and more is better.  Of many sequences
whole ones are held out; of few, blocks of frames, which are then missing, not cut out: a block's log-probability given
all that surrounds it is log p(all) − log p(all without the block), exact, and nothing leaks into the fit.

Source: Celeux and Durand (2008), Selecting hidden Markov model state number with cross-validated likelihood.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from tqdm.auto import tqdm

from dbn_vae import inference, plotting
from dbn_vae.estimators.arguments import require_whole
from dbn_vae.estimators.hmm import HMMEstimator
from dbn_vae.estimators.modules import ModuleHMM
from dbn_vae.estimators.monitor import warn
from dbn_vae.estimators.variational import VariationalHMM
from dbn_vae.evaluation.likelihood import exact, ratio_error
from dbn_vae.sequences import Sequences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CRITERIA = ("aic", "bic", "icl", "cv")
WORSE = 1e-3  # nats: a larger model that loses more than this on its own data sits in a poor maximum

Family = HMMEstimator | Callable[[int], HMMEstimator]


class Selection(NamedTuple):
    """What select found."""

    table: pd.DataFrame  # one row a number of states; see select
    best: HMMEstimator  # the chosen model, fitted to all data
    criterion: str

    def plot(self) -> "Figure":
        """The criterion, or AIC, BIC and ICL together, over the numbers of states."""
        table, K = self.table, self.best.n_components
        if self.criterion == "cv":
            return plotting.criteria(
                table["states"],
                {"cv": table["cv"]},
                chosen=K,
                errors=table["cv s.e."],
                ylabel="held-out nats a frame, ± s.e.",
            )
        curves = {name: table[name] for name in ("aic", "bic", "icl")}
        return plotting.criteria(table["states"], curves, chosen=K, ylabel="criterion (less is better)")


def select(
    estimator: Family,
    X: Any,
    lengths: Any = None,
    *,
    n_components: Iterable[int] = range(1, 7),
    criterion: str = "bic",
    folds: int = 5,
    block: int = 20,
    verbose: bool = False,
) -> Selection:
    """Fit a classical HMM with each number of states and choose one.

    Args:
        estimator: an unfitted model, of which only n_components is changed; or a function from K to one, where more
            depends on K: priors, or zeros of transmat_ set by hand.
        n_components: numbers of states to try.
        criterion: "aic", "bic", "icl" (not for HSMM) or "cv".  The first three are always in the table; "cv" costs
            `folds` more fits.
        folds: parts held out in turn.  With fewer sequences than that, each part is every folds-th block of
            about `block` frames.
        verbose: a progress bar over fits.

    Returns:
        A Selection.  Its table has a row for every K: states, log-likelihood, parameters, aic, bic, icl, seconds,
        warnings; and with "cv" also cv in nats a frame, its standard error over folds, and the same for the
        difference to the best (cv behind).

    Ctrl-C keeps the numbers of states that are done.  Raises ValueError for arguments out of range, TypeError for a
    model without an exact likelihood.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion={criterion!r}; it is one of {', '.join(CRITERIA)}")
    sizes = sorted(set(n_components))
    if not sizes or sizes[0] < 1:
        raise ValueError(f"n_components={sizes}; give numbers of states from 1, such as range(1, 7)")
    make = maker(estimator, sizes[0])
    data = Sequences.from_any(X, lengths)
    if data.step_weights is not None or not bool((data.weights == 1).all()):
        raise ValueError("X carries weights, and a criterion counts every frame once; leave them out")
    parts = list(held_out(data, folds, block)) if criterion == "cv" else []
    rows: list[dict[str, Any]] = []
    models: list[HMMEstimator] = []
    held: list[np.ndarray] = []
    with tqdm(total=len(sizes) * (1 + len(parts)), desc="select", disable=not verbose, leave=False) as bar:
        try:
            for K in sizes:
                bar.set_postfix(states=K)
                model, seconds, said = fitted(make(K), X, lengths)
                bar.update()
                values = []
                for part in parts:
                    values.append(part.score(fitted(make(K), part.train)[0]))
                    bar.update()
                row = {"states": K, **criteria(model, data), "seconds": seconds}
                if rows and row["log-likelihood"] < rows[-1]["log-likelihood"] - WORSE:
                    said.append("a smaller model fits better: a poor local maximum; raise n_init or n_iter")
                rows.append(row | {"warnings": "; ".join(said)})
                models.append(model)
                held.append(np.array(values))
        except KeyboardInterrupt:
            if not rows:
                raise
            warn("select", [f"interrupted: of {sizes} only {[r['states'] for r in rows]} are done"])
    table = pd.DataFrame(rows)
    if parts:
        add_held_out(table, held, np.array([part.n_frames for part in parts]))
    if criterion == "icl" and table["icl"].isna().all():
        raise ValueError(
            f"criterion='icl' needs the entropy of the path, which is not known for {type(models[0]).__name__}; "
            "use 'bic' or 'cv'"
        )
    chosen = int(table["cv"].argmax() if criterion == "cv" else table[criterion].argmin())
    warn("select", doubts(table, chosen, sizes))
    return Selection(table, models[chosen], criterion)


def maker(estimator: Family, first: int) -> Callable[[int], HMMEstimator]:
    """A fresh estimator for every K."""

    def make(K: int) -> HMMEstimator:
        if isinstance(estimator, HMMEstimator):
            return clone(estimator).set_params(n_components=K)
        made = estimator(K)
        if made.n_components != K:
            raise ValueError(f"estimator({K}) has n_components={made.n_components}")
        return made

    known = estimator if isinstance(estimator, HMMEstimator) or not callable(estimator) else estimator(first)
    if isinstance(estimator, ModuleHMM):
        name = type(estimator).__name__
        raise TypeError(
            f"the states of {name} are those of its emission; give a function from K to one: lambda K: {name}(...)"
        )
    if not isinstance(known, HMMEstimator) or isinstance(known, VariationalHMM):
        raise TypeError(
            f"a {type(known).__name__} has no exact likelihood to choose its states by; compare deep models with "
            "dbn_vae.compare, and variational ones by their bound, monitor_.history[-1]"
        )
    return make


def fitted(model: HMMEstimator, X: Any, lengths: Any = None) -> tuple[HMMEstimator, float, list[str]]:
    """The model fitted, seconds, and the warnings it gave."""
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, lengths=lengths)
    name = f"{type(model).__name__}: "
    said = dict.fromkeys(str(w.message).removeprefix(name) for w in caught)
    return model, time.perf_counter() - began, list(said)


def criteria(model: HMMEstimator, data: Sequences) -> dict[str, float]:
    """The columns that need one fit."""
    module = model.state_model()
    log_likelihood, entropy = exact(module, data).total, np.nan
    if module.verbs is inference:
        with torch.no_grad():
            entropy = sum(float(inference.entropy(module.chain(batch)).sum()) for batch in data.batches())
    nu = model.n_parameters()
    bic = -2 * log_likelihood + float(np.log(data.n_frames)) * nu
    return {
        "log-likelihood": log_likelihood,
        "parameters": nu,
        "aic": -2 * log_likelihood + 2 * nu,
        "bic": bic,
        "icl": bic + 2 * entropy,
    }


class Part(NamedTuple):
    """One fold: what is learnt from, and the frames whose probability given everything else is asked for."""

    train: Sequences
    whole: Sequences  # the held-out frames, and in their sequences whatever surrounds them
    rest: Sequences | None  # the same without the held-out frames; None where nothing is left
    n_frames: int

    def score(self, model: HMMEstimator) -> float:
        """log p(held-out frames | the rest), in nats."""
        module = model.state_model()
        model.check(self.whole)
        total = exact(module, self.whole).total
        return total if self.rest is None else total - exact(module, self.rest).total


def held_out(data: Sequences, folds: int, block: int) -> Iterator[Part]:
    """The folds; see select.  Raises ValueError where there is too little to cut."""
    require_whole(2, folds=folds)
    require_whole(1, block=block)
    B, N = len(data), data.n_frames
    if folds <= B:
        for i in range(folds):
            out = torch.arange(B) % folds == i
            test = data.subset(out.nonzero().flatten())
            yield Part(data.subset((~out).nonzero().flatten()), test, None, test.n_frames)
        return
    if folds > N:
        raise ValueError(f"folds={folds}, but X has {N} frames in {B} sequences: too few to cut")
    n_blocks = max(folds, round(N / block))
    fold = torch.arange(N) * n_blocks // N % folds  # blocks of equal length, taken in turn
    for i in range(folds):
        rest = without(data, fold == i)
        yield Part(rest, data, rest, int((fold == i).sum()))


def without(data: Sequences, out: torch.Tensor) -> Sequences:
    """The data with some frames (N,) missing, their labels too."""
    observed = data.observed & ~out[:, None]
    if data.labels is not None:
        soft = data.labels.is_floating_point()  # log-potentials (N, K), of which 0 says nothing
        where = out[:, None] if soft else out
        data = data.replace(labels=data.labels.masked_fill(where, 0 if soft else -1))
    return data.replace(observed=observed, x=data.x * observed)


def add_held_out(table: pd.DataFrame, held: list[np.ndarray], n_frames: np.ndarray) -> None:
    """Columns of cross-validation, from nats (folds,) of each row."""
    frames = torch.as_tensor(n_frames)
    total = int(n_frames.sum())
    best = max(held, key=lambda values: float(values.sum()))

    def error(values: np.ndarray) -> float:
        return ratio_error(torch.as_tensor(values), frames)

    columns = {
        "cv": [float(v.sum()) / total for v in held],
        "cv s.e.": [error(v) for v in held],
        "cv behind": [float((best - v).sum()) / total for v in held],
        "behind s.e.": [error(best - v) for v in held],
    }
    for place, (name, values) in enumerate(columns.items(), list(table.columns).index("seconds")):
        table.insert(place, name, values)


def doubts(table: pd.DataFrame, chosen: int, sizes: list[int]) -> list[str]:
    """What a user should know of the choice."""
    row, found = table.iloc[chosen], []
    K = int(row["states"])
    if len(sizes) > 1 and sizes[-1] == K:
        found.append(f"{K} states, the most that were tried, are best: try more (n_components)")
    elif len(sizes) > 1 and K == sizes[0] > 1:
        found.append(f"{K} states, the fewest that were tried, are best: try fewer (n_components)")
    if row["warnings"]:
        found.append(f"of the chosen model with {K} states: {row['warnings']}")
    return found
