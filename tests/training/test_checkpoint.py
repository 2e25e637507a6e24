"""A run taken up again is the run that was never stopped, to the bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dbn_vae.aevb import AEVB
from dbn_vae.likelihoods import Gaussian
from dbn_vae.models import DMM, VAE, VAEHMM, Model, Product
from dbn_vae.sequences import Sequences
from dbn_vae.training import ascend, checkpoint
from dbn_vae.transitions import Gated, sticky

MODELS: dict[str, Callable[[AEVB], Model]] = {
    "vae": VAE,
    "vae_hmm": lambda core: VAEHMM(core, sticky(2, 1.0, torch.float32), torch.randn(2, 2), torch.ones(2, 2)),
    "dmm": lambda core: DMM(core, Gated(2, 4), Product(3, 2, 4)),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
}
N_SEQUENCES, BATCH = 6, 2
Run = tuple[Model, torch.optim.Optimizer, torch.Generator]


def data() -> Sequences:
    g = torch.Generator().manual_seed(1)
    xs = [torch.randn(n, 3, generator=g).numpy() for n in (4, 6, 3, 5, 2, 6)]
    return Sequences.from_any(xs, dtype=torch.float32)


def begin(model: str, optimizer: str, seed: int) -> Run:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = MODELS[model](AEVB(3, 2, Gaussian(), hidden=(4,)))
    return built, OPTIMIZERS[optimizer](built.parameters()), torch.Generator().manual_seed(seed)


def epochs(run: Run, n: int) -> list[float]:
    model, optimizer, generator = run
    seen = []
    for step in ascend(model, data(), optimizer, batch_size=BATCH, generator=generator):
        seen.append(step.objective)
        if step.update == n * N_SEQUENCES // BATCH:
            return seen
    raise AssertionError


@pytest.mark.some(4)
@pytest.mark.parametrize(
    ("model", "optimizer"), [*((m, "adam") for m in MODELS), *(("vae", o) for o in OPTIMIZERS)]
)
def test_resuming_equals_never_having_stopped(model: str, optimizer: str, tmp_path: Path) -> None:
    through = begin(model, optimizer, 0)
    expected = epochs(through, 4)

    stopped = begin(model, optimizer, 0)
    first = epochs(stopped, 2)
    checkpoint.save(tmp_path / "run", *stopped, {"epoch": 2})
    resumed = begin(model, optimizer, 99)
    assert checkpoint.load(tmp_path / "run", *resumed) == {"epoch": 2}
    second = epochs(resumed, 2)

    assert first + second == expected
    for name, value in through[0].state_dict().items():
        assert torch.equal(value, resumed[0].state_dict()[name]), name
    assert torch.equal(through[2].get_state(), resumed[2].get_state())


def test_a_checkpoint_without_a_step_behind_it_is_whole(tmp_path: Path) -> None:
    fresh, other = begin("vae", "adam", 0), begin("vae", "adam", 1)
    checkpoint.save(tmp_path / "run", *fresh, {})
    checkpoint.load(tmp_path / "run", *other)
    assert epochs(other, 2) == epochs(fresh, 2)


def test_loading_restores_the_learning_rate_that_was_reached(tmp_path: Path) -> None:
    run, other = begin("vae", "adam", 0), begin("vae", "adam", 0)
    run[1].param_groups[0]["lr"] = 3e-5
    checkpoint.save(tmp_path / "run", *run, {})
    checkpoint.load(tmp_path / "run", *other)
    assert other[1].param_groups[0]["lr"] == 3e-5


def test_another_models_checkpoint_is_refused_before_anything_changes(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "run", *begin("vae", "adam", 0), {})
    run = begin("dmm", "adam", 0)
    before = run[2].get_state()
    with pytest.raises(RuntimeError, match="Missing key"):
        checkpoint.load(tmp_path / "run", *run)
    assert torch.equal(run[2].get_state(), before)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    checkpoint.save(path, *begin("vae", "adam", 0), {})
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(path, *begin("vae", "adam", 0))
