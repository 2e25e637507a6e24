"""Bach chorales, nats a frame on the test part: independent notes, hidden Markov models, VAE-HMMs, deep Markov models.

    DBN_VAE_DATA=<folder of jsb_chorales.npz> OMP_NUM_THREADS=1 python benchmarks/music.py --out music.csv

229, 76 and 77 chorales on the quarter-note grid (datasets.load_jsb).  Training sees the training part, early stopping
the validation part, and what was tuned was tuned there; the test part is scored once a run.  A number is
−Σ log p / Σ frames, lower is better: exact, or a lower bound of log p turned round, under the name of its estimator.

Runs already in the file of --out are not made again, so that a run can be cut short.
"""

import argparse
import csv
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dbn_vae.aevb import AEVB
from dbn_vae.datasets import load_jsb
from dbn_vae.emissions import Bernoulli
from dbn_vae.estimators import VAEHMM as VAEHMMEstimator
from dbn_vae.evaluation.likelihood import Score, elbo, evaluate, exact, iwae, smc
from dbn_vae.likelihoods import named
from dbn_vae.models import DMM, HMM, STR, VAEHMM, Product
from dbn_vae.models.base import LatentModel
from dbn_vae.sequences import Sequences
from dbn_vae.training import ascend, em, ramp
from dbn_vae.transitions import Gated, Stationary

D = 88  # keys of a piano


class Data(NamedTuple):
    train: Sequences
    valid: Sequences
    test: Sequences

    def single(self) -> "Data":
        """In float32, for networks."""
        return Data(*(part.to(dtype=torch.float32) for part in self))


class Result(NamedTuple):
    """One estimate of a trained model."""

    valid: float  # nats a frame, what training was stopped by
    test: Score
    n_parameters: int
    seconds: float = 0.0  # of processor time, to train it


class Row(NamedTuple):
    """One model of the table and how to train it."""

    name: str
    seeds: int  # runs
    run: Callable[
        [Data, int], Iterator[Result]
    ]  # of a seed; several results are several estimators of one fit


def chorales() -> Data:
    return Data(*(Sequences.from_any([r.astype(np.float64) for r in load_jsb(s)]) for s in Data._fields))  # type: ignore[arg-type]


# -- exact models


def note_rates(data: Sequences) -> Tensor:
    """How often each note sounds, one of two pseudo-counts among them: (D,)."""
    return (data.x.sum(0) + 0.5) / (data.n_frames + 1)


def independent(data: Data, seed: int) -> Iterator[Result]:
    """Every note of every frame independent of all others."""
    one = torch.ones(1, dtype=torch.float64)
    model = HMM(Stationary(one, one[:, None]), Bernoulli(note_rates(data.train)[None]))
    yield Result(exact(model, data.valid).per_frame, exact(model, data.test), D)


def own_past(data: Data, seed: int) -> Iterator[Result]:
    """Each note a two-state Markov chain of its own."""
    rates = note_rates(data.train)
    before, after = previous(data.train), data.train.x
    later = torch.ones(data.train.n_frames, dtype=torch.bool)
    later[data.train.starts] = False
    on = [((after * (before == b))[later].sum(0) + rates) / ((before == b)[later].sum(0) + 1) for b in (0, 1)]

    def score(part: Sequences) -> Score:
        p = torch.where(previous(part) > 0, on[1], on[0])
        p[part.starts] = rates
        nats = torch.where(part.x > 0, p, 1 - p).log().sum(1)
        owner = torch.arange(len(part)).repeat_interleave(part.lengths)
        return Score(
            torch.zeros(len(part), dtype=torch.float64).index_add(0, owner, nats), part.lengths, "exact"
        )

    yield Result(score(data.valid).per_frame, score(data.test), 3 * D)


def previous(data: Sequences) -> Tensor:
    """The frame before each, silence before the first: (N, D)."""
    x = data.x.roll(1, 0)
    x[data.starts] = 0.0
    return x


class Smoothing(NamedTuple):
    """Pseudo-counts of priors: a state's notes lean to the overall rates, its moves to the shares of the states."""

    notes: float
    moves: float


