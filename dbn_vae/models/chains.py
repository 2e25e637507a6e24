"""The chain of a model whose states hide behind z, whatever its transition: Markov, or stays with durations."""

from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from dbn_vae import inference
from dbn_vae.inference import Chain, durations
from dbn_vae.models.base import Generator, StateModel
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


def with_labels(chain: Chain, batch: Batch) -> Chain:
    """The same chain, its batch's labels made evidence."""
    if isinstance(chain, durations.Stays):
        return chain._replace(chain=with_labels(chain.chain, batch))
    written_out = chain.dense()
    return written_out._replace(log_emission=labelled(written_out.log_emission, batch))


def log_p_labels(model: StateModel, batch: Batch, generator: Generator = None) -> Tensor:
    """log p(labels | x) by the chain that decodes, log Z with them as evidence less log Z without: (B,).

    0 where a sequence has none.  Of soft labels, the log of the expected evidence.  With a generator by chain_sampled.
    """
    out = torch.zeros(len(batch.x), dtype=batch.x.dtype, device=batch.x.device)
    if batch.labels is None:
        return out
    known = (batch.labels != 0).any(-1) if batch.labels.is_floating_point() else batch.labels >= 0
    rows = known.any(1).nonzero().flatten()
    if len(rows) == 0:
        return out
    some = batch._replace(**{k: v[rows] for k, v in batch._asdict().items() if v is not None})
    bare = some._replace(labels=None)
    chain = model.chain(bare) if generator is None else model.chain_sampled(bare, generator)
    log_p = model.verbs.log_partition(with_labels(chain, some)) - model.verbs.log_partition(chain)
    return out.index_put((rows,), log_p.to(out.dtype))


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
