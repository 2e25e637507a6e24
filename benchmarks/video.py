"""States of video: which of nine behaviours a cartoon character shows, frame by frame.

    DBN_VAE_DATA=<folder of sprites_video.npz> python benchmarks/video.py

Clips of one character (Li and Mandt 2018; nine behaviours, 8 frames each) are joined in random order to one video of 72
frames; 120 characters to learn from, 20 others to test on.  Pictures are cropped to where characters ever are and made
four times smaller: (3, 14, 13), values in 0..1.  Nine states are learnt without labels and, apart from that, with the
labels of all frames of a few characters, one clip a behaviour.  Measures are those of evaluation.states on the test
characters, boundaries within one frame; labels of the test characters are read for nothing else.  Baselines: a Gaussian
HMM on principal components of the frames, the same after each video's mean picture was taken off, and for the labels
a logistic regression on the same components.

There is no validation part: docs/benchmarks.md names every setting that was tried.  Where one seed was run no ± is
printed, for there is none.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from dbn_vae import VAEHMM, GaussianHMM, SwitchingDMM
from dbn_vae.datasets import load_sprites
from dbn_vae.evaluation import compare_states

K = 9
ROWS, COLUMNS = slice(8, 64), slice(6, 58)


class Videos(NamedTuple):
    x: np.ndarray  # (B, 72, 3, 14, 13)
    labels: np.ndarray  # (B, 72)

    @property
    def vectors(self) -> np.ndarray:
        return self.x.reshape(len(self.x), 72, -1)


def videos(split: str, n: int, seed: int) -> Videos:
    """The clips of each of n characters, joined in an order of its own."""
    data, rng = load_sprites(split), np.random.default_rng(seed)  # type: ignore[arg-type]
    x = data.video[:, :, ROWS, COLUMNS].astype(np.float32) / 255
    N, T, H, W, C = x.shape
    x = x.reshape(N, T, H // 4, 4, W // 4, 4, C).mean((3, 5)).transpose(0, 1, 4, 2, 3)
    clips, labels = x.reshape(-1, K, *x.shape[1:]), data.labels.reshape(-1, K)
    order = [rng.permutation(K) for _ in clips]
    joined = np.stack([c[o].reshape(-1, *c.shape[2:]) for c, o in zip(clips, order, strict=True)])
    truth = np.stack([np.repeat(y[o], T) for y, o in zip(labels, order, strict=True)])
    return Videos(joined[:n], truth[:n])


def few(labels: np.ndarray, n: int) -> np.ndarray:
    """The labels of the first n characters; −1, unknown, elsewhere."""
    return np.where(np.arange(len(labels))[:, None] < n, labels, -1)


class Components:
    """Principal components of training frames, with each video's mean picture taken off or not."""

    def __init__(self, train: Videos, n: int, center: bool) -> None:
        self.center = center
        self.pca = PCA(n, random_state=0).fit(self.prepared(train).reshape(-1, train.vectors.shape[-1]))

    def prepared(self, v: Videos) -> np.ndarray:
        return v.vectors - v.vectors.mean(1, keepdims=True) if self.center else v.vectors

    def __call__(self, v: Videos) -> np.ndarray:
        x = self.prepared(v)
        return self.pca.transform(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)


def picture(rows: list[np.ndarray], path: Path) -> None:
    """Rows of pictures (n, 3, H, W), four times as large, a white line between rows."""
    from matplotlib.image import imsave

    lines = []
    for row in rows:
        line = np.concatenate(list(np.clip(row, 0, 1).transpose(0, 2, 3, 1)), 1).repeat(4, 0).repeat(4, 1)
        lines += [line, np.ones((2, *line.shape[1:]))]
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, np.concatenate(lines[:-1]))