def baum_welch(data: Data, K: int, seed: int) -> tuple[HMM, float]:
    """From K random frames, each half-way to the mean, until validation has fallen twice: the best and its value."""
    train = data.train
    generator, rates = torch.Generator().manual_seed(seed), note_rates(train)
    chosen = torch.randperm(train.n_frames, generator=generator)[:K]
    notes, moves = SMOOTHING
    emission = Bernoulli((train.x[chosen] + rates) / 2, 1 + notes * rates, 1 + notes * (1 - rates))
    uniform = torch.full((K,), 1 / K, dtype=torch.float64)
    model = HMM(Stationary(uniform, uniform.expand(K, K).clone()), emission)
    best, falls = Best(model), 0
    for step in em(model, train):
        falls = 0 if best.offer(exact(model, data.valid).per_frame) else falls + 1
        if falls == 2:
            break
        prior = 1 + moves * step.visits / step.visits.sum()  # of the M-step to come
        model.transition.startprob_prior = model.transition.transmat_prior = prior
    best.restore()
    return model, best.value


def hmm(K: int) -> Callable[[Data, int], Iterator[Result]]:
    def run(data: Data, seed: int) -> Iterator[Result]:
        start = time.process_time()
        model, valid = baum_welch(data, K, seed)
        n_parameters = model.transition.n_free() + model.emission.n_free()
        yield Result(valid, exact(model, data.test), n_parameters, time.process_time() - start)

    return run


# -- bounded models


class Best:
    """The parameters with the highest value offered."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.value = model, -np.inf
        self.parameters: dict[str, Tensor] = {}

    def offer(self, value: float) -> bool:
        """Whether this is the highest so far."""
        higher = value > self.value
        if higher:
            self.value = value
            self.parameters = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        return higher

    def restore(self) -> None:
        self.model.load_state_dict(self.parameters)


class Recipe(NamedTuple):
    """How a network is trained: Adam, its step rising over 20 updates and falling to 0 as a cosine."""

    updates: int
    learning_rate: float = 2e-3
    decay: float = 0.0  # of weights, decoupled as in AdamW
    l2: float = 0.0  # λ of ½ λ |θ|² in the objective of a frame, as in Adam
    warm_up: int = 500  # updates in which β rises to 1
    batch: int = 20


def train(model: LatentModel, data: Sequences, valid: Sequences | None, recipe: Recipe, seed: int) -> float:
    """Keeps the parameters with the best bound on valid, one sample, looked at 40 times; returns that bound."""
    updates, generator = recipe.updates, torch.Generator().manual_seed(seed)
    kind, decay = (torch.optim.Adam, recipe.l2) if recipe.l2 else (torch.optim.AdamW, recipe.decay)
    optimizer = kind(model.parameters(), lr=recipe.learning_rate, weight_decay=decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda u: min(1.0, (u + 1) / 20) * 0.5 * (1 + np.cos(np.pi * u / updates))
    )
    steps = ascend(
        model,
        data,
        optimizer,
        batch_size=recipe.batch,
        generator=generator,
        beta=ramp(recipe.warm_up),
    )
    best = Best(model)
    for step in steps:
        schedule.step()
        if valid is not None and step.update >= recipe.warm_up and step.update % max(updates // 40, 1) == 0:
            best.offer(bound(model, valid))
        if step.update == updates:
            break
    if valid is not None:
        best.restore()
    return best.value


def bound(model: LatentModel, data: Sequences) -> float:
    """What training ascends at β = 1, with the same noise at every call."""
    generator = torch.Generator().manual_seed(0)
    values, _ = evaluate(data, lambda batch: model.objective(batch, generator=generator), 1, 2**12)
    return float(values.sum()) / data.n_frames


ESTIMATORS: dict[str, Callable[..., Score]] = {"elbo": elbo, "iwae": iwae, "smc": smc}


def scored(
    model: LatentModel, data: Data, valid: float, samples: dict[str, int], seconds: float
) -> Iterator[Result]:
    """The named estimators of a trained model on the test part, each with its S."""
    n_parameters = sum(p.numel() for p in model.parameters())
    for name, S in samples.items():
        test = ESTIMATORS[name](model, data.test, torch.Generator().manual_seed(0), S)
        yield Result(valid, test, n_parameters, seconds)


def vae_hmm(
    K: int, Z: int, hidden: tuple[int, ...], recipes: tuple[Recipe, Recipe], S: int
) -> Callable[[Data, int], Iterator[Result]]:
    """From the Bernoulli HMM of as many states, whose notes are the offsets of the states.

    What z may add is learnt along the HMM's most probable paths first, then everything together, from its π and A.
    """

    def run(data: Data, seed: int) -> Iterator[Result]:
        begin = time.process_time()
        hmm, _ = baum_welch(data, K, seed)
        assert isinstance(hmm.emission, Bernoulli)
        known = data.train.replace(labels=most_probable(hmm, data.train)).to(dtype=torch.float32)
        data = data.single()
        torch.manual_seed(seed)
        core = AEVB(D, Z, named("bernoulli"), hidden, activation=nn.ReLU)
        prior = 1 + SMOOTHING.moves / K
        start, moves = hmm.transition.log_initial(), hmm.transition.log_transition()
        chain = Stationary(start.exp().float(), moves.exp().float(), prior, prior)
        notes = hmm.emission.logits.float()
        last = list(core.decoder.children())[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():  # what the decoder adds is to be little at first
            last.weight.mul_(0.3)
            last.bias.zero_()
        model = VAEHMM(core, chain, torch.zeros(K, Z), torch.ones(K, Z), notes, top_k=1)
        train(model, known, None, recipes[0], seed)
        with torch.no_grad():
            chain.initial_logits.copy_(start)
            chain.transition_logits.copy_(moves)
        model.top_k = TOP_K
        valid = train(model, data.train, data.valid, recipes[1], seed)
        yield from scored(model, data, valid, {"elbo": 1, "iwae": S}, time.process_time() - begin)

    return run


def vae_hmm_made(
    K: int, Z: int, hidden: tuple[int, ...], recipe: Recipe, S: int
) -> Callable[[Data, int], Iterator[Result]]:
    """Notes that know the lower ones of their frame, from the estimator's start: a static VAE, then an HMM of its z."""

    def run(data: Data, seed: int) -> Iterator[Result]:
        data, begin = data.single(), time.process_time()
        start = VAEHMMEstimator(
            K, Z, likelihood="made", hidden=hidden, n_pretrain=1500, n_updates=0, validation=0, max_length=None,
            top_k=TOP_K, device="cpu", random_state=seed,
        )  # fmt: skip
        model = start.fit(data.train).module_
        assert isinstance(model, VAEHMM)
        valid = train(model, data.train, data.valid, recipe, seed)
        yield from scored(model, data, valid, {"elbo": 1, "iwae": S}, time.process_time() - begin)

    return run


