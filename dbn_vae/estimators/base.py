"""The face: scikit-learn's and hmmlearn's verbs, NumPy and pandas in and out.

An estimator holds hyper-parameters and, once fitted, plain arrays or a module; it translates data to `Sequences`, asks
the layers below, and translates back.  Rows come back in the order they went in, whatever the form of X; a
DataFrame in gives results with its index.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from torch import Tensor

from dbn_vae import inference, storage
from dbn_vae.arrays import check_weights
from dbn_vae.estimators.arguments import (
    column_names,
    lengths_given,
    require_columns,
    require_inputs,
    require_shape,
)
from dbn_vae.evaluation.likelihood import Score
from dbn_vae.inference import Chain
from dbn_vae.models.base import StateModel
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import require_possible

FORMAT = 1  # of saved estimators; raised when an older file would be misread


class SequenceEstimator(BaseEstimator, ABC):
    """What all estimators share: data in, scores out, files."""

    dtype: ClassVar[torch.dtype] = torch.float64
    frames_at_once: ClassVar[int] = 2**18  # padded frames of a batch when the model is asked
    weighs_steps: ClassVar[bool] = False  # frames may have weights of their own
    random_state: Any

    @abstractmethod
    def fit(self, X: Any, y: Any = None, *, lengths: Any = None) -> Self: ...

    @abstractmethod
    def evaluate(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> Score:
        """Log-probability of every sequence, and what kind of number it is; see Score."""

    @abstractmethod
    def n_parameters(self) -> int:
        """Free parameters of the fitted model."""

    @property
    @abstractmethod
    def n_states(self) -> int:
        """Discrete states a step can be in; 1 where there are none."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Entries of a frame that the fitted model expects."""

    @property
    def frame(self) -> tuple[int, ...]:
        """The shape of a frame that the fitted model expects."""
        return (self.width,)

    @property
    def n_inputs(self) -> int:
        """Columns of the inputs that the model reads; 0 where it reads none."""
        return 0

    @abstractmethod
    def check(self, data: Sequences) -> None:
        """Raise ValueError where the data lie outside the fitted model's support."""

    @abstractmethod
    def is_fitted(self) -> bool: ...

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything learnt, as tensors and JSON-able facts."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """The reverse of state."""

    def score(
        self, X: Any, y: Any = None, *, lengths: Any = None, sample_weight: Any = None, inputs: Any = None
    ) -> float:
        """Log-probability of the data in nats, all sequences together, each times its sample_weight (B,) if given.

        Exact for the classical models.  For the deep ones a lower bound: `evaluate` says which.  As for fit,
        lengths may also stand second, without their name.
        """
        score = self.evaluate(X, lengths_given(X, y, lengths), inputs=inputs)
        return weighted_total(score, sample_weight)

    def save(self, path: Path | str) -> None:
        """Write the estimator to one file (safetensors and JSON, no pickle); `dbn_vae.load` reads it."""
        self.require_fitted()
        tensors, facts = self.state()
        head = {
            "format": FORMAT,
            "estimator": type(self).__name__,
            "parameters": jsonable(self.plain_parameters()),
            "state": facts,
            "columns": jsonable(getattr(self, "feature_names_in_", None)),
        }
        storage.save(path, tensors, head)

    def plain_parameters(self) -> dict[str, Any]:
        """The constructor's arguments, None for what state holds."""
        return dict(self.get_params(deep=False))

    def require_fitted(self) -> None:
        if not self.is_fitted():
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(
                f"this {type(self).__name__} has no parameters yet: call fit, or set them by hand"
            )

    def sequences(self, X: Any, lengths: Any = None, **fields: Any) -> Sequences:
        """X in any accepted form, as the data this fitted model expects."""
        self.require_fitted()
        data = self.read(X, lengths, **fields)
        require_shape(data, self.frame, type(self).__name__)
        require_columns(X, getattr(self, "feature_names_in_", None))
        data = self.admitted(data)
        self.check(data)
        return data

    def admitted(self, data: Sequences) -> Sequences:
        """The data without what the fitted model is to pass over."""
        return data

    def read(self, X: Any, lengths: Any = None, **fields: Any) -> Sequences:
        """X in any form that Sequences.from_any takes, in this model's precision."""
        data = Sequences.from_any(X, lengths, dtype=self.dtype, **fields)
        if 0 in data.x.shape[1:]:
            raise ValueError(
                f"X has 0 feature(s) (shape={tuple(data.x.shape)}) while a minimum of 1 is required."
            )
        require_inputs(data, self.n_inputs, type(self).__name__)
        if data.step_weights is not None and not self.weighs_steps:
            raise ValueError(
                f"sample_weight has one number a frame, but {type(self).__name__} weighs whole sequences: give "
                f"{len(data)} numbers, one a sequence"
            )
        return data

    def remember_columns(self, X: Any) -> None:
        """Keep the names of the columns of X as feature_names_in_, where they have names."""
        self.__dict__.pop("feature_names_in_", None)  # of an earlier fit
        names = column_names(X)
        if names is not None:
            self.feature_names_in_ = names

    @property
    def n_features_in_(self) -> int:
        """Columns of X, scikit-learn's name for it; there is none before the model has parameters."""
        if not self.is_fitted():
            raise AttributeError(f"this {type(self).__name__} has no parameters yet")
        return self.width

    def __sklearn_is_fitted__(self) -> bool:
        return self.is_fitted()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        return tags

    def like(self, X: Any, values: np.ndarray) -> Any:
        """values with the index of X where X is a DataFrame."""
        if isinstance(X, pd.DataFrame):
            return pd.Series(values, X.index) if values.ndim == 1 else pd.DataFrame(values, X.index)
        return values

    def generator(self, random_state: Any = None) -> torch.Generator:
        """Randomness from random_state: an int gives the same numbers at every call."""
        chosen = self.random_state if random_state is None else random_state
        seed = check_random_state(chosen).randint(2**31 - 1)
        return torch.Generator().manual_seed(int(seed))


