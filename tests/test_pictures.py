"""Frames that are pictures (C, H, W): convolutions inside, the same verbs outside."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.testing import assert_close

import dbn_vae
from dbn_vae import VAE, VAEHMM, DeepMarkovModel, Sequences, SwitchingDMM, aevb
from dbn_vae import nn as networks
from dbn_vae.aevb import AEVB
from dbn_vae.likelihoods import MADE, Bernoulli, Categorical, Gaussian
from dbn_vae.nn import MLP, Conv, Deconv

RNG = np.random.default_rng(0)
C, H, W = FRAME = (2, 7, 5)
D = math.prod(FRAME)
LENGTHS = [5, 2, 6]
CLIPS = [RNG.random((n, *FRAME)) for n in LENGTHS]
SHORT = {"hidden": (4, 3), "n_updates": 4, "warm_up": 1, "random_state": 0, "n_samples": 4}
EVERY = {
    "VAE": VAE(2, **SHORT),
    "VAEHMM": VAEHMM(2, 2, n_pretrain=3, **SHORT),
    "VAEHMM with w": VAEHMM(2, 2, n_clip_latent=2, n_pretrain=3, **SHORT),
    "DeepMarkovModel": DeepMarkovModel(2, n_pretrain=3, **SHORT),
    "SwitchingDMM": SwitchingDMM(2, 2, n_pretrain=3, **SHORT),
}
every_model = pytest.mark.parametrize("name", EVERY)


@pytest.fixture(scope="module")
def fitted():
    return {name: model.fit(CLIPS) for name, model in EVERY.items()}


# Networks


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (2, 3), (5, 4), (8, 8), (9, 13)])
@pytest.mark.parametrize("channels", [(), (3,), (3, 4), (3, 4, 2)])
def test_every_height_and_width_comes_back(shape, channels) -> None:
    frame = (2, *shape)
    D = math.prod(frame)
    code = Conv(frame, channels, 6)(torch.randn(3, 4, D))
    assert code.shape == (3, 4, 6)
    assert Deconv(6, channels[::-1], frame)(code).shape == (3, 4, D)


def centre_taps(network: nn.Module) -> list[nn.Linear]:
    """The linear maps of a network of pictures of one pixel: of a kernel only the middle counts."""
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            weight = layer.weight
        elif isinstance(layer, nn.Conv2d):
            weight = layer.weight[:, :, 1, 1]
        elif isinstance(layer, nn.ConvTranspose2d):
            weight = layer.weight[:, :, 1, 1].T
        else:
            continue
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = weight.detach(), layer.bias.detach()
        found.append(linear)
    return found


@pytest.mark.parametrize("direction", ["in", "out"])
def test_of_one_pixel_it_is_an_mlp_of_the_channels(direction) -> None:
    x = torch.randn(9, 3)
    if direction == "in":
        network, mlp = Conv((3, 1, 1), (5, 4), 2), MLP(3, (5, 4), 2, nn.ReLU)
    else:
        network, mlp = Deconv(3, (4, 5), (2, 1, 1)), MLP(3, (4, 5), 2, nn.ReLU)
    for ours, theirs in zip([m for m in mlp if isinstance(m, nn.Linear)], centre_taps(network), strict=True):
        ours.load_state_dict(theirs.state_dict())
    assert_close(network(x), mlp(x))


def test_what_moves_in_the_picture_moves_in_the_maps() -> None:
    """A blob moved by 4 pixels moves by one after two layers: rows stay rows, and channels channels."""
    network = Conv((2, 24, 16), (3, 4), 1)
    maps = network.layers[:4]
    picture = torch.zeros(1, 2, 24, 16)
    picture[0, :, 9:12, 6:8] = torch.randn(2, 3, 2)
    moved = picture.roll((4, 0), (2, 3))
    background = maps(torch.zeros_like(picture))
    inside = (slice(None), slice(None), slice(1, 5), slice(1, 3))
    below = (slice(None), slice(None), slice(2, 6), slice(1, 3))
    a, b = maps(picture) - background, maps(moved) - background
    assert a[inside].abs().max() > 0
    assert_close(a[inside], b[below])
    assert_close(
        network(picture.flatten(1)), network.layers(picture)
    )  # a vector is read in the order of its picture
    back = Deconv(3, (4, 3), (2, 24, 16))
    assert_close(back(torch.ones(1, 3)).view(1, 2, 24, 16), back.layers(torch.ones(1, 3)))


def test_pieces_add_nothing(monkeypatch) -> None:
    core = AEVB(FRAME, 2, Gaussian(shared=True), (4, 3), nn.ReLU)
    x, observed = torch.randn(3, 4, 1, D), torch.rand(3, 4, 1, D) < 0.8
    z = torch.randn(6, 3, 4, 2, 2)
    whole = core.log_likelihood(x, observed, z)
    evidence = core.evidence(x, observed)
    monkeypatch.setattr(networks, "PICTURES_AT_ONCE", 5)
    monkeypatch.setattr(aevb, "MAX_VALUES", 3 * D)
    with torch.no_grad():
        assert_close(core.log_likelihood(x, observed, z), whole)
        assert_close(core.evidence(x, observed), evidence)


@pytest.mark.parametrize("likelihood", [MADE(D), Categorical(4)])
def test_outputs_that_are_no_maps_are_refused(likelihood) -> None:
    with pytest.raises(ValueError, match=f"{likelihood.name} likelihood does not go with pictures"):
        AEVB(FRAME, 2, likelihood)


# Verbs


@every_model
def test_gradients_reach_every_weight(fitted, name) -> None:
    model = fitted[name]
    batch = model.prepared(model.sequences(CLIPS)).batch()
    model.module_.zero_grad()
    model.module_.objective(batch, generator=torch.Generator().manual_seed(0)).sum().backward()
    silent = [n for n, p in model.module_.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@every_model
def test_frames_come_back_as_frames(fitted, name) -> None:
    model, n = fitted[name], sum(LENGTHS)
    latents = model.transform(CLIPS)
    assert model.reconstruct(CLIPS).shape == (n, *FRAME)
    assert model.inverse_transform(latents).shape == (n, *FRAME)
    assert model.sample(3, random_state=1)[0].shape == (3, *FRAME)
    assert_allclose(model.inverse_transform(latents), model.reconstruct(CLIPS), atol=1e-5)


@every_model
def test_no_clip_depends_on_its_company(fitted, name) -> None:
    model = fitted[name]
    alone = [model.transform([clip]) for clip in CLIPS]
    assert_allclose(model.transform(CLIPS), np.concatenate(alone), atol=1e-5)
    if hasattr(model, "predict_proba"):
        alone = [model.predict_proba([clip]) for clip in CLIPS]
        assert_allclose(model.predict_proba(CLIPS), np.concatenate(alone), atol=1e-4)


@every_model
def test_forms_of_x_say_the_same(fitted, name) -> None:
    model = fitted[name]
    padded = np.zeros((3, 6, *FRAME))
    for b, clip in enumerate(CLIPS):
        padded[b, : len(clip)] = clip
    expected = model.transform(CLIPS)
    assert_allclose(model.transform(np.concatenate(CLIPS), LENGTHS), expected, atol=1e-5)
    assert_allclose(model.transform(padded, LENGTHS), expected, atol=1e-5)
    assert_allclose(model.transform(Sequences.from_any(CLIPS)), expected, atol=1e-5)


def test_a_stack_of_pictures_is_a_set_of_frames() -> None:
    pictures = np.concatenate(CLIPS)
    stacked, clips = VAE(2, **SHORT).fit(pictures), VAE(2, **SHORT).fit(CLIPS)
    assert_allclose(stacked.transform(pictures), clips.transform(CLIPS), atol=1e-5)
    assert len(stacked.evaluate(pictures).per_sequence) == len(pictures)


@every_model
def test_files_bring_all_back(fitted, name, tmp_path) -> None:
    model = fitted[name]
    model.save(tmp_path / "m.dbn")
    again = dbn_vae.load(tmp_path / "m.dbn")
    assert again.score(CLIPS) == model.score(CLIPS)
    assert (again.reconstruct(CLIPS) == model.reconstruct(CLIPS)).all()


def test_a_live_filter_takes_pictures(fitted) -> None:
    model = fitted["VAEHMM"]
    stream = model.filter_state()
    seen = [stream.update(frame) for frame in CLIPS[0]]
    assert_allclose(seen, model.filter([CLIPS[0]]), atol=1e-4)


# Missing data


@every_model
def test_what_is_missing_is_left_out(fitted, name) -> None:
    """Any number behind a hole, and padding made of holes, change nothing; holes are filled in."""
    model = fitted[name]
    holes = [clip.copy() for clip in CLIPS]
    holes[0][1] = np.nan
    holes[2][:, :, 2:4] = np.nan
    assert np.isfinite(model.reconstruct(holes)).all()
    assert np.isfinite(model.score(holes))
    data = model.prepared(model.sequences(holes))
    other = data.replace(x=torch.where(data.observed, data.x, 0.0))
    assert torch.equal(data.x, other.x)
    z = torch.randn(4, data.n_frames, 2 + 2 * (name == "VAEHMM with w"))
    core = model.module_.core
    entry = core.decode(z).log_prob(data.x)
    assert_close(core.log_likelihood(data.x, data.observed, z), entry.where(data.observed, 0.0).sum(-1))


def test_an_unseen_frame_is_a_draw_of_the_prior(fitted) -> None:
    model = fitted["VAE"]
    assert (model.transform(np.full((2, *FRAME), np.nan)) == 0).all()
    assert model.score(np.full((2, *FRAME), np.nan)) == pytest.approx(0, abs=1e-5)


# Units


def test_bytes_are_the_same_pictures_in_other_units() -> None:
    """p(255 x) = p(x) / 255 an entry, and everything inside is scaled by channel."""
    bytes_ = [np.round(255 * clip * [[[0.2]], [[1.0]]]).astype(np.uint8) for clip in CLIPS]
    floats = [b / 255 for b in bytes_]
    a, b = (VAEHMM(2, 2, n_pretrain=3, **SHORT).fit(X) for X in (bytes_, floats))
    n = sum(LENGTHS) * D
    assert a.score(bytes_) == pytest.approx(b.score(floats) - n * math.log(255), abs=0.1)
    assert_allclose(a.reconstruct(bytes_) / 255, b.reconstruct(floats), atol=1e-4)
    assert_allclose(b.center_.reshape(FRAME).mean((1, 2)), np.concatenate(floats).mean((0, 2, 3)), atol=1e-5)
    assert len(b.scale_.reshape(FRAME)[0].unique()) == 1


def test_pixels_of_one_gaussian_share_its_scale() -> None:
    core = AEVB(FRAME, 2, Gaussian(shared=True), (4,))
    scale = core.decode(torch.randn(6, 2)).scale.detach()
    assert_close(scale, scale[0, 0].expand(6, D))
    before = float(scale[0, 0])
    core.likelihood.raw_scale.data += 1
    assert float(core.decode(torch.randn(1, 2)).scale.detach()[0, 0]) > before


@pytest.mark.parametrize(
    ("likelihood", "X", "match"),
    [
        ("bernoulli", (255 * CLIPS[0]).astype(np.uint8), "which a Bernoulli likelihood cannot give"),
        ("bernoulli", CLIPS[0], "continuous-bernoulli"),
        ("continuous-bernoulli", (255 * CLIPS[0]).astype(np.uint8), "X / 255 for bytes"),
        ("gaussian", RNG.random((4, 16, 16, 3)), r"np.moveaxis\(X, -1, -3\)"),
        ("gaussian", [RNG.random((4, 16, 16))], r"X\[..., None, :, :\]"),
        ("made", (CLIPS[0] > 0.5).astype(float), "made likelihood does not go with pictures"),
    ],
)
def test_pictures_that_cannot_be_meant(likelihood, X, match) -> None:
    with pytest.raises(ValueError, match=match):
        VAE(2, likelihood=likelihood, **SHORT).fit(X)


def test_a_fitted_model_knows_the_shape_of_its_frames(fitted) -> None:
    with pytest.raises(
        ValueError, match=r"frames of shape \(2, 5, 7\); this model was fitted to \(2, 7, 5\)"
    ):
        fitted["VAEHMM"].predict(CLIPS[0].swapaxes(2, 3))
    with pytest.raises(ValueError, match=r"this model was fitted to \(2, 7, 5\)"):
        fitted["VAEHMM"].predict(CLIPS[0].reshape(5, -1))


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous-bernoulli", "student-t"])
def test_other_likelihoods_of_pixels(likelihood) -> None:
    X = [(clip > 0.5).astype(float) if likelihood == "bernoulli" else clip for clip in CLIPS]
    model = VAEHMM(2, 2, likelihood=likelihood, n_pretrain=3, **SHORT).fit(X)
    assert np.isfinite(model.score(X))
    x, _ = model.sample(40, random_state=0)
    if likelihood != "student-t":
        assert x.min() >= 0 and x.max() <= 1
        assert isinstance(model.module_.core.likelihood, Bernoulli) == (likelihood == "bernoulli")


# What it is for


def blobs(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A soft blob somewhere on 15 × 11 pixels: pictures (n, 1, 15, 11) and places (n, 2)."""
    place = np.stack([rng.uniform(2, 12, n), rng.uniform(2, 8, n)], 1)
    y, x = np.mgrid[:15, :11]
    distance = (y - place[:, :1, None]) ** 2 + (x - place[:, 1:, None]) ** 2
    return np.exp(-distance / 3)[:, None], place


@pytest.mark.thorough  # that convolutions learn, the example of videos shows
def test_latents_know_where_a_blob_is() -> None:
    rng = np.random.default_rng(0)
    X, place = blobs(1500, rng)
    new, where = blobs(300, rng)
    model = VAE(2, hidden=(8, 16), n_updates=400, learning_rate=5e-3, random_state=0).fit(X)

    def quadratic(z: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(z)), z, z**2, z[:, :1] * z[:, 1:], z**3])

    fit, *_ = np.linalg.lstsq(quadratic(model.transform(X)), place, rcond=None)
    found = quadratic(model.transform(new)) @ fit
    r = [np.corrcoef(found[:, i], where[:, i])[0, 1] for i in (0, 1)]
    assert min(r) > 0.95, r