def most_probable(hmm: HMM, data: Sequences) -> Tensor:
    """States of its Viterbi paths: (N,)."""
    states = torch.zeros(data.n_frames, 1, dtype=torch.int64)
    for batch in data.batches():
        data.unbatch(batch, hmm.viterbi(batch).states[..., None], states)
    return states[:, 0]


class Sizes(NamedTuple):
    """Of a deep Markov model's networks."""

    latent: int = 100
    emission: int = 100  # two layers
    transition: int = 200
    recurrence: int = 600


def dmm(
    inference: str,
    likelihood: str,
    sizes: Sizes,
    recipe: Recipe,
    samples: dict[str, int],
    edges: bool = False,
) -> Callable[[Data, int], Iterator[Result]]:
    """edges: the emission reads the frame before as well."""

    def run(data: Data, seed: int) -> Iterator[Result]:
        data, begin = data.single(), time.process_time()
        torch.manual_seed(seed)
        Z, hidden = sizes.latent, (sizes.emission, sizes.emission)
        family = named(likelihood, **({"n_observed": D} if likelihood == "made" else {}))
        core = AEVB(D, Z, family, hidden, activation=nn.ReLU)
        q = (
            STR(D, Z, sizes.recurrence, cell="relu")
            if inference == "ST-R"
            else Product(D, Z, sizes.recurrence)
        )
        model = DMM(core, Gated(Z, sizes.transition), q, autoregressive=edges)
        valid = train(model, data.train, data.valid, recipe, seed)
        yield from scored(model, data, valid, samples, time.process_time() - begin)

    return run


# -- the table

SMOOTHING = Smoothing(notes=1, moves=2)  # the best on validation of those tried
BOUNDS = {"elbo": 10, "iwae": 100, "smc": 100}
MIDDLE = Sizes(80, 100, 150, 400)  # between SMALL and the paper's, Sizes()
SMALL = Sizes(32, 64, 64, 128)
SLOW = Recipe(22_000, 1e-3, l2=7e-4, warm_up=4000)
FAST = Recipe(4000, 2e-3, decay=0.1, warm_up=1000)
NOTES = Recipe(12_000, 1e-3, l2=8e-4, warm_up=2000)  # for notes that know each other
VAE_HMM = Recipe(1500, 5e-3, warm_up=300, batch=4), Recipe(1000, 3e-3, warm_up=1, batch=4)
VAE_HMM_MADE = Recipe(1000, 2e-3, decay=0.1, warm_up=300)
TOP_K = 8  # states a frame that a VAE-HMM decodes, in training and in its importance bound


