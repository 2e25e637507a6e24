"""The chain of a model whose states hide behind z, whatever its transition: Markov, or stays with durations."""

from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from dbn_vae import inference
from dbn_vae.inference import Chain, durations
from dbn_vae.models.base import Generator
from dbn_vae.models.hmm import labelled, sample_states, state_chain
from dbn_vae.models.hsmm import sample_stays, stays, tables_of_stays
from dbn_vae.sequences import Batch
from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.semi_markov import SemiMarkov


def verbs_of(transition: Transition) -> ModuleType:
    """The functions that read its chains."""
    return durations if isinstance(transition, SemiMarkov) else inference


def ages_of(transition: Transition) -> int:
    """Ages of a state that what comes next depends on; 1 where stays are geometric."""
    return transition.durations.max_duration if isinstance(transition, SemiMarkov) else 1


def tables_of(transition: Transition, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """log π (..., M) and log A (..., M, M) of what a step forward depends on; see HMM.tables."""
    if isinstance(transition, SemiMarkov):
        return tables_of_stays(transition)
    return transition.log_initial(inputs), transition.log_transition(inputs)


def chain_under(transition: Transition, potential: Tensor, batch: Batch) -> Chain:
    """The chain under potentials (B, T, K) and the batch's labels, for verbs_of(transition) to read."""
    if isinstance(transition, SemiMarkov):
        return cast(Chain, stays(transition, labelled(potential, batch), batch))
    return state_chain(transition, potential, batch)


def sum_out_states(
    transition: Transition, potential: Tensor, batch: Batch, inputs: Tensor | None = None
) -> Tensor:
    """FWD(π, A, potential) for each of S samples: (S, B, T, K) to (S, B).

    inputs: of every sample its own (S, B, T, U), in place of the batch's.
    """
    S, B = potential.shape[:2]
    if inputs is None and batch.inputs is not None:
        inputs = batch.inputs.expand(S, *batch.inputs.shape)
    repeated = batch._replace(
        lengths=batch.lengths.repeat(S),
        labels=None if batch.labels is None else torch.cat([batch.labels] * S),
        inputs=None if inputs is None else inputs.flatten(0, 1),
    )
    chain = chain_under(transition, potential.flatten(0, 1), repeated)
    log_z: Tensor = verbs_of(transition).log_partition(chain)
    return log_z.view(S, B)


def sample_chain(
    transition: Transition, n_steps: int, generator: Generator, inputs: Tensor | None = None
) -> Tensor:
    """A path of the chain alone: (T,) int64, under inputs (T, U) if it reads any."""
    if isinstance(transition, SemiMarkov):
        return sample_stays(transition, n_steps, generator)
    return sample_states(transition, n_steps, generator, inputs=inputs)
