"""Classical hidden Markov models under hmmlearn's names, order of arguments, shapes and parameter letters.

The fitted attributes are plain NumPy arrays and are the truth: set them by hand and every verb works; a torch
module is built from them for each call.  New options are keyword-only.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dbn_vae.emissions.base import Emission
from dbn_vae.estimators.arguments import lengths_given
from dbn_vae.estimators.base import require_at_least
from dbn_vae.estimators.forecasting import PredictiveVerbs
from dbn_vae.estimators.monitor import ConvergenceMonitor, fell, warn
from dbn_vae.estimators.naming import NamedStates
from dbn_vae.evaluation.likelihood import Score, exact
from dbn_vae.models.hmm import HMM, require_labels, sample_states
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import EMStep, em
from dbn_vae.training.initialise import cluster, named_by, randomly, start
from dbn_vae.transitions.stationary import Stationary

# The module that stands for an estimator's attributes, and what these were.  Not kept in the estimator, which asking
# must not change.
BUILT: WeakKeyDictionary["ClassicalHMM", tuple[Any, HMM]] = WeakKeyDictionary()


class ClassicalHMM(NamedStates, PredictiveVerbs):
    """What the families share; a family says how its emission is built from its attributes and back."""

    letters: ClassVar[dict[str, str]]  # parameter letter to fitted attribute, s and t left out
    parts: ClassVar[dict[str, str]]  # parameter letter to the emission's own name for it
    clustered: ClassVar[bool] = True  # k-means makes sense on these frames

    startprob_prior: Any
    transmat_prior: Any
    n_iter: int
    tol: float
    verbose: bool
    params: str
    init_params: str
    n_init: int

    @abstractmethod
    def emission(self) -> Emission:
        """The emission with the fitted attributes."""

    @abstractmethod
    def first_emission(self, data: Sequences) -> Emission:
        """An emission of the right size for the data, its values about to be replaced."""

    @abstractmethod
    def absorb(self, emission: Emission, letters: str) -> None:
        """Copy the emission's parameters of these letters to the fitted attributes."""

    # -- learning

    def fit(
        self, X: Any, y: Any = None, *, lengths: Any = None, labels: Any = None, sample_weight: Any = None
    ) -> Self:
        """Fit by EM, from n_init starts, and keep the best.

        Args:
            X, lengths: data in any form that Sequences.from_any takes; NaN is missing.
            y: not read, or lengths without their name: see lengths_given.
            labels: known states, one a frame, −1 where unknown.
            sample_weight: (B,) weight of each sequence.

        On Ctrl-C the best parameters so far are kept before the interrupt goes on.
        """
        require_at_least(1, n_components=self.n_components, n_init=self.n_init)
        known = set("st" + "".join(self.letters))
        for name, given in (("params", self.params), ("init_params", self.init_params)):
            if not set(given) <= known:
                raise ValueError(f"{name}={given!r}; its letters are among {''.join(sorted(known))!r}")
        data = self.read(X, lengths_given(X, y, lengths), labels=labels, weights=sample_weight)
        self.remember_columns(X)
        generator = self.generator()
        fixed = not self.init_params  # nothing is started afresh: every start would be the same
        best: HMM | None = None
        highest = -np.inf
        troubles: list[str] = []
        self.restart_scores_: list[float] = []
        try:
            for restart in range(1 if fixed else self.n_init):
                model = self.started(data, generator, restart)
                monitor = ConvergenceMonitor(self.tol, self.n_iter, self.verbose)
                if best is None:
                    best, self.monitor_ = model, monitor
                last, seen = self.climb(model, data, monitor)
                self.restart_scores_.append(monitor.history[-1])
                if last.objective > highest:
                    highest, best, self.monitor_ = last.objective, model, monitor
                    troubles = seen + monitor.troubles() + self.troubles(model, last)
        finally:
            if best is not None:
                self.keep(best)
        warn(type(self).__name__, troubles)
        return self

    def climb(self, model: HMM, data: Sequences, monitor: ConvergenceMonitor) -> tuple[EMStep, list[str]]:
        """EM until the log-likelihood gains less than tol, or n_iter updates; the last step, and what went wrong."""
        last, troubles = EMStep(-np.inf, -np.inf, torch.zeros(self.n_components)), []
        with tqdm(total=self.n_iter, desc=type(self).__name__, disable=not self.verbose, leave=False) as bar:
            for step in em(model, data):
                monitor.history.append(self.watched(step))
                # the first update may pay for entering the prior's and the floor's constraints
                if monitor.iter > 1 and fell(last.objective, step.objective):
                    troubles.append(
                        f"update {monitor.iter} lost {last.objective - step.objective:.3g} nats, which EM cannot: "
                        "the data are badly scaled for their precision (standardise them), or an M-step is wrong"
                    )
                last = step
                if monitor.converged or monitor.iter >= self.n_iter:
                    break
                # hmmlearn updates once more after the gain falls under tol, and so do we
                small = len(monitor.history) > 1 and monitor.history[-1] - monitor.history[-2] < self.tol
                monitor.converged = small
                bar.update()
                bar.set_postfix(log_likelihood=f"{monitor.history[-1]:.4f}")
        return last, troubles

    def troubles(self, model: HMM, last: EMStep) -> list[str]:
        """What a user should know of the fitted model, and what to do about it."""
        dead = (last.visits < 1).nonzero().flatten().tolist()
        if not dead:
            return []
        return [f"states {dead} explain less than one frame; use fewer states, or more starts (n_init)"]

    def watched(self, step: EMStep) -> float:
        """What monitor_ records and tol is about."""
        return step.log_likelihood

    def started(self, data: Sequences, generator: torch.Generator, restart: int) -> HMM:
        """A model to climb from: attributes that init_params does not name keep their values."""
        own = {"startprob_": "s", "transmat_": "t"} | {a: letter for letter, a in self.letters.items()}
        fresh = {letter for a, letter in own.items() if letter in self.init_params or not hasattr(self, a)}
        if not fresh:
            model = self.build()
            model.emission.check(data.x, data.observed)
            self.prepare(model, data)
            return model
        K = self.n_components
        emission = self.first_emission(data) if fresh - {"s", "t"} else self.emission()
        emission.check(data.x, data.observed)
        uniform = torch.full((K,), 1 / K, dtype=self.dtype)
        model = HMM(Stationary(uniform, uniform.expand(K, K).clone()), emission)
        self.begin(model, data, generator, restart)
        if fresh != set(own.values()):
            kept = {a: getattr(self, a) for a, letter in own.items() if letter not in fresh}
            self.absorb(model.emission, "".join(fresh))
            self.absorb_chain(model, "".join(fresh))
            for attribute, value in kept.items():
                setattr(self, attribute, value)
            model = self.build()
        self.prepare(model, data)
        return model

    def begin(self, model: HMM, data: Sequences, generator: torch.Generator, restart: int) -> None:
        """One M-step from responsibilities; starts differ in kind: see below."""
        # clusters and counted moves, clusters that last, then chance
        use_clusters = self.clustered and restart % 4 != 3
        responsibilities = (cluster if use_clusters else randomly)(data, self.n_components, generator)
        if data.labels is not None:
            require_labels(data.labels, self.n_components)
            responsibilities = named_by(data.labels, responsibilities)
        start(model, data, responsibilities, stay=None if restart % 2 == 0 else 0.95)

    def prepare(self, model: HMM, data: Sequences) -> None:
        """Priors and frozen parts."""
        chain = model.transition
        assert isinstance(chain, Stationary)
        K = self.n_components
        chain.startprob_prior = prior("startprob_prior", self.startprob_prior, (K,))
        chain.transmat_prior = prior("transmat_prior", self.transmat_prior, (K, K))
        self.freeze(model)

    def freeze(self, model: HMM) -> None:
        """Leave alone what params does not name."""
        model.transition.frozen = frozenset(
            name for letter, name in (("s", "initial"), ("t", "transition")) if letter not in self.params
        )
        model.emission.frozen = frozenset(
            name for letter, name in self.parts.items() if letter not in self.params
        )
        # counted here: zeros of the start are structure, zeros that EM arrives at are estimates
        self.n_free_ = model.transition.n_free() + model.emission.n_free()

    def keep(self, model: HMM) -> None:
        self.absorb_chain(model, "st")
        self.absorb(model.emission, "".join(self.letters))

    def absorb_chain(self, model: HMM, letters: str) -> None:
        if "s" in letters:
            self.startprob_ = as_array(model.transition.log_initial().exp())
        if "t" in letters:
            self.transmat_ = as_array(model.transition.log_transition().exp())

    # -- asking

    def is_fitted(self) -> bool:
        return all(hasattr(self, a) for a in self.learnt())

    def learnt(self) -> list[str]:
        """Names of the fitted attributes that are the model."""
        return ["startprob_", "transmat_", *self.letters.values()]

    def state_model(self) -> HMM:
        """The module of the fitted attributes as they are now; built anew only when one has changed."""
        attributes = [np.asarray(getattr(self, a)) for a in self.learnt()]
        options = [v for v in vars(self).values() if isinstance(v, str | int)]
        now = (options, *((a.shape, a.dtype, a.tobytes()) for a in attributes))
        if BUILT.get(self, (None,))[0] != now:
            BUILT[self] = now, self.build()
        return BUILT[self][1]

    def build(self) -> HMM:
        """A module of its own with the fitted attributes."""
        startprob = checked("startprob_", self.startprob_, (self.n_components,))
        transmat = checked("transmat_", self.transmat_, (self.n_components, self.n_components))
        return HMM(Stationary(startprob, transmat), self.emission())

    @property
    def width(self) -> int:
        return self.state_model().emission.n_features

    def prepared(self, data: Sequences) -> Sequences:
        return data

    def evaluate(self, X: Any, lengths: Any = None) -> Score:
        """The exact log-likelihood of every sequence."""
        data = self.sequences(X, lengths)
        return exact(self.state_model(), data)

    def check(self, data: Sequences) -> None:
        self.state_model().emission.check(data.x, data.observed)

    def sample(
        self, n_samples: int = 1, random_state: Any = None, currstate: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A new sequence: X (n_samples, n_features) and its states (n_samples,).

        currstate: the state of the first step, drawn from startprob_ unless given.
        """
        self.require_fitted()
        require_at_least(1, n_samples=n_samples)
        if currstate is not None and not 0 <= currstate < self.n_components:
            raise ValueError(
                f"currstate={currstate}; with n_components={self.n_components} it is 0 to "
                f"{self.n_components - 1}"
            )
        generator = self.generator(random_state)
        model = self.state_model()
        with torch.no_grad():
            states = sample_states(model.transition, n_samples, generator, currstate)
            x = model.emission.sample(states, generator)
        return as_array(x), states.numpy()

    def n_parameters(self) -> int:
        """Free parameters: structural zeros and what params froze left out."""
        self.require_fitted()
        if hasattr(self, "n_free_"):
            return self.n_free_
        model = self.state_model()
        return model.transition.n_free() + model.emission.n_free()

    def aic(self, X: Any, lengths: Any = None) -> float:
        """−2 log p(x) + 2 · free parameters."""
        return -2 * self.score(X, lengths=lengths) + 2 * self.n_parameters()

    def bic(self, X: Any, lengths: Any = None) -> float:
        """−2 log p(x) + log(n) · free parameters, n the number of frames."""
        n = self.sequences(X, lengths).n_frames
        return -2 * self.score(X, lengths=lengths) + float(np.log(n)) * self.n_parameters()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {a: torch.as_tensor(getattr(self, a), dtype=self.dtype) for a in self.kept()}
        monitor = getattr(self, "monitor_", None)
        history = monitor.history if monitor else []
        facts = {
            "history": history,
            "converged": bool(monitor and monitor.converged),
            "n_free": self.n_parameters(),
        }
        return tensors, facts

    def kept(self) -> list[str]:
        """Names of the arrays that a file holds."""
        return self.learnt()

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        for name, value in tensors.items():
            setattr(self, name, value.numpy())
        self.monitor_ = ConvergenceMonitor(
            self.tol, self.n_iter, self.verbose, facts["history"], facts["converged"]
        )
        self.n_free_ = facts["n_free"]


def as_array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy().copy()


def prior(name: str, value: Any, shape: tuple[int, ...], negative: bool = False) -> Tensor:
    """A prior's numbers as a tensor that broadcasts to the shape.

    Raises ValueError for one that does not, for NaN, infinity and, unless allowed, negative numbers.
    """
    numbers = np.asarray(value, dtype=np.float64)
    if not broadcasts(numbers.shape, shape):
        raise ValueError(f"{name} has shape {numbers.shape}; it must be a number or broadcast to {shape}")
    if not np.isfinite(numbers).all() or (not negative and (numbers < 0).any()):
        raise ValueError(f"{name}={value}; it must be finite{'' if negative else ' and not negative'}")
    return torch.as_tensor(numbers)


def broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether NumPy would stretch an array of this shape to the target."""
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def checked(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    """Probabilities given by hand or fitted, as a tensor; raises ValueError unless rows sum to 1."""
    probs = np.asarray(value, dtype=np.float64)
    if probs.shape != shape:
        raise ValueError(f"{name} has shape {probs.shape}; with n_components={shape[0]} it must be {shape}")
    if not (probs >= 0).all() or not (abs(probs.sum(-1) - 1.0) <= 1e-5).all():
        raise ValueError(f"{name} must hold probabilities; its rows sum to {probs.sum(-1)}")
    return torch.as_tensor(probs)
