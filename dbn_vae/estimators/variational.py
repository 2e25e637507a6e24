"""What the variational estimators share: priors, posteriors, and the bound in place of the likelihood.

Attributes come in pairs, `name_prior_` and `name_posterior_`, under hmmlearn's names.  startprob_, transmat_ and the
emission's attributes are posterior means, and every verb asks the classical model that they make.
"""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dbn_vae.emissions.base import Emission
from dbn_vae.estimators.classical import ClassicalHMM, as_array, prior
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import EMStep
from dbn_vae.training.vb import DirichletChain

Pairs = dict[str, tuple[Tensor, Tensor]]  # name to the numbers of prior and posterior


class VariationalHMM(ClassicalHMM):
    """Variational Bayes behind the verbs of a classical HMM.

    monitor_.history holds the bound of the log evidence, which never decreases; of several starts the one with the
    highest bound is kept.  Models with different numbers of states may be compared by it.
    """

    @abstractmethod
    def first_emission(self, data: Sequences) -> Emission:
        """The emission's q at its start, which begin and reuse replace."""

    @abstractmethod
    def reuse(self, emission: Emission) -> None:
        """Put the posteriors that init_params leaves alone into the emission's q."""

    @abstractmethod
    def pairs(self, emission: Emission) -> Pairs:
        """The emission's distributions by name."""

    def started(self, data: Sequences, generator: torch.Generator, restart: int) -> HMM:
        K = self.n_components
        if not self.topology_is("ergodic"):
            raise ValueError(
                f"topology={self.topology!r}; a Dirichlet posterior has no structural zeros: use the model of the same "
                "family that is fitted by EM"
            )
        chain = DirichletChain(
            self.concentration("startprob", "s", 1 / K, (K,)),
            self.concentration("transmat", "t", 1 / K, (K, K)),
        )
        emission = self.first_emission(data)
        emission.check(data.x, data.observed)
        model = HMM(chain, emission)
        self.begin(model, data, generator, restart)
        chain.startprob_posterior = self.left("startprob", "s", chain.startprob_posterior)
        chain.transmat_posterior = self.left("transmat", "t", chain.transmat_posterior)
        self.reuse(emission)
        self.freeze(model)
        return model

    def chosen(self, name: str, letter: str, default: Any) -> Any:
        """A prior: what an earlier fit or the user left, what the constructor was given, or the default."""
        attribute, given = f"{name}_prior_", getattr(self, f"{name}_prior")
        if letter not in self.init_params and hasattr(self, attribute):
            return getattr(self, attribute)
        return default if given is None else given

    def concentration(self, name: str, letter: str, default: Any, shape: tuple[int, ...]) -> Tensor:
        """A prior whose numbers are positive, written out."""
        value = prior(f"{name}_prior", self.chosen(name, letter, default), shape)
        if not (value > 0).all():
            raise ValueError(f"{name}_prior={as_array(value)}; it must be positive")
        return value.expand(shape).clone()

    def left(self, name: str, letter: str, current: Tensor) -> Tensor:
        """A posterior that init_params leaves alone, where there is one; otherwise the current one."""
        attribute = f"{name}_posterior_"
        if letter in self.init_params or not hasattr(self, attribute):
            return current
        value = prior(attribute, getattr(self, attribute), tuple(current.shape), negative=True)
        return value.expand(current.shape).clone()

    def watched(self, step: EMStep) -> float:
        return step.objective

    def troubles(self, model: HMM, last: EMStep) -> list[str]:
        """A state that no frame needs is left at its prior, which is how the number of states is found."""
        return []

    def keep(self, model: HMM) -> None:
        chain = model.transition
        assert isinstance(chain, DirichletChain)
        pairs: Pairs = {
            "startprob": (chain.startprob_prior, chain.startprob_posterior),
            "transmat": (chain.transmat_prior, chain.transmat_posterior),
            **self.pairs(model.emission),
        }
        for name, (before, after) in pairs.items():
            setattr(self, f"{name}_prior_", as_array(before))
            setattr(self, f"{name}_posterior_", as_array(after))
        self.startprob_ = as_array(chain.startprob_posterior / chain.startprob_posterior.sum())
        self.transmat_ = as_array(chain.transmat_posterior / chain.transmat_posterior.sum(1, keepdim=True))
        self.absorb(model.emission, "".join(self.letters))

    def sample_posterior(self, X: Any, lengths: Any = None, **options: Any) -> dict[str, np.ndarray]:
        """Not here: q, in the attributes named _posterior_, is the posterior that this model knows."""
        raise TypeError(
            f"{type(self).__name__} has its posterior q in the attributes named _posterior_; to draw from the exact "
            "one, give these priors to the classical model of the same family and call its sample_posterior"
        )

    def kept(self) -> list[str]:
        pairs = [a for a in vars(self) if a.endswith(("_prior_", "_posterior_"))]
        return [*self.learnt(), *sorted(pairs)]