def show(model: VAEHMM, test: Videos, folder: Path) -> None:
    """Reconstructions; then every state's mean frame for a few w, and one character's moves on others' bodies."""
    steps = np.arange(0, 72, 4)
    latents = model.transform(test.x[:4]).reshape(4, 72, -1)
    shown = model.inverse_transform(latents)
    rows = [r for b in range(3) for r in (test.x[b, steps], shown[b, steps])]
    picture(rows, folder / "video_reconstructions.png")
    if model.n_clip_latent == 0:
        return
    Z = model.n_latent
    rng = np.random.default_rng(0)
    w = rng.normal(size=(12, model.n_clip_latent))
    means = model.module_.given_w.mean.detach().numpy()  # type: ignore[union-attr]
    rows = [model.inverse_transform(np.concatenate([np.repeat(m[None], 12, 0), w], 1)) for m in means]
    picture(rows, folder / "video_generated.png")
    rows = [test.x[0, steps]]
    for b in range(1, 4):
        mixed = np.concatenate([latents[0, steps, :Z], latents[b, steps, Z:]], 1)
        rows += [model.inverse_transform(mixed)]
    picture(rows, folder / "video_transfer.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="few characters and steps: under 2 minutes, no result"
    )
    parser.add_argument("--labelled", type=int, default=5, help="characters whose labels are known")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--models", nargs="*", help="only models whose name holds one of these words")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the last VAE-HMM with w")
    options = parser.parse_args()
    torch.set_num_threads(1)
    n_train, n_test = (12, 3) if options.quick else (120, 20)
    seeds = 1 if options.quick else options.seeds
    train, test = videos("train", n_train, 0), videos("test", n_test, 1)
    known = few(train.labels, options.labelled)
    updates = 60 if options.quick else 1

    def conv(**options_: object) -> dict[str, object]:
        return {
            "hidden": (16, 32),
            "learning_rate": 2e-3,
            "batch_size": 6,
            "max_length": 24,
            "validation": 0.0,
            "n_pretrain": 3000 // updates,
            "n_updates": 300 // updates,
            "warm_up": 100 // updates,
            **options_,
        }

    Model = Callable[[int], object]
    deep: dict[str, Model] = {
        "VAE-HMM, convolutions, Z 24": lambda seed: VAEHMM(K, 24, random_state=seed, **conv()),  # type: ignore[arg-type]
        "VAE-HMM, convolutions, Z 8 a frame, W 16 a video": lambda seed: VAEHMM(
            K, 8, n_clip_latent=16, random_state=seed, **conv()  # type: ignore[arg-type]
        ),
        "VAE-HMM, convolutions, Z 24, label_weight 100": lambda seed: VAEHMM(
            K, 24, label_weight=100, random_state=seed, **conv()  # type: ignore[arg-type]
        ),
        "VAE-HMM, convolutions, Z 8 a frame, W 16 a video, label_weight 100": lambda seed: VAEHMM(
            K, 8, n_clip_latent=16, label_weight=100, random_state=seed, **conv()  # type: ignore[arg-type]
        ),
        "switching DMM, convolutions, Z 8": lambda seed: SwitchingDMM(
            K, 8, random_state=seed, **conv()  # type: ignore[arg-type]
        ),
    }  # fmt: skip
    wanted = options.models or [""]
    print(
        f"{n_train} characters to learn from, {n_test} to test on, {options.labelled} labelled where labels are"
    )
    print(f"{K} states, frames {train.x.shape[2:]}; {seeds} seeds; torch {torch.__version__}\n")
    print("| model | labels | matched accuracy | NMI | ARI | boundary F1 | states in use | seconds to fit |")
    print("|---|---|---|---|---|---|---|---|")

    def line(name: str, labels: str, paths: list[np.ndarray], seconds: list[float]) -> None:
        truth, lengths = test.labels.ravel(), [72] * n_test
        reports = np.array([compare_states(truth, p, lengths, tolerance=1) for p in paths])
        spread = [f" ± {s:.3f}" if len(paths) > 1 else "" for s in reports.std(0)]
        cells = [f"{m:.3f}{s}" for m, s in zip(reports.mean(0), spread, strict=True)]
        cells = [cells[i] for i in (0, 2, 3, 4)] + [f"{reports[:, 5].mean():.1f}"]
        if labels == "some":  # names are known then: no matching
            cells[0] += f" (unmatched {np.mean([(p == truth).mean() for p in paths]):.3f})"
        print(f"| {name} | {labels} | " + " | ".join(cells) + f" | {np.mean(seconds):.0f} |", flush=True)

    rng = np.random.default_rng(0)
    line("eight frames at a time, at random", "none", [np.repeat(rng.integers(K, size=9 * n_test), 8)], [0])
    for center in (False, True):
        if not any(w in "GaussianHMM" for w in wanted):
            break
        features = Components(train, 24, center)
        a, b = features(train), features(test)
        what = "24 principal components" + (", mean picture of the video taken off" if center else "")
        for covariance in ("diag", "full"):
            for labels in (None, known):
                paths, seconds = [], []
                for seed in range(seeds):
                    began = time.perf_counter()
                    hmm = GaussianHMM(K, covariance, n_init=3, n_iter=100, min_covar=1e-3, random_state=seed)
                    paths.append(hmm.fit(a, labels=labels).predict(b))
                    seconds.append(time.perf_counter() - began)
                line(
                    f"GaussianHMM, {covariance}, {what}", "none" if labels is None else "some", paths, seconds
                )
        began = time.perf_counter()
        rows = known.ravel() >= 0
        logistic = LogisticRegression(max_iter=1000).fit(a.reshape(-1, 24)[rows], known.ravel()[rows])
        path = logistic.predict(b.reshape(-1, 24))
        line(f"logistic regression, {what}", "some", [path], [time.perf_counter() - began])

    for name, make in deep.items():
        if not any(w in name for w in wanted):
            continue
        for labels in (known,) if "label_weight" in name else (None, known):
            paths, seconds = [], []
            for seed in range(seeds):
                began = time.perf_counter()
                model = make(seed)
                model.fit(train.x, labels=labels)  # type: ignore[attr-defined]
                seconds.append(time.perf_counter() - began)
                paths.append(model.predict(test.x))  # type: ignore[attr-defined]
            line(name, "none" if labels is None else "some", paths, seconds)
            if options.pictures and isinstance(model, VAEHMM) and model.n_clip_latent:
                show(model, test, options.pictures)


if __name__ == "__main__":
    main()
