"""Classical hidden Markov models under hmmlearn's names, order of arguments, shapes and parameter letters.

The fitted attributes are plain NumPy arrays and are the truth: set them by hand and every verb works; a torch
module is built from them for each call.  New options are keyword-only.
"""

import copy
import math
from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from dbn_vae.emissions.base import Emission
from dbn_vae.estimators.alone import Short, asked, single, template
from dbn_vae.estimators.arguments import require_whole
from dbn_vae.estimators.devices import place, where
from dbn_vae.estimators.draws import posterior_draws
from dbn_vae.estimators.forecasting import PredictiveVerbs
from dbn_vae.estimators.hmm import HMMEstimator
from dbn_vae.estimators.monitor import ConvergenceMonitor
from dbn_vae.estimators.naming import NamedStates
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.initialise import arranged, in_turn
from dbn_vae.transitions.stationary import Stationary
from dbn_vae.transitions.topology import possible

# The module that stands for an estimator's attributes, and what these were.  Not kept in the estimator, which asking
# must not change.
BUILT: WeakKeyDictionary["ClassicalHMM", "Built"] = WeakKeyDictionary()


class Built(NamedTuple):
    """A module, what the attributes were, and the module's short way."""

    attributes: Any
    model: HMM
    short: Short | None


@dataclass(eq=False, repr=False)
class Structure:
    """Which moves are possible: an option of every family, in its signature without being listed in each.

    topology: "ergodic", every move; "left-to-right", to the same state or the next, from state 0; "cyclic", the same on
    a circle; or a (K, K) array of Booleans, True where a move is possible.  The others are structural zeros.
    """

    _: KW_ONLY
    topology: Any = "ergodic"

    def topology_is(self, name: str) -> bool:
        return isinstance(self.topology, str) and self.topology == name


