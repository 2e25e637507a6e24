"""Everything the data say of the states, from one object.

    filtered      p(s_t | x_{1:t})       predicted   p(s_t | x_{1:t-1})      smoothed   p(s_t | x_{1:T})
    fixed_lag     p(s_t | x_{1:t+lag})   ahead       p(s_t | x_{1:t-h})      xi         Σ_t p(s_{t-1}, s_t | x_{1:T})

What has a row a frame stands in the order of the rows of X, sequence after sequence, as predict_proba has it, and for a
DataFrame with its index; what is said of sequences has B entries.  Each is computed when it is first asked for, and
then kept.  The object is a snapshot: later changes of the estimator do not reach it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from functools import cached_property, partial
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from dbn_vae import inference
from dbn_vae.emissions.frame import online_log_prob
from dbn_vae.emissions.predictive import require_known_context
from dbn_vae.estimators.arguments import require_whole
from dbn_vae.estimators.devices import on_host
from dbn_vae.estimators.streaming import StateFilter, Steps, tables_under
from dbn_vae.inference import Chain, Filtered, Path, Posterior
from dbn_vae.inference.durations import Stays, StaysPosterior
from dbn_vae.models.base import LatentModel, StateModel
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.training.em import require_possible

P = TypeVar("P", Filtered, Posterior | StaysPosterior)


class StatePaths(NamedTuple):
    """Paths of states, one a sequence."""

    log_prob: np.ndarray  # (..., B) log p(states, x); for the deep models log q(states | x)
    states: np.ndarray  # (..., n) in the order of the rows of X


class StatePosterior:
    """The posterior of the states of a data set; see the module.

    Args:
        data: what was asked about.
        chains: each batch of it with its chain.
        like: gives rows (n, ...) the index of X.
        generator: randomness from a random_state.
        verbs: the functions that read such chains.
        looks_ahead: frame t of the chain knows x after t; then nothing can be asked online.
        exact: log Z is the log-likelihood of the model, not only of its chain.
    """

    def __init__(
        self,
        data: Sequences,
        chains: list[tuple[Batch, Chain]],
        like: Callable[[np.ndarray], Any],
        generator: Callable[[Any], torch.Generator],
        verbs: ModuleType = inference,
        looks_ahead: bool = False,
        exact: bool = True,
    ) -> None:
        self.data = data
        self._chains, self._like, self._generator, self._verbs = chains, like, generator, verbs
        self._looks_ahead, self._exact = looks_ahead, exact
        self._known: dict[Hashable, Any] = {}

    # -- likelihood

    @cached_property
    def log_likelihood(self) -> np.ndarray:
        """log p(x_{1:T}) of every sequence: (B,); −∞ where it is impossible.

        Raises ValueError for the deep models, whose p(x) is not known: `score` has a bound of it.
        """
        self._require_exact("log_likelihood")
        return self._per_sequence([f.log_z for f in self._filters(possible=False)])

    @cached_property
    def log_scores(self) -> Any:
        """log p(x_t | x_{1:t-1}), which sum to log_likelihood: (n,); 0 where nothing was observed.

        Raises ValueError for the deep models.
        """
        self._require_exact("log_scores")
        return self._per_frame([f.log_normalizer for f in self._filters()])

    # -- states

    @cached_property
    def filtered(self) -> Any:
        """p(s_t = k | x_{1:t}): (n, K)."""
        return self._per_frame([f.probs for f in self._filters()])

    @property
    def predicted(self) -> Any:
        """p(s_t = k | x_{1:t-1}), the start distribution at first frames: (n, K)."""
        return self.ahead(1)

    def ahead(self, h: int) -> Any:
        """p(s_t = k | x_{1:t-h}), what was known h frames before; nothing, at the first h frames: (n, K)."""
        require_whole(1, h=h)
        self._filters()
        return self._once(("ahead", h), lambda: self._per_frame(self._each(self._verbs.predicted, h)))

    @cached_property
    def belief(self) -> np.ndarray:
        """p(s_T | x_{1:T}) at the end of each sequence: (B, K); of an HSMM state and age, (B, K · max_duration)."""
        self._filters()
        return self._per_sequence(self._each(self._verbs.belief))

    @cached_property
    def smoothed(self) -> Any:
        """p(s_t = k | x_{1:T}), predict_proba: (n, K)."""
        return self._per_frame([p.gamma for p in self._smooth()])

    def fixed_lag(self, lag: int) -> Any:
        """p(s_t = k | x_{1:t+lag}), what is known `lag` frames later: (n, K)."""
        require_whole(0, lag=lag)
        self._filters()
        return self._once(("lag", lag), lambda: self._per_frame(self._each(self._verbs.fixed_lag, lag)))

    @cached_property
    def xi(self) -> np.ndarray:
        """Expected moves from i to j: (B, K, K)."""
        return self._per_sequence([p.pairs for p in self._smooth()])

    def xi_steps(self) -> np.ndarray:
        """p(s_{t-1} = i, s_t = j | x_{1:T}) frame by frame: (n, K, K), the row of t; 0 at first frames."""

        def steps(chain: Chain) -> Tensor:
            _, pairs = self._verbs.two_slice(chain)
            return torch.cat([pairs.new_zeros(len(pairs), 1, *pairs.shape[2:]), pairs], 1)

        self._smooth()

        return self._once("steps", lambda: self._stacked(self._each(steps)))

    @cached_property
    def entropy(self) -> np.ndarray:
        """H of p(s_{1:T} | x_{1:T}), how undecided the path is as a whole: (B,), in nats."""
        return self._per_sequence(self._each(self._verbs.entropy))

    @cached_property
    def log_emission(self) -> Any:
        """log p(x_t | s_t = k), 0 where nothing was observed: (n, K).  Raises ValueError for the deep models."""
        self._require_exact("log_emission")
        return self._per_frame([chain.log_emission for chain in self._each(written)])

    @cached_property
    def leave_one_out(self) -> Any:
        """p(s_t = k | all frames but t): (n, K); 0 where the others are impossible.

        Raises ValueError for the deep models.
        """
        self._require_exact("leave_one_out")
        return self._per_frame(self._each(self._verbs.leave_one_out))

    # -- paths

    def viterbi(self) -> StatePaths:
        """The most probable path."""
        return self._once("viterbi", lambda: self._paths(self._explained(self._each(self._verbs.viterbi))))

    def mpm(self) -> StatePaths:
        """The most probable state of every step; as a path it may be impossible, of log-probability −∞."""
        return self.hybrid_risk(0.0)

    def hybrid_risk(self, alpha: float) -> StatePaths:
        """argmax_s α log p(s | x) + (1 − α) Σ_t log p(s_t | x), between viterbi (1) and mpm (0); see
        inference.hybrid."""
        self._smooth()
        return self._once(("hybrid", alpha), lambda: self._paths(self._each(self._verbs.hybrid, alpha)))

    def k_best(self, n: int) -> StatePaths:
        """The n most probable paths, best first: log_prob (n, B), states (n, frames); −∞, −1 where none is left."""
        require_whole(1, n=n)
        return self._once(
            ("best", n), lambda: self._paths(self._explained(self._each(self._verbs.k_best, n)))
        )

    def sample(self, n: int = 1, random_state: Any = None) -> np.ndarray:
        """n independent paths from p(s_{1:T} | x_{1:T}): (n, frames)."""
        require_whole(1, n=n)
        self._smooth()
        generator = self._generator(random_state)
        drawn = self._each(self._verbs.sample, n, generator)
        return np.moveaxis(self._stacked([d.movedim(0, -1) for d in drawn]), -1, 0)

    # -- how

    def _filters(self, possible: bool = True) -> list[Filtered]:
        """Raises ValueError naming a sequence that no path explains, unless that is allowed."""
        self._require_online()
        found: list[Filtered] = self._once("filter", lambda: self._each(self._verbs.filter))
        return self._require_possible(found) if possible else found

    def _smooth(self) -> list[Posterior | StaysPosterior]:
        """Raises ValueError naming a sequence that no path explains."""
        found: list[Posterior | StaysPosterior] = self._once("smooth", lambda: self._each(self._verbs.smooth))
        return self._require_possible(found)

    def _require_possible(self, found: list[P]) -> list[P]:
        for (batch, _), each in zip(self._chains, found, strict=True):
            require_possible(each.log_z, batch.which)
        return found

    def _each(self, verb: Callable[..., Any], *arguments: Any) -> list[Any]:
        """The verb's answer for every chain."""
        with torch.no_grad():
            return [verb(chain, *arguments) for _, chain in self._chains]

    def _once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def _explained(self, found: list[Path]) -> list[Path]:
        """Raises ValueError naming a sequence whose best path is impossible."""
        for (batch, _), path in zip(self._chains, found, strict=True):
            require_possible(path.score.view(-1, len(batch.which))[0], batch.which)
        return found

    def _paths(self, found: list[Path]) -> StatePaths:
        scores = [path.score for path in found]
        if not self._exact:
            scores = [s - p.log_z for s, p in zip(scores, self._smooth(), strict=True)]
        rows = self._stacked([path.states.movedim((-2, -1), (0, 1)) for path in found])
        log_prob = self._per_sequence([s.movedim(-1, 0) for s in scores])
        if rows.ndim == 1:
            return StatePaths(log_prob, self._like(rows))
        return StatePaths(log_prob.T, rows.T)

    def _per_frame(self, values: list[Tensor]) -> Any:
        return self._like(self._stacked(values))

    def _stacked(self, values: list[Tensor]) -> np.ndarray:
        """(B, T, ...) of every batch, back in the order of the rows of X: (n, ...)."""
        out = torch.zeros(self.data.n_frames, *values[0].shape[2:], dtype=values[0].dtype)
        for (batch, _), value in zip(self._chains, values, strict=True):
            self.data.unbatch(batch, value.cpu(), out)
        return out.numpy()

    def _per_sequence(self, values: list[Tensor]) -> np.ndarray:
        """(B, ...) of every batch, in the order of the sequences."""
        out = np.zeros((len(self.data), *values[0].shape[1:]), dtype=values[0].cpu().numpy().dtype)
        for (batch, _), value in zip(self._chains, values, strict=True):
            out[batch.which.cpu().numpy()] = value.cpu().numpy()
        return out

    def _require_online(self) -> None:
        if self._looks_ahead:
            raise ValueError(
                "the fitted posterior knows the future, so nothing can be said online; "
                "fit with inference='product-filter' for that"
            )

    def _require_exact(self, name: str) -> None:
        if not self._exact:
            raise ValueError(f"{name}: p(x) of a deep model is not known; score and evaluate bound it")


