"""What must change nothing changes nothing: for every emission family, over problems that hypothesis draws.

Padding, batching, chunking, the order of sequences, the names of states, the floating type, the engine, a file in
between; and the identities of missing rows, weights and known labels.
"""

import copy
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import close
from random_models import FAMILIES, random_chain, random_data, random_model
from torch import Tensor

from dbn_vae import inference, storage
from dbn_vae.inference import Chain
from dbn_vae.inference.backends import available
from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import expect
from dbn_vae.training.gradient_em import collect

D = 2
EXACT = {"rtol": 1e-10, "atol": 1e-10}
every_family = pytest.mark.parametrize("family", FAMILIES)


class Case(NamedTuple):
    """The dimensions of a problem; its numbers follow from the seed."""

    seed: int
    K: int
    n: int  # sequences, of 1 to T steps
    T: int
    missing: float
    zeros: float  # share of impossible starts and moves


cases = st.builds(
    Case,
    seed=st.integers(0, 2**20),
    K=st.integers(1, 4),
    n=st.integers(1, 5),
    T=st.integers(1, 9),
    missing=st.sampled_from([0.0, 0.3, 0.8]),
    zeros=st.sampled_from([0.0, 0.5]),
)


def drawn(examples: int):
    """The same problems at every run, and nothing written to disk."""
    shared = [HealthCheck.function_scoped_fixture]  # tmp_path: files are overwritten
    chosen = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=shared,
    )
    return lambda test: chosen(given(case=cases)(test))


def problem(family: str, case: Case, labelled: float = 0.0) -> tuple[HMM, Sequences]:
    """A model, and data of another one that forbids the same moves."""
    g = torch.Generator().manual_seed(case.seed)
    chain = random_chain(g, case.K, 0.5, case.zeros)
    model = HMM(chain, FAMILIES[family](g, 0.5, case.K, D))
    truth = HMM(chain, FAMILIES[family](g, 0.5, case.K, D))
    data = random_data(
        family, g, case.n, case.missing, weights=True, T=case.T, truth=truth, labelled=labelled
    )
    return model, data


class Answers(NamedTuple):
    """Everything asked of a model, by the rows of the data set."""

    log_z: Tensor  # (B,)
    gamma: Tensor  # (N, K)
    filtered: Tensor  # (N, K)
    best: Tensor  # (B,) score of the most probable path
    first: Tensor  # (K,)
    pairs: Tensor  # (K, K)
    statistics: tuple[Tensor, ...]  # of the emission, where they are sums


@torch.no_grad()
def ask(model: HMM, data: Sequences, max_frames: int = 2**18) -> Answers:
    kind = data.x.dtype
    log_z, best = torch.zeros(len(data), dtype=kind), torch.zeros(len(data), dtype=kind)
    gamma, filtered = (torch.zeros(data.n_frames, model.n_components, dtype=kind) for _ in range(2))
    for batch in data.batches(max_frames):
        chain = model.chain(batch)
        log_z[batch.which], values, _ = inference.smooth(chain)
        data.unbatch(batch, values, gamma)
        data.unbatch(batch, inference.filter(chain).probs, filtered)
        best[batch.which] = inference.viterbi(chain).score
    e = expect(model, list(data.batches(max_frames)))
    sums = e.emission if len(e.emission) and e.emission[0].shape[:1] != (data.n_frames,) else ()
    return Answers(log_z, gamma, filtered, best, *e.transition, sums)


def rows_of(data: Sequences, index: list[int]) -> Tensor:
    """The rows that the named sequences have in the data set, one sequence after the other."""
    starts = data.starts.tolist()
    return torch.cat([torch.arange(data.lengths[i]) + starts[i] for i in index])


def dense(model: HMM, data: Sequences) -> Chain:
    """The model's chain of all sequences with its potentials written out."""
    with torch.no_grad():
        return model.chain(data.batch()).dense()


@pytest.mark.some(4)
@every_family
@drawn(8)
def test_batches_and_chunks(family: str, case: Case) -> None:
    """All sequences in one batch, one by one, or cut in any other way."""
    model, data = problem(family, case)
    whole = ask(model, data)
    for max_frames in (1, 2 * case.T):
        close(ask(model, data, max_frames), whole, **EXACT)
    for b in range(len(data)):
        alone = ask(model, data.subset([b]))
        close(alone.log_z[0], whole.log_z[b], **EXACT)
        close(alone.gamma, whole.gamma[rows_of(data, [b])], **EXACT)