class ClassicalHMM(Structure, HMMEstimator, NamedStates, PredictiveVerbs):
    """What the families share; a family says how its emission is built from its attributes and back."""

    letters: ClassVar[dict[str, str]]  # parameter letter to fitted attribute, s and t left out
    parts: ClassVar[dict[str, str]]  # parameter letter to the emission's own name for it

    startprob_prior: Any
    transmat_prior: Any
    params: str
    init_params: str

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

    @property
    def n_starts(self) -> int:
        """One where nothing is started afresh: every start would be the same."""
        return self.n_init if self.init_params else 1

    def require_arguments(self) -> None:
        super().require_arguments()
        known = set("st" + "".join(self.letters))
        for name, given in (("params", self.params), ("init_params", self.init_params)):
            if not set(given) <= known:
                raise ValueError(f"{name}={given!r}; its letters are among {''.join(sorted(known))!r}")

    def started(self, data: Sequences, generator: torch.Generator, restart: int) -> HMM:
        """A model to climb from: attributes that init_params does not name keep their values."""
        own = self.own()
        fresh = {letter for a, letter in own.items() if letter in self.init_params or not hasattr(self, a)}
        first, moves = possible(self.topology, self.n_components)
        if not fresh:
            model = self.build()
            self.require_structure(model, moves)
            model.emission.check(data.x, data.observed)
            self.prepare(model, data)
            return model
        emission = self.first_emission(data) if fresh - {"s", "t"} else self.emission()
        emission.check(data.x, data.observed)
        first, moves = first.to(self.dtype), moves.to(self.dtype)
        chain = Stationary(first / first.sum(), moves / moves.sum(1, keepdim=True))
        model = HMM(chain, emission)
        self.begin(model, data, generator, restart)
        if fresh != set(own.values()):
            kept = {a: getattr(self, a) for a, letter in own.items() if letter not in fresh}
            self.absorb(model.emission, "".join(fresh))
            self.absorb_chain(model, "".join(fresh))
            for attribute, value in kept.items():
                setattr(self, attribute, value)
            model = self.build()
            self.require_structure(model, moves)
        self.prepare(model, data)
        return model

    def require_structure(self, model: HMM, moves: Tensor) -> None:
        """Raise ValueError where transmat_, given by hand, makes a move that topology forbids."""
        if self.topology_is("ergodic"):
            return
        wrong = ((model.transition.log_transition() > -torch.inf) & (moves == 0)).nonzero().tolist()
        if wrong:
            i, j = wrong[0]
            raise ValueError(
                f"transmat_[{i}, {j}]={self.transmat_[i, j]:g} is a move that topology={self.topology!r} forbids; set "
                "it to 0, or let init_params name t"
            )

    def named(self, model: HMM, data: Sequences, responsibilities: Tensor, restart: int) -> Tensor:
        if data.labels is None:
            if self.topology_is("left-to-right") and restart % 2 == 0:
                return in_turn(data, self.n_components)
            if not self.topology_is("ergodic"):
                return arranged(model, data, responsibilities)
        return super().named(model, data, responsibilities, restart)

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

    @torch.no_grad()
    def keep(self, model: HMM) -> None:
        """Copy the parameters to the attributes; what was neither learnt nor started afresh stays bit by bit."""
        letters = "".join(
            letter
            for a, letter in self.own().items()
            if letter in self.params + self.init_params or not hasattr(self, a)
        )
        self.absorb_chain(model, letters)
        self.absorb(model.emission, letters)

    def absorb_chain(self, model: HMM, letters: str) -> None:
        if "s" in letters:
            self.startprob_ = as_array(model.transition.log_initial().exp())
        if "t" in letters:
            self.transmat_ = as_array(model.transition.log_transition().exp())

    # -- asking

    def is_fitted(self) -> bool:
        return all(hasattr(self, a) for a in self.learnt())

    def fitted(self) -> list[Any]:
        return [getattr(self, a) for a in self.learnt()]

    def learnt(self) -> list[str]:
        """Names of the fitted attributes that are the model."""
        return list(self.own())

    def own(self) -> dict[str, str]:
        """The same, each with its parameter letter."""
        return {"startprob_": "s", "transmat_": "t"} | {a: letter for letter, a in self.letters.items()}

    def state_model(self) -> HMM:
        """The module of the fitted attributes as they are now."""
        return self.built().model

    def alone(self, X: Any, lengths: Any, inputs: Any) -> Short | None:
        if inputs is not None or "feature_names_in_" in self.__dict__:
            return None
        try:
            _, model, short = self.built()
        except AttributeError:  # no parameters yet, which the long way says
            return None
        if short is None:
            return None
        x = single(X, lengths, model.emission.n_features)
        return None if x is None else asked(model, short, x)

    def built(self) -> Built:
        """The module of the fitted attributes as they are now; built anew only when one has changed."""
        attributes = [np.asarray(value) for value in self.fitted()]
        options = [v for v in vars(self).values() if isinstance(v, str | int)]
        now = (options, *((a.shape, a.dtype, a.tobytes()) for a in attributes))
        found = BUILT.get(self)
        if found is None or found.attributes != now:
            model = self.build()
            if self.device != "cpu":
                place(model, where(self.device), self.dtype)
            BUILT[self] = found = Built(now, model, template(model))
        return found

    def build(self) -> HMM:
        """A module of its own with the fitted attributes."""
        startprob = checked("startprob_", self.startprob_, (self.n_components,))
        transmat = checked("transmat_", self.transmat_, (self.n_components, self.n_components))
        return HMM(Stationary(startprob, transmat), self.emission())

    def as_fitted(self, data: Sequences) -> HMM:
        model = self.build()
        copy.copy(self).prepare(model, data)  # which counts n_free_ anew
        return model

    def attributes(self) -> dict[str, str]:
        return {part: self.letters[letter].strip("_") for letter, part in self.parts.items()}

    def sample_posterior(
        self,
        X: Any,
        lengths: Any = None,
        *,
        n_draws: int = 1000,
        burn_in: int = 100,
        random_state: Any = None,
    ) -> dict[str, np.ndarray]:
        """Draws from the exact posterior of the parameters given X, by Gibbs sampling from the fitted values on.

        Args:
            n_draws: sweeps kept, one after the other; they are correlated.
            burn_in: sweeps left out before.

        Returns:
            Arrays (n_draws, ...) named as the fitted attributes, states named as the fitted model names them, and
            log_likelihood (n_draws,), log p(X | parameters of the draw).

        What params leaves out stays at its fitted value.  Raises ValueError where a prior is improper, naming it;
        Gaussians need means_weight > 0, covars_prior > 0 and a covars_weight that the guide to priors gives.
        """
        require_whole(1, n_draws=n_draws)
        require_whole(0, burn_in=burn_in)
        data = self.sequences(X, lengths)
        return posterior_draws(self, data, n_draws, burn_in, self.generator(random_state))

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
    return value.numpy(force=True).copy()


def prior(name: str, value: Any, shape: tuple[int, ...], negative: bool = False) -> Tensor:
    """A prior's numbers as a tensor that broadcasts to the shape.

    Raises ValueError for one that does not, for NaN, infinity and, unless allowed, negative numbers.
    """
    if type(value) in (int, float) and (value >= 0 or negative) and math.isfinite(value):
        return torch.tensor(float(value), dtype=torch.float64)  # nearly always, and quick
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={value!r}; it must be a number or broadcast to {shape}") from error
    if numbers.ndim and not broadcasts(numbers.shape, shape):
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
    if not (probs.min() >= 0 and abs(probs.sum(-1) - 1.0).max() <= 1e-5):
        raise ValueError(f"{name} must hold probabilities; its rows sum to {probs.sum(-1)}")
    return torch.as_tensor(probs)