class StateEstimator(SequenceEstimator):
    """Models whose steps have a discrete state: decode, predict, filter."""

    n_components: int
    algorithm: str

    @property
    def n_states(self) -> int:
        return self.n_components

    @abstractmethod
    def state_model(self) -> StateModel:
        """The fitted module."""

    @abstractmethod
    def prepared(self, data: Sequences) -> Sequences:
        """The data as the module expects them, scaled for one."""

    def score_samples(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> tuple[float, np.ndarray]:
        """The score of the data and p(s_t | whole sequence): (n, K)."""
        score = self.score(X, lengths=lengths, inputs=inputs)
        return score, self.predict_proba(X, lengths, inputs=inputs)

    def predict_proba(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> np.ndarray:
        """p(s_t = k | whole sequence): (n, K)."""
        gamma = self.over_chains(
            X, lengths, inputs, lambda verbs, chain: verbs.smooth(chain)[:2], self.n_components
        )
        return self.like(X, gamma)

    def filter(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> np.ndarray:
        """p(s_t = k | x_{1:t}), which never looks ahead: (n, K)."""
        probs = self.over_chains(
            X, lengths, inputs, lambda verbs, chain: verbs.filter(chain)[:2], self.n_components
        )
        return self.like(X, probs)

    def predict(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> np.ndarray:
        """States (n,) by self.algorithm: the most probable path, or step by step ("map")."""
        return self.decode(X, lengths, inputs=inputs)[1]

    def decode(
        self, X: Any, lengths: Any = None, algorithm: str | None = None, *, inputs: Any = None
    ) -> tuple[float, np.ndarray]:
        """The states (n,) and the log-probability of that path.

        Args:
            algorithm: "viterbi", the most probable path; "map", the most probable state of every step, which
                may be a path of probability 0.

        Returns:
            The log joint probability log p(states, x) of the path returned, for both algorithms; for the
            deep models, whose p(x) is not known, log q(states | x).
        """
        decoder = {"viterbi": most_probable_path, "map": most_probable_steps}.get(algorithm or self.algorithm)
        if decoder is None:
            raise ValueError(f"algorithm={algorithm or self.algorithm!r}; it is 'viterbi' or 'map'")
        scores: list[float] = []

        def states(verbs: ModuleType, chain: Chain) -> tuple[Tensor, Tensor]:
            evidence, path = decoder(verbs, chain)
            scores.extend(self.reported(path.score, chain).tolist())
            return evidence, path.states[..., None]

        out = self.over_chains(X, lengths, inputs, states, 1, decoder is most_probable_path)
        return sum(scores), self.like(X, out[:, 0])

    def alone(self, X: Any, lengths: Any, inputs: Any) -> tuple[Any, Chain] | None:
        """An engine and the chain of X, where there is a short way to it; see alone.py."""
        return None

    def reported(self, log_joint: Tensor, chain: Chain) -> Tensor:
        """What decode reports of paths (B,): log p(path, evidence) itself, or what it says of p(path | evidence)."""
        return log_joint

    def over_chains(
        self,
        X: Any,
        lengths: Any,
        inputs: Any,
        ask: Callable[[Any, Chain], tuple[Tensor, Tensor]],
        width: int,
        plain: bool = True,
    ) -> np.ndarray:
        """ask(model.verbs, chain) of every batch, back in the order of the rows of X: (n, width).

        It answers (B, T, width), and before that (B,) a number that is −∞ for the sequences that no path explains.
        plain: it asks only what an engine answers, so that the short way may be taken.
        """
        short = self.alone(X, lengths, inputs) if plain else None
        if short is not None:
            evidence, values = ask(*short)
            if evidence.item() > -np.inf:
                return values.numpy()[0]
        data = self.prepared(self.sequences(X, lengths, inputs=inputs))
        model = self.state_model()
        out = None
        with torch.no_grad():
            for batch in data.batches(self.frames_at_once):
                evidence, values = ask(model.verbs, model.chain(batch))
                require_possible(evidence, batch.which)
                if len(data) == 1:
                    return values[0].cpu().numpy()
                if out is None:
                    out = torch.zeros(data.n_frames, width, dtype=values.dtype)
                data.unbatch(batch, values.cpu(), out)
        assert out is not None  # a data set has at least one sequence
        return out.numpy()


def weighted_total(score: Score, sample_weight: Any = None) -> float:
    """The sum over sequences, each times its weight (B,) if given."""
    if sample_weight is None:
        return score.total
    weights = torch.as_tensor(check_weights(sample_weight, len(score.per_sequence)))
    return float(weights @ score.per_sequence)


def most_probable_path(verbs: ModuleType, chain: Chain) -> tuple[Tensor, inference.Path]:
    """The path, and its score once more: where it is −∞, no path is possible."""
    path = verbs.viterbi(chain)
    return path.score, path


def most_probable_steps(verbs: ModuleType, chain: Chain) -> tuple[Tensor, inference.Path]:
    """log Z, and argmax_k gamma_t(k) at every step with the joint log-probability of that path."""
    log_z, gamma = verbs.smooth(chain)[:2]
    states = torch.where(chain.mask(), gamma.argmax(-1), -1)
    return log_z, inference.Path(states, verbs.path_score(chain, states))


def jsonable(value: Any) -> Any:
    """Hyper-parameters as JSON; arrays become lists.  Raises TypeError for what JSON cannot hold."""
    if isinstance(value, dict):
        return {k: jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, np.random.RandomState):
        return None  # a stream has moved on; a loaded model draws afresh
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot save a hyper-parameter of type {type(value).__name__}")