@every_family
@drawn(8)
def test_padding(family: str, case: Case) -> None:
    """Steps behind the end of every sequence, whatever stands in them."""
    model, data = problem(family, case)
    batch = data.batch()
    extra = (len(data), 3, batch.x.shape[2])
    x = torch.cat([torch.where(batch.mask[..., None], batch.x, 1.0), torch.ones(extra).double()], 1)
    longer = batch._replace(x=x, observed=torch.cat([batch.observed, torch.zeros(extra).bool()], 1))
    if batch.inputs is not None:
        longer = longer._replace(inputs=torch.cat([batch.inputs, torch.full(extra, 5.0).double()], 1))
    with torch.no_grad():
        near, far = model.chain(batch), model.chain(longer)
        a, b = inference.smooth(near), inference.smooth(far)
        close(b.log_z, a.log_z, **EXACT)
        close(b.xi, a.xi, **EXACT)
        close(b.gamma[:, :-3], a.gamma, **EXACT)
        assert (b.gamma[:, -3:] == 0).all() and (a.gamma[~batch.mask] == 0).all()
        close(inference.viterbi(far).score, inference.viterbi(near).score, **EXACT)


@pytest.mark.some(4)
@every_family
@drawn(8)
def test_the_order_of_sequences(family: str, case: Case) -> None:
    model, data = problem(family, case)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(case.seed)).tolist()
    a, b = ask(model, data), ask(model, data.subset(order))
    rows = rows_of(data, order)
    moved = a._replace(
        log_z=a.log_z[order], best=a.best[order], gamma=a.gamma[rows], filtered=a.filtered[rows]
    )
    close(b, moved, **EXACT)


@pytest.mark.some(4)
@every_family
@drawn(8)
def test_the_names_of_states(family: str, case: Case) -> None:
    model, data = problem(family, case)
    p = torch.randperm(case.K, generator=torch.Generator().manual_seed(case.seed))
    renamed = copy.deepcopy(model)
    with torch.no_grad():
        renamed.transition.transition_logits.copy_(renamed.transition.transition_logits[p][:, p])
        renamed.transition.initial_logits.copy_(renamed.transition.initial_logits[p])
        for name, parameter in renamed.emission.named_parameters():
            if family == "mixture" and "component" in name:  # the components of a state stand together
                parameter.copy_(parameter.unflatten(0, (case.K, 2))[p].flatten(0, 1))
            elif family != "tied" or name != "factor":  # which no state owns
                parameter.copy_(parameter[p])
    a, b = ask(model, data), ask(renamed, data)
    close(b.log_z, a.log_z, **EXACT)
    close(b.best, a.best, **EXACT)
    close(b.gamma, a.gamma[:, p], **EXACT)
    close(b.filtered, a.filtered[:, p], **EXACT)
    close(b.first, a.first[p], **EXACT)
    close(b.pairs, a.pairs[p][:, p], **EXACT)


