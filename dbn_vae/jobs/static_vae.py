"""Train the static auto-encoder on single images, and show what it learns after every epoch.

    log p(x) ≥ −(reconstruction + KL),   reconstruction = −E_q log p(x | z),   KL = KL(q(z | x) ‖ N(0, I))

The three curves are in nats per image, so their scale does not depend on the batch size.  Grey images under
a Bernoulli likelihood are binarised: anew for each minibatch in training, once and for all with a fixed seed
for every evaluation.  The test images are never trained on.

Source: Kingma and Welling (2014), Auto-Encoding Variational Bayes: figure 2 with one hidden layer of tanh.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dbn_vae import grids, plotting, storage
from dbn_vae.aevb import AEVB
from dbn_vae.evaluation.likelihood import Score, evaluate
from dbn_vae.jobs.static_images import Images, as_sequences, binarise_anew, load_images
from dbn_vae.likelihoods import Bernoulli, Gaussian, Likelihood
from dbn_vae.models.vae import VAE
from dbn_vae.report import Section, minus, write_report
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.training import checkpoint
from dbn_vae.training.sgvb import AscentStep, ascend, estimator_a, estimator_b

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVALUATION_SEED = 1  # of the z in every evaluation, so that two evaluations of one model agree
TITLES = {"digits": "8 × 8 digits", "mnist": "MNIST"}
IMPORTANCE_SAMPLES = 500
IMPORTANCE_IMAGES = 1000  # the first of the test images: each costs 500 times what its ELBO costs
LIKELIHOODS: dict[str, type[Likelihood]] = {"bernoulli": Bernoulli, "gaussian": Gaussian}
SETTINGS = (  # what must stay the same when a run is taken up again
    "data",
    "batch_size",
    "hidden_dim",
    "latent_dim",
    "likelihood",
    "estimator",
    "learning_rate",
    "seed",
)


class Bound(NamedTuple):
    """Means over images, in nats per image."""

    reconstruction: float  # −E_q log p(x | z)
    kl: float

    @property
    def total(self) -> float:
        """The negative ELBO."""
        return self.reconstruction + self.kl


class Epoch(NamedTuple):
    train: Bound
    test: Bound


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, choices=tuple(TITLES))
    parser.add_argument("--data-dir", type=Path, help="folder with the MNIST files")
    parser.add_argument("--batch-size", type=positive, default=100)
    parser.add_argument("--epochs", type=positive, default=30)
    parser.add_argument("--hidden-dim", type=positive, default=500)
    parser.add_argument("--latent-dim", type=positive, default=20)
    parser.add_argument("--likelihood", choices=tuple(LIKELIHOODS), default="bernoulli")
    parser.add_argument("--estimator", choices=("A", "B"), default="B", help="of the bound's gradient")
    parser.add_argument("--learning-rate", type=positive_real, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything written")


def run(arguments: argparse.Namespace) -> int:
    """0 when done, 2 when what is asked for cannot be done, 130 when interrupted."""
    try:
        train(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"dbn-vae vae: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"interrupted; what {arguments.out} holds is whole, and --resume goes on from its last epoch",
            file=sys.stderr,
        )
        return 130
    return 0


def train(arguments: argparse.Namespace) -> None:
    images = load_images(arguments)
    model, optimizer, generator = fresh(arguments, images)
    path = arguments.out / "checkpoint.safetensors"
    epochs = resumed(path, arguments, model, optimizer, generator)
    for fact, value in images.facts.items():
        print(f"{fact}: {value}")
    steps = ascend(
        model,
        images.train,
        optimizer,
        batch_size=arguments.batch_size,
        generator=generator,
        objective=estimator_a(model) if arguments.estimator == "A" else estimator_b(model),
        augment=binarise_anew if arguments.likelihood == "bernoulli" else None,
    )
    n_updates = -(-len(images.train) // arguments.batch_size)
    while len(epochs) < arguments.epochs:
        one_epoch(steps, n_updates, f"epoch {len(epochs) + 1}/{arguments.epochs}")
        epochs.append(Epoch(measure(model, images.train_part), measure(model, images.test)))
        print(f"epoch {len(epochs)}: {in_words(epochs[-1])}", flush=True)
        facts = {"settings": settings(arguments), "epochs": epochs}
        checkpoint.save(path, model, optimizer, generator, facts)
        show(arguments.out, model, images, epochs)
    scores = final_scores(model, images.test)
    for score in scores:
        print(f"test, {len(score.lengths):,} images, {score.kind}: {per_image(score)} nats per image")
    pictures = show(arguments.out, model, images, epochs)
    write_page(arguments, images, epochs, scores, list(pictures.values()))


def one_epoch(steps: Iterator[AscentStep], n_updates: int, title: str) -> None:
    """Each training image once, the running mean of the bound beside the bar."""
    mean = 0.0
    with tqdm(islice(steps, n_updates), desc=title, total=n_updates, disable=None) as bar:
        for i, step in enumerate(bar, 1):
            mean += (step.objective - mean) / i
            bar.set_postfix(bound=f"{mean:.2f}", refresh=False)


def fresh(
    arguments: argparse.Namespace, images: Images
) -> tuple[VAE, torch.optim.Optimizer, torch.Generator]:
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
        torch.manual_seed(arguments.seed)
        likelihood = LIKELIHOODS[arguments.likelihood]()
        core = AEVB(images.train.x.shape[1], arguments.latent_dim, likelihood, (arguments.hidden_dim,))
    model = VAE(core)
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.learning_rate, fused=True)
    return model, optimizer, torch.Generator().manual_seed(arguments.seed)


def resumed(
    path: Path,
    arguments: argparse.Namespace,
    model: VAE,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> list[Epoch]:
    """The epochs done so far, everything put back to where they ended."""
    if not arguments.resume:
        if path.exists():
            raise ValueError(
                f"--out {path.parent} holds a run; add --resume to go on, or name another folder"
            )
        return []
    if not path.exists():
        raise ValueError(f"--resume: {path} does not exist; leave --resume out to start a run")
    before = storage.load(path)[1]["facts"]["settings"]
    for name, value in settings(arguments).items():
        if before[name] != value:
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"{flag} {value} does not fit the run in {path.parent}, which has {before[name]}; "
                f"give {flag} {before[name]}, or name another --out"
            )
    facts = checkpoint.load(path, model, optimizer, generator)
    return [Epoch(Bound(*train), Bound(*test)) for train, test in facts["epochs"]]


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in SETTINGS}


@torch.no_grad()
def measure(model: VAE, data: Sequences) -> Bound:
    """The curves' numbers: the KL in closed form, one z an image for the rest."""
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in data.batches(max_frames=1000):
        terms = model.elbo(batch, 1, generator)
        sums += torch.stack([-terms.log_likelihood.sum(), terms.kl.sum()])
    reconstruction, kl = (sums / len(data)).tolist()
    return Bound(reconstruction, kl)