def full() -> list[Row]:
    def deep(name: str, q: str, likelihood: str, sizes: Sizes, recipe: Recipe, edges: bool = False) -> Row:
        return Row(f"deep Markov model, {name}", 5, dmm(q, likelihood, sizes, recipe, BOUNDS, edges))

    return [
        Row("independent notes", 1, independent),
        Row("a Markov chain a note", 1, own_past),
        *(Row(f"Bernoulli HMM, {K} states", 5, hmm(K)) for K in (8, 16, 32, 64, 128, 256, 500)),
        *(Row(f"VAE-HMM, {K} states", 5, vae_hmm(K, 16, (100,), VAE_HMM, 20)) for K in (8, 16, 32, 64)),
        *(
            Row(f"VAE-HMM, MADE, {K} states", 5, vae_hmm_made(K, 16, (100,), VAE_HMM_MADE, 20))
            for K in (8, 16, 32, 64)
        ),
        Row("deep Markov model, ST-R", 5, dmm("ST-R", "bernoulli", MIDDLE, SLOW, BOUNDS | {"smc": 1000})),
        deep("product, small", "product", "bernoulli", SMALL, FAST),
        deep("ST-R, MADE, small", "ST-R", "made", SMALL, NOTES),
        deep("ST-R, MADE, frame before, small", "ST-R", "made", SMALL, NOTES, edges=True),
    ]


def quick() -> list[Row]:
    """The same in small."""
    short, small = Recipe(150, 3e-3, warm_up=50), Sizes(16, 32, 32, 64)
    bounds = {"elbo": 4, "iwae": 20, "smc": 20}
    return [
        Row("independent notes", 1, independent),
        Row("a Markov chain a note", 1, own_past),
        *(Row(f"Bernoulli HMM, {K} states", 2, hmm(K)) for K in (8, 64)),
        Row("VAE-HMM, 8 states", 1, vae_hmm(8, 8, (32,), (short, short), 10)),
        Row("deep Markov model, ST-R", 1, dmm("ST-R", "bernoulli", small, short, bounds)),
        Row("deep Markov model, product", 1, dmm("product", "bernoulli", small, short, bounds)),
        Row("deep Markov model with MADE, ST-R", 1, dmm("ST-R", "made", small, short, bounds)),
    ]


COLUMNS = ["model", "seed", "estimator", "test", "per_chorale", "se", "mc", "valid", "parameters", "seconds"]


def record(name: str, seed: int, result: Result) -> dict[str, Any]:
    """Costs, so with the sign turned: se is that of test over chorales, mc its Monte Carlo error."""
    test = result.test
    mc = test.monte_carlo_error / int(test.lengths.sum())
    values = [name, seed, test.kind, -test.per_frame, -test.mean, test.standard_error, mc, -result.valid]
    return dict(zip(COLUMNS, [*values, result.n_parameters, result.seconds], strict=True))


def table(runs: pd.DataFrame) -> str:
    """Markdown: medians over runs, with the range of the first."""
    lines = [
        "| model | estimator | runs | test, nats a frame (range) | a chorale | s.e. | valid | parameters | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, estimator), group in runs.groupby(["model", "estimator"], sort=False):
        middle = group.drop(columns=["model", "estimator"]).median()
        spread = f" ({group.test.min():.3f} to {group.test.max():.3f})" if len(group) > 1 else ""
        lines.append(
            f"| {name} | {estimator} | {len(group)} | {middle.test:.3f}{spread} | {middle.per_chorale:.1f} "
            f"| {middle.se:.2f} | {middle.valid:.3f} | {middle.parameters:,.0f} | {middle.seconds:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few small rows, under two minutes")
    parser.add_argument("--out", type=Path, default=Path("music.csv"), help="a line a run and estimator")
    parser.add_argument("--only", default="", help="a regular expression: rows whose name it finds")
    parser.add_argument("--seeds", type=int, help="at most so many runs of each row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if not options.out.exists():
        options.out.write_text(",".join(COLUMNS) + "\n")
    data = chorales()
    for row in quick() if options.quick else full():
        if not re.search(options.only, row.name):
            continue
        for seed in range(min(row.seeds, options.seeds or row.seeds)):
            done = pd.read_csv(options.out)
            if ((done.model == row.name) & (done.seed == seed)).any():
                continue
            results = [record(row.name, seed, result) for result in row.run(data, seed)]
            with options.out.open("a", newline="") as file:
                csv.DictWriter(file, COLUMNS).writerows(results)
    print(table(pd.read_csv(options.out)))


if __name__ == "__main__":
    main()