def written(chain: Chain | Stays) -> Chain[Tensor]:
    """The chain with its emissions written out, that of stays within them."""
    return (chain.chain if isinstance(chain, Stays) else chain).dense()


class PosteriorVerbs(ABC):
    """What every estimator with states answers of its posterior."""

    frames_at_once: ClassVar[int]

    @property
    @abstractmethod
    def n_inputs(self) -> int:
        """Columns of the inputs that the model reads; 0 where it reads none."""

    @abstractmethod
    def state_model(self) -> StateModel:
        """The fitted module."""

    @abstractmethod
    def sequences(self, X: Any, lengths: Any = None, **fields: Any) -> Sequences:
        """X in any accepted form, as the data this fitted model expects."""

    @abstractmethod
    def prepared(self, data: Sequences) -> Sequences:
        """The data as the module expects them."""

    @abstractmethod
    def like(self, X: Any, values: np.ndarray) -> Any:
        """values with the index of X where X is a DataFrame."""

    @abstractmethod
    def generator(self, random_state: Any = None) -> torch.Generator:
        """Randomness from random_state."""

    @abstractmethod
    def require_fitted(self) -> None:
        """Raise NotFittedError where there are no parameters."""

    def posterior(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> StatePosterior:
        """Everything X says of the states: filtered, smoothed, at a lag, paths, moves, samples; see StatePosterior."""
        data = self.sequences(X, lengths, inputs=inputs)
        model = self.state_model()
        with torch.no_grad():
            chains = [(b, model.chain(b)) for b in self.prepared(data).batches(self.frames_at_once)]
        deep = isinstance(model, LatentModel)
        ahead = isinstance(model, LatentModel) and model.looks_ahead
        return StatePosterior(
            data, chains, partial(self.like, X), self.generator, model.verbs, ahead, not deep
        )

    def filter_state(self) -> StateFilter:
        """A filter for live data that has seen nothing yet; update it frame by frame, see StateFilter.

        Raises NotImplementedError for models whose view of a frame depends on other frames.
        """
        self.require_fitted()
        model = self.state_model()
        with torch.no_grad():
            exact = not isinstance(model, LatentModel)
            return StateFilter(self.steps(model)._replace(exact=exact, n_ages=model.n_ages))

    def steps(self, model: StateModel) -> Steps:
        """The model as a filter asks it, frame by frame."""
        if not isinstance(model, HMM):
            raise NotImplementedError(
                f"{type(self).__name__} has no filter_state: what it makes of a frame depends on other frames; "
                "use filter, on all frames so far"
            )
        require_known_context(model.emission, "filter_state")
        model = on_host(model)
        emission, transition = model.emission, model.transition
        return Steps(
            tables_under(model.tables, transition),
            online_log_prob(emission),
            (emission.n_features,),
            self.n_inputs,
            transition.n_inputs > 0,
            emission.order,
        )