@pytest.mark.some(4)
@every_family
@drawn(8)
def test_the_floating_type(family: str, case: Case) -> None:
    """The same numbers, rounded once to float32 for both; only the arithmetic differs."""
    model, data = problem(family, case)
    model, data = model.float(), data.to(dtype=torch.float32)
    coarse = ask(model, data)
    assert coarse.log_z.dtype == torch.float32
    fine = ask(model.double(), data.to(dtype=torch.float64))
    for name in ("log_z", "gamma", "filtered", "best", "first", "pairs"):
        a, b = getattr(coarse, name).double(), getattr(fine, name)
        close(a, b, rtol=2e-5, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.some(4)
@every_family
@drawn(8)
def test_the_engine(family: str, case: Case) -> None:
    """Potentials in their functional forms or written out, by the compiled kernels or by the reference."""
    model, data = problem(family, case)
    answers = []
    for backend in sorted({*available} - {"cuda"}):
        with inference.using(backend):
            answers.append(ask(model, data))
            chain = dense(model, data)
            close(inference.log_partition(chain), answers[0].log_z, **EXACT)
    for other in answers[1:]:
        close(other, answers[0], **EXACT)


@pytest.mark.some(4)
@every_family
@drawn(4)
def test_a_file_in_between(family: str, case: Case, tmp_path: Path) -> None:
    """Not a bit changes, even where the model that reads held other parameters."""
    model, data = problem(family, case)
    storage.save(tmp_path / "model", model.state_dict(), {"family": family})
    other = random_model(family, torch.Generator().manual_seed(case.seed + 1), 0.5, case.K)
    tensors, facts = storage.load(tmp_path / "model")
    other.load_state_dict(tensors)
    assert facts == {"family": family}
    close(ask(other, data), ask(model, data), rtol=0, atol=0)


@pytest.mark.some(4)
@every_family
@drawn(8)
def test_the_past_enters_through_the_belief_alone(family: str, case: Case) -> None:
    """A sequence cut anywhere: the second part starts from p(s | first part) and the move that follows."""
    model, data = problem(family, case)
    initial, moves, emission, lengths = dense(model, data)
    for b, length in enumerate(lengths.tolist()):
        whole = inference.filter(Chain(initial, moves, emission[b : b + 1, :length]))
        log_z, belief = torch.zeros(1).double(), initial
        for t in range(length):
            if t:
                belief = (belief.exp() @ moves.exp()).log()
            step = inference.filter(Chain(belief, moves, emission[b : b + 1, t : t + 1]))
            log_z, belief = log_z + step.log_z, step.probs[0, 0].log()
        close(log_z, whole.log_z, **EXACT)
        close(belief.exp(), whole.probs[0, -1], **EXACT)


@pytest.mark.some(4)
@every_family
@drawn(8)
def test_a_missing_row_is_a_step_with_no_emission(family: str, case: Case) -> None:
    """Its potentials are exactly 0, and the chain is the one without that step whose move there is A · A."""
    model, data = problem(family, case)
    emission = dense(model, data).log_emission
    blank = torch.rand(data.n_frames, generator=torch.Generator().manual_seed(case.seed)) < 0.3
    x = torch.where(blank[:, None], 0.0, data.x)
    holes = data.replace(x=x, observed=data.observed & ~blank[:, None])
    initial, moves, found, lengths = dense(model, holes)
    blank = holes.replace(labels=blank.long()).batch().labels == 1
    assert (found[blank] == 0).all()
    silent = blank.clone()
    for lag in range(1, 1 + getattr(model.emission, "order", 0)):
        silent[:, lag:] |= blank[:, :-lag]  # frames that are regressed on a missing one say nothing either
    close(found, torch.where(silent[..., None] & (emission != 0), 0.0, emission), **EXACT)
    log_z = inference.log_partition(Chain(initial, moves, found, lengths))
    for b, length in enumerate(lengths.tolist()):
        kept = (~blank[b, :length]).nonzero().flatten().tolist()
        if not kept:
            close(log_z[b], torch.zeros(()).double(), **EXACT)
            continue
        power = torch.linalg.matrix_power
        start = (initial.exp() @ power(moves.exp(), kept[0])).log()
        jumps = [power(moves.exp(), t - s).log() for s, t in pairwise(kept)]
        between = torch.stack(jumps)[None] if jumps else moves
        short = Chain(start, between, found[b : b + 1, kept])
        close(inference.log_partition(short)[0], log_z[b], **EXACT)


@pytest.mark.some(4)
@every_family
@drawn(8)
def test_an_integer_weight_is_a_number_of_copies(family: str, case: Case) -> None:
    model, data = problem(family, case)
    g = torch.Generator().manual_seed(case.seed)
    copies = torch.randint(0, 4, (len(data),), generator=g)
    copies[0] = 2
    weighted = expect(model, list(data.replace(weights=copies.double()).batches()))
    index = torch.arange(len(data)).repeat_interleave(copies)
    plain = data.subset(index)
    written_out = expect(model, list(plain.replace(weights=torch.ones(len(index)).double()).batches()))
    close(weighted.log_likelihood, written_out.log_likelihood, **EXACT)
    close(weighted.transition, written_out.transition, **EXACT)
    if family != "logistic-regression":  # whose M-step reads the frames themselves
        close(weighted.emission, written_out.emission, **EXACT)


@pytest.mark.some(4)
@every_family
@drawn(8)
def test_all_labels_known_is_counting(family: str, case: Case) -> None:
    """log Z is the probability of the one path, and the E-step counts it."""
    model, data = problem(family, case, labelled=1.1)
    assert data.labels is not None
    e = expect(model, list(data.batches()))
    K, labels = case.K, data.labels
    first, pairs, total = torch.zeros(K).double(), torch.zeros(K, K).double(), torch.zeros(()).double()
    initial, moves, emission, lengths = dense(model, data.replace(labels=torch.full_like(labels, -1)))
    for b, (start, length) in enumerate(zip(data.starts.tolist(), lengths.tolist(), strict=True)):
        path, w = labels[start : start + length], data.weights[b]
        first[path[0]] += w
        pairs.index_put_((path[:-1], path[1:]), w.expand(length - 1), accumulate=True)
        total += w * (initial[path[0]] + emission[b, torch.arange(length), path].sum())
        total += w * moves[path[:-1], path[1:]].sum()
    close(e.log_likelihood, total, **EXACT)
    close(e.transition, (first, pairs), **EXACT)
    (batch,) = data.batches()
    x, observed = model.frames(batch)
    weights = F.one_hot(batch.labels.clamp_min(0), K) * batch.weights[:, None, None]
    close(e.emission, collect(model.emission, *(v[batch.mask] for v in (x, observed, weights))), **EXACT)


def test_the_problems_hold_what_they_promise() -> None:
    """Else all of the above would prove little: ragged lengths, missing entries, impossible moves."""
    model, data = problem("poisson", Case(seed=1, K=4, n=5, T=9, missing=0.3, zeros=0.5))
    assert len(set(data.lengths.tolist())) > 1 and 0.1 < (~data.observed).double().mean() < 0.5
    assert (model.transition.log_transition() == -torch.inf).any()
    assert not torch.equal(data.weights, torch.ones(5).double())