def final_scores(model: VAE, test: Sequences) -> list[Score]:
    """The ELBO of every test image, and of the first of them the ELBO and the importance bound."""
    S, generator = IMPORTANCE_SAMPLES, torch.Generator().manual_seed(EVALUATION_SEED)

    def score(n_images: int, kind: str, value: Callable[[Batch], Tensor]) -> Score:
        part = as_sequences(test.x[:n_images])
        # few images at a time: 50 of them with S samples of z each are 80 MB a tensor
        values, error = evaluate(part, value, repeats=2, max_frames=50)
        return Score(values, part.lengths, kind, error)

    def elbo(batch: Batch) -> Tensor:
        return model.elbo(batch, 10, generator).elbo

    def importance(batch: Batch) -> Tensor:
        return model.importance_bound(batch, S, generator)

    sizes = sorted({len(test), min(IMPORTANCE_IMAGES, len(test))}, reverse=True)
    elbos = [score(n, "ELBO", elbo) for n in sizes]
    return [*elbos, score(sizes[-1], f"importance bound, S = {S}", importance)]


def show(out: Path, model: VAE, images: Images, epochs: list[Epoch]) -> dict[str, tuple[str, "Figure"]]:
    """Write the curves and the pictures; returns the pictures."""
    write_curves(out / "curves.csv", epochs)
    pictures = figures(model, images, epochs)
    for name, (_, figure) in pictures.items():
        plotting.save(figure, out / f"{name}.png")
    return pictures


