"""Frames per second of training a deep Markov model, ours beside Pyro's example of the same network sizes.

    DBN_VAE_DATA=<folder of jsb_chorales.npz> python benchmarks/dmm_speed.py

The model is that of Pyro's examples/dmm.py, which follows Krishnan, Shalit and Sontag (2017): z 100, gated transition
200, emission 100-100-88 Bernoulli, combiner and backward ReLU recurrence 600, batches of 20 chorales, one sample of
z.  Ours takes the KL in closed form, Pyro's by sampling; both clip the gradient and take a step of Adam.  Without the
data set the frames are random, of lengths like it.  Runs alternate on the same batches; medians are printed, of wall
time and of the process's CPU time.  Pyro is no part of the package: it is measured where it is installed.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dbn_vae.aevb import AEVB
from dbn_vae.datasets import load_jsb
from dbn_vae.likelihoods import Bernoulli
from dbn_vae.models import DMM, STR, Product
from dbn_vae.nn import MLP
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.transitions import Gated

D, Z, EMISSION, TRANSITION, RNN, BATCH = 88, 100, 100, 200, 600, 20


def chorales() -> tuple[Sequences, str]:
    try:
        rolls, source = [r.astype(np.float32) for r in load_jsb("train")], "JSB chorales, training part"
    except FileNotFoundError:
        rng = np.random.default_rng(0)
        lengths = rng.integers(25, 161, 229)
        rolls = [(rng.random((n, D)) < 0.045).astype(np.float32) for n in lengths]
        source = "random frames"
    return Sequences.from_any(rolls, dtype=torch.float32), source


def ours(q: nn.Module) -> Callable[[Batch], None]:
    """One update by batch; the encoder of the core, which structured inference does not use, is not counted in."""
    core = AEVB(D, Z, Bernoulli(), hidden=(EMISSION, EMISSION), activation=nn.ReLU)
    model = DMM(core, Gated(Z, TRANSITION), q)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, betas=(0.96, 0.999), fused=True)

    def update(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        (-model.objective(batch).sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    return update


def pyros() -> Callable[[Batch], None]:
    """The same model in plain Pyro.  Raises ImportError where Pyro is not installed."""
    import pyro
    import pyro.distributions as dist
    from pyro import poutine
    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import ClippedAdam

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emitter = MLP(Z, (EMISSION, EMISSION), D, nn.ReLU)
            self.transition = Gated(Z, TRANSITION)
            self.rnn = nn.RNN(D, RNN, nonlinearity="relu", batch_first=True)
            self.combine, self.loc, self.raw = nn.Linear(Z, RNN), nn.Linear(RNN, Z), nn.Linear(RNN, Z)
            self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(Z)), nn.Parameter(torch.zeros(Z))

        def model(self, x: Tensor, packed: Any, mask: Tensor, lengths: Tensor) -> None:
            pyro.module("dmm", self)
            z = self.z_0.expand(len(x), -1)
            with pyro.plate("sequences", len(x)):
                for t in pyro.markov(range(x.shape[1])):
                    seen, p = mask[:, t : t + 1], self.transition(z)
                    with poutine.scale(scale=1.0):  # where the example anneals the KL
                        z = pyro.sample(f"z_{t}", dist.Normal(p.mean, p.scale).mask(seen).to_event(1))
                    emission = dist.Bernoulli(torch.sigmoid(self.emitter(z))).mask(seen).to_event(1)
                    pyro.sample(f"x_{t}", emission, obs=x[:, t])

        def guide(self, x: Tensor, packed: Any, mask: Tensor, lengths: Tensor) -> None:
            pyro.module("dmm", self)
            out, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
            back = (lengths[:, None] - 1 - torch.arange(x.shape[1])).clamp_min(0)
            future = out.gather(1, back[..., None].expand_as(out))
            z = self.z_q_0.expand(len(x), -1)
            with pyro.plate("sequences", len(x)):
                for t in pyro.markov(range(x.shape[1])):
                    h = 0.5 * (torch.tanh(self.combine(z)) + future[:, t])
                    q = dist.Normal(self.loc(h), nn.functional.softplus(self.raw(h)))
                    with poutine.scale(scale=1.0):
                        z = pyro.sample(f"z_{t}", q.mask(mask[:, t : t + 1]).to_event(1))

    deep = Deep()
    settings = {"lr": 3e-4, "betas": (0.96, 0.999), "clip_norm": 10.0, "lrd": 0.99996, "weight_decay": 2.0}
    svi = SVI(deep.model, deep.guide, ClippedAdam(settings), Trace_ELBO())

    def update(batch: Batch) -> None:
        order = batch.lengths.argsort(descending=True)
        x, lengths = batch.x[order], batch.lengths[order]
        reverse = [torch.cat([row[:n].flip(0), row[n:]]) for row, n in zip(x, lengths, strict=True)]
        packed = nn.utils.rnn.pack_padded_sequence(torch.stack(reverse), lengths, batch_first=True)
        svi.step(x, packed, batch.mask[order], lengths)

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--updates", type=int, default=12, help="timed updates of each side (2 more are not timed)"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data, source = chorales()
    sides = {
        "ours, ST-R with the ReLU recurrence": ours(STR(D, Z, RNN, cell="relu")),
        "ours, ST-R with a GRU": ours(STR(D, Z, RNN)),
        "ours, product with a GRU": ours(Product(D, Z, RNN)),
    }
    try:
        sides["Pyro"] = pyros()
    except ImportError:
        print("Pyro is not installed here: `pip install pyro-ppl` to see it beside ours")
    generator = torch.Generator().manual_seed(0)
    batches: list[Batch] = []
    while len(batches) < options.updates + 2:
        batches += [b for b in data.shuffled(BATCH, generator) if len(b.lengths) == BATCH]
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for i, batch in enumerate(batches[: options.updates + 2]):
        frames = int(batch.lengths.sum())
        for name, update in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            update(batch)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if i >= 2:
                rates[name].append((frames / wall, frames / cpu))
    print(f"{source}; {options.threads} threads, torch {torch.__version__}, {options.updates} updates each\n")
    print(
        "| model | frames a second | frames a CPU second | × Pyro, wall | × Pyro, CPU |\n|---|---|---|---|---|"
    )
    pyro = rates.get("Pyro")
    for name, rate in rates.items():
        middle = [statistics.median(r) for r in zip(*rate, strict=True)]
        times = ["—", "—"]
        if pyro is not None:  # update by update: both sides saw the same batch a moment apart
            pairs = [(a / c, b / d) for (a, b), (c, d) in zip(rate, pyro, strict=True)]
            times = [f"{statistics.median(p):.1f}" for p in zip(*pairs, strict=True)]
        print(f"| {name} | {middle[0]:,.0f} | {middle[1]:,.0f} | {times[0]} | {times[1]} |")


if __name__ == "__main__":
    main()