@torch.no_grad()
def figures(model: VAE, images: Images, epochs: list[Epoch]) -> dict[str, tuple[str, "Figure"]]:
    """Captions and pictures, by the name of their file."""

    def pictures(x: Tensor) -> Any:
        # a Gaussian mean may leave [0, 1]: one such pixel must not turn a whole picture grey
        return x.reshape(-1, *images.shape).clamp(0, 1).numpy()

    def decoded(z: Any) -> Any:
        return pictures(model.core.mean(torch.as_tensor(z, dtype=torch.float32)))

    shown = as_sequences(images.test.x[:30]).batch()
    z = torch.randn(100, model.core.n_latent, generator=torch.Generator().manual_seed(EVALUATION_SEED))
    found = {
        "curves": (
            "The bound and its two parts after each epoch. The total is the negative ELBO.",
            plotting.learning_curves(curves(epochs), ylabel="nats per image", xlabel="epoch"),
        ),
        "reconstructions": (
            "Test images above their reconstructions, the mean of p(x | z) at the mean of q(z | x).",
            grids.reconstruction_grid(pictures(shown.x), pictures(model.reconstruct(shown))),
        ),
        "samples": (
            "New images from random z: the mean of p(x | z), not draws of pixels.",
            grids.image_grid(decoded(z), columns=10),
        ),
    }
    if model.core.n_latent == 2:
        caption = "The mean of p(x | z) over the plane of z, equal areas of equal prior probability."
        found["manifold"] = (caption, grids.manifold_grid(decoded))
    return found


def write_page(
    arguments: argparse.Namespace,
    images: Images,
    epochs: list[Epoch],
    scores: list[Score],
    pictures: list[tuple[str, "Figure"]],
) -> None:
    from pandas import DataFrame

    bounds = DataFrame(
        {
            "lower bound of log p(x)": [score.kind for score in scores],
            "test images": [len(score.lengths) for score in scores],
            "nats per image": [score.per_frame for score in scores],
            "± over images": [score.standard_error for score in scores],
            "± over samples of z": [score.monte_carlo_error / len(score.lengths) for score in scores],
        }
    )
    write_report(
        arguments.out / "report.html",
        title=f"A static auto-encoder of {TITLES[arguments.data]}",
        lead=f"An ELBO of {minus(per_image(scores[0]))} nats per test image after {len(epochs)} epochs.",
        sections=[
            Section(
                "How well it predicts",
                ["Both numbers are lower bounds of the log-likelihood; the importance bound is the tighter."],
                tables=[("Bounds on images never trained on.", bounds)],
            ),
            Section("What it learned", figures=pictures),
        ],
        facts=images.facts
        | {name.replace("_", " "): str(value) for name, value in settings(arguments).items()}
        | {"epochs": str(len(epochs)), "torch": torch.__version__},
    )


def curves(epochs: list[Epoch]) -> dict[str, list[float]]:
    names = {"reconstruction": "reconstruction", "KL": "kl", "total": "total"}
    return {
        f"{shown}, {split}": [getattr(getattr(epoch, split), name) for epoch in epochs]
        for shown, name in names.items()
        for split in Epoch._fields
    }


def write_curves(path: Path, epochs: list[Epoch]) -> None:
    columns = curves(epochs)
    head = ["epoch", *(name.lower().replace(", ", "_") for name in columns)]
    rows = [[i, *numbers] for i, numbers in enumerate(zip(*columns.values(), strict=True), 1)]
    storage.write_bytes(path, "".join(",".join(map(str, row)) + "\n" for row in [head, *rows]).encode())


def in_words(epoch: Epoch) -> str:
    return "; ".join(
        f"{split} reconstruction {b.reconstruction:.2f} + KL {b.kl:.2f} = {b.total:.2f}"
        for split, b in zip(Epoch._fields, epoch, strict=True)
    )


def per_image(score: Score) -> str:
    return f"{score.per_frame:.2f} ± {score.standard_error:.2f}"


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def positive_real(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} must be above 0 and finite")
    return value
