"""Data sets: the bytes are the right ones, the numbers obey the facts and rules the docs state.

The generators and the data that ships with the dependencies are always tested. The tests of files
kept outside the project skip unless the folder in DBN_VAE_DATA has them.
"""

import gzip
import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbn_vae import datasets
from dbn_vae.datasets.bouncing_ball import HEIGHT
from dbn_vae.datasets.files import locate, read_columns
from dbn_vae.datasets.mnist import read_idx
from dbn_vae.datasets.three_mode import DECAY, MAX_DURATION, MIN_DURATION, NOISE, PERIODS

MD5_HELLO = hashlib.md5(b"hello").hexdigest()


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without data: both environment variables name empty folders under this one."""
    monkeypatch.setenv("DBN_VAE_DATA", str(tmp_path / "kept"))
    monkeypatch.setenv("DBN_VAE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def local(name: str) -> None:
    """Skip, with the reason, unless the file is kept on this machine."""
    folder = os.environ.get("DBN_VAE_DATA")
    if not folder:
        pytest.skip("DBN_VAE_DATA is not set: no real data on this machine")
    if not (Path(folder) / name).exists():
        pytest.skip(f"DBN_VAE_DATA={folder} has no {name}")


# Finding


def test_places_are_tried_in_order(nowhere: Path) -> None:
    cached = write(nowhere / "cache" / "a.bin", b"cache")
    assert locate("a.bin") == cached
    kept = write(nowhere / "kept" / "a.bin", b"kept")
    assert locate("a.bin") == kept
    given = write(nowhere / "given" / "a.bin", b"given")
    assert locate("a.bin", data_dir=nowhere / "given") == given
    assert locate("a.bin", data_dir=nowhere / "empty") == kept


def test_a_file_in_a_folder_is_also_found_without_the_folder(nowhere: Path) -> None:
    flat = write(nowhere / "kept" / "a.gz", b"")
    assert locate("mnist/a.gz") == flat
    nested = write(nowhere / "kept" / "mnist" / "a.gz", b"")
    assert locate("mnist/a.gz") == nested


def test_a_missing_file_is_reported_with_places_and_remedy(nowhere: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        locate("absent.npz", data_dir=nowhere / "given")
    for part in ["absent.npz", "given", "kept", "cache", "as data_dir", "set DBN_VAE_DATA"]:
        assert part in str(raised.value), part
    assert str(nowhere / "kept") in str(raised.value)


def test_a_found_file_with_another_md5_is_refused(nowhere: Path) -> None:
    path = write(nowhere / "kept" / "a.bin", b"hello")
    assert locate("a.bin", md5=MD5_HELLO) == path
    path.write_bytes(b"hellO")
    with pytest.raises(ValueError, match=MD5_HELLO):
        locate("a.bin", md5=MD5_HELLO)


def test_a_column_that_is_missing_is_named(nowhere: Path) -> None:
    write(nowhere / "kept" / "a.csv", b"year,count\n1900,13\n1901,14\n")
    (counts,) = read_columns("a.csv", "count")
    np.testing.assert_array_equal(counts, [13.0, 14.0])
    with pytest.raises(ValueError, match=r"has no flow; it holds year, count"):
        read_columns("a.csv", "flow")


# Downloading


def test_a_download_fills_the_cache_once(nowhere: Path) -> None:
    source = write(nowhere / "server" / "a.bin", b"hello")
    path = locate("sub/a.bin", url=source.as_uri(), md5=MD5_HELLO)
    assert path == nowhere / "cache" / "sub" / "a.bin"
    assert path.read_bytes() == b"hello"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]
    source.unlink()
    assert locate("sub/a.bin", url=source.as_uri(), md5=MD5_HELLO) == path


def test_a_download_with_another_md5_leaves_nothing_behind(nowhere: Path) -> None:
    source = write(nowhere / "server" / "a.bin", b"not hello")
    with pytest.raises(ValueError, match="discarded"):
        locate("a.bin", url=source.as_uri(), md5=MD5_HELLO)
    assert list((nowhere / "cache").iterdir()) == []


def test_a_download_that_breaks_off_leaves_nothing_behind(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(url: str, path: Path) -> None:
        path.write_bytes(b"hel")
        raise TimeoutError("the read operation timed out")

    monkeypatch.setattr("dbn_vae.datasets.files._fetch", broken)
    with pytest.raises(OSError, match=r"cannot download http://example\.org/a\.bin.*by hand"):
        locate("a.bin", url="http://example.org/a.bin", md5=MD5_HELLO)
    assert list((nowhere / "cache").iterdir()) == []


def test_an_unverifiable_download_is_refused(nowhere: Path) -> None:
    source = write(nowhere / "server" / "a.bin", b"hello")
    with pytest.raises(ValueError, match="without md5"):
        locate("a.bin", url=source.as_uri())
    assert not (nowhere / "cache").exists()


def test_mnist_without_download_does_not_reach_for_the_network(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbn_vae.datasets.files._fetch", lambda url, path: pytest.fail("fetched"))
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        datasets.load_mnist("train", download=False)


# IDX


def idx(*dims: int, magic: bytes = b"\0\0\x08") -> bytes:
    return magic + bytes([len(dims)]) + struct.pack(f">{len(dims)}I", *dims)


def test_idx_is_row_major_with_big_endian_dimensions(tmp_path: Path) -> None:
    content = idx(300, 2, 3) + bytes(i % 251 for i in range(1800))
    values = read_idx(write(tmp_path / "a.gz", gzip.compress(content)))
    assert values.shape == (300, 2, 3)
    assert values.dtype == np.uint8
    for i, j, k in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (299, 1, 2)]:
        assert values[i, j, k] == (6 * i + 3 * j + k) % 251, (i, j, k)
    values[0, 0, 0] = 7  # a result belongs to the caller, hence is writeable


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (gzip.compress(idx(2, magic=b"\0\0\x0d") + bytes(8)), "0x00000d01"),
        (gzip.compress(b"\0"), "magic number"),
        (gzip.compress(idx(2, 2, 2)[:10]), "ends within its header of 3 dimensions"),
        (gzip.compress(idx(2, 2) + bytes(3)), "holds 3"),
        (gzip.compress(idx(2, 2) + bytes(5)), "holds 5"),
        (gzip.compress(idx(2, 2) + bytes(4))[:-9], "not a whole gzip file"),
        (idx(2, 2) + bytes(4), "not a whole gzip file"),
    ],
    ids=["type", "short", "header", "too few", "too many", "cut gzip", "no gzip"],
)
def test_a_bad_idx_file_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_idx(write(tmp_path / "a.gz", content))


# What ships with the dependencies


def test_goog_features_rebuild_the_prices() -> None:
    goog = datasets.load_goog()
    assert goog.dates.shape == goog.price.shape == (1046,)
    assert goog.features.shape == (1046, len(goog.names)) == (1046, 3)
    assert goog.dates.dtype == np.dtype("datetime64[D]")
    assert np.all(np.diff(goog.dates) > np.timedelta64(0, "D"))
    assert (goog.dates[0], goog.dates[-1]) == (
        np.datetime64("2004-08-20"),
        np.datetime64("2008-10-14"),
    )
    assert np.isfinite(goog.features).all()
    # 100.34 was the close of the first day, 19 August 2004, which has no features of its own.
    rebuilt = 100.34 * np.exp(np.cumsum(goog.features[:, 0]))
    np.testing.assert_allclose(rebuilt, goog.price, rtol=1e-12)


def test_goog_range_and_volume_are_those_of_the_day() -> None:
    # 20 August 2004: high 109.08, low 100.50, volume 11,428,600 after 22,351,900 the day before.
    _, log_range, log_volume_change = datasets.load_goog().features[0]
    assert log_range == pytest.approx(np.log(np.log(109.08 / 100.50)), rel=1e-12)
    assert log_volume_change == pytest.approx(np.log(11_428_600 / 22_351_900), rel=1e-12)


def test_digits_are_sixteenths() -> None:
    images, labels = datasets.load_digits()
    assert images.shape == (1797, 8, 8)
    assert (images.dtype, labels.dtype) == (np.float64, np.int64)
    assert (images.min(), images.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(images * 16, np.round(images * 16))
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


# Generators

GENERATORS = [datasets.bouncing_ball, datasets.three_mode]


@pytest.mark.parametrize("generate", GENERATORS)
def test_a_seed_fixes_the_data(generate: Callable[..., Any]) -> None:
    x, states = generate(4, 30, random_state=3)
    assert x.shape == (4, 30, 1)
    assert states.shape == (4, 30)
    assert (x.dtype, states.dtype) == (np.float64, np.int64)
    for again, same in [(3, True), (np.random.default_rng(3), True), (4, False)]:
        assert np.array_equal(generate(4, 30, random_state=again)[0], x) is same


@pytest.mark.parametrize("generate", GENERATORS)
def test_an_empty_request_is_refused(generate: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="n_steps=0"):
        generate(1, 0, random_state=0)


def test_the_ball_moves_at_constant_speed_and_turns_only_at_the_walls() -> None:
    x, states = datasets.bouncing_ball(200, 300, noise=0.0, random_state=0)
    y = x[..., 0]
    assert y.min() >= 0.0
    assert y.max() <= HEIGHT
    step, straight = np.diff(y), states[:, 1:] == states[:, :-1]
    speed = np.abs(step).max(axis=1)
    assert 0.45 < speed.max() <= 0.5
    np.testing.assert_allclose(np.abs(step)[straight], np.repeat(speed, straight.sum(1)), atol=1e-9)
    np.testing.assert_array_equal(states[:, 1:][straight], (step > 0)[straight])
    # From rising to falling the path touched the top, else the bottom: the two legs add to a step.
    before, after = y[:, :-1][~straight], y[:, 1:][~straight]
    wall = np.where(states[:, :-1][~straight] == 1, HEIGHT, 0.0)
    legs = np.abs(wall - before) + np.abs(wall - after)
    np.testing.assert_allclose(legs, np.repeat(speed, (~straight).sum(1)), atol=1e-9)
    assert (~straight).sum() > 500


def test_the_ball_is_seen_with_the_noise_asked_for() -> None:
    exact, _ = datasets.bouncing_ball(100, 100, noise=0.0, random_state=1)
    seen, _ = datasets.bouncing_ball(100, 100, random_state=1)
    assert (seen - exact).std() == pytest.approx(0.1, rel=0.02)


def test_three_mode_segments_have_the_durations_of_the_rule() -> None:
    _, states = datasets.three_mode(200, 400, random_state=0)
    inner, jumps = [], np.zeros((3, 3))
    for path in states:
        changes = np.flatnonzero(np.diff(path)) + 1
        inner.append(np.diff(np.concatenate([[0], changes])))
        assert len(path) - changes[-1] <= MAX_DURATION
        np.add.at(jumps, (path[changes - 1], path[changes]), 1)
    durations = np.concatenate(inner)
    assert (durations.min(), durations.max()) == (MIN_DURATION, MAX_DURATION)
    # Uniform on 20..50 has mean 35; cutting at T favours short ones a little.
    assert durations.mean() == pytest.approx(35.0, abs=1.0)
    assert jumps[~np.eye(3, dtype=bool)] == pytest.approx(jumps.sum() / 6, rel=0.15)


def test_three_modes_share_the_marginal_and_differ_in_autocovariance() -> None:
    x, states = datasets.three_mode(3000, 180, random_state=0)
    x = x[..., 0]
    for mode, period in enumerate(PERIODS):
        power = np.mean(x[states == mode] ** 2)
        # The amplitude of a sequence changes slowly, so 3,000 sequences are about as many draws.
        assert power == pytest.approx(1.0 + NOISE**2, abs=0.1), mode
        for lag in (1, 2, 5):
            # Segments are longer than the lag, so two ends in the mode have all between them in it.
            inside = (states[:, :-lag] == mode) & (states[:, lag:] == mode)
            found = np.mean((x[:, :-lag] * x[:, lag:])[inside]) / power
            expected = DECAY**lag * np.cos(2 * np.pi * lag / period) / (1.0 + NOISE**2)
            assert found == pytest.approx(expected, abs=0.01), (mode, lag)


# Files kept outside the project


def test_mnist_splits() -> None:
    local("mnist")
    for split, size in [("train", 60_000), ("test", 10_000)]:
        images, labels = datasets.load_mnist(split, download=False)  # type: ignore[arg-type]
        assert images.shape == (size, 28, 28)
        assert labels.shape == (size,)
        assert np.unique(labels).tolist() == list(range(10))
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_binarized_mnist_looks_like_mnist() -> None:
    local("binarized_mnist.npz")
    splits = datasets.load_binarized_mnist()
    assert [part.shape for part in splits] == [(n, 28, 28) for n in (50_000, 10_000, 10_000)]
    for part in splits:
        assert np.unique(part).tolist() == [0, 1]
        assert part.mean() == pytest.approx(0.13, abs=0.01)
        # The border is empty, so rows and bits are in order.
        assert part[:, :2].mean() < 0.01
        assert part[:, :, :2].mean() < 0.01


def test_jsb_frames_and_voices() -> None:
    local("jsb_chorales.npz")
    for split, count, frames in [("train", 229, 13807), ("valid", 76, 4602), ("test", 77, 4725)]:
        rolls = datasets.load_jsb(split)  # type: ignore[arg-type]
        assert len(rolls) == count
        assert sum(len(roll) for roll in rolls) == frames
        assert {roll.shape[1] for roll in rolls} == {88}
        assert max(roll.sum(axis=1).max() for roll in rolls) == 4  # four parts


def test_mocap6_has_a_label_per_frame() -> None:
    local("mocap6.npz")
    x, labels, names = datasets.load_mocap6()
    assert [part.shape for part in x] == [(t, 12) for t in (382, 205, 251, 446, 387, 387)]
    assert [len(part) for part in labels] == [len(part) for part in x]
    assert np.unique(np.concatenate(labels)).tolist() == list(range(len(names))) == list(range(12))


def test_occupancy_is_one_frame_a_minute() -> None:
    local("occupancy.npz")
    for split, size in [("train", 8143), ("test1", 2665), ("test2", 9752)]:
        part = datasets.load_occupancy(split)  # type: ignore[arg-type]
        assert part.x.shape == (size, len(part.names)) == (size, 5)
        assert part.labels.shape == part.times.shape == (size,)
        assert set(part.labels.tolist()) == {0, 1}
        seconds = np.diff(part.times).astype(np.int64)
        assert seconds.min() >= 59
        assert seconds.max() <= 61


def test_honeybee_segments_change_at_the_change_points() -> None:
    local("honeybee_dance.npz")
    dances = datasets.load_honeybee()
    assert [len(dance.x) for dance in dances] == [1057, 1124, 602, 756, 813, 608]
    for dance in dances:
        assert (dance.x.min(), dance.x.max()) == (0.0, 1.0)
        changes = np.flatnonzero(np.diff(dance.segments)) + 1
        np.testing.assert_array_equal(changes, dance.change_points)


def test_sprites_characters_are_disjoint() -> None:
    local("sprites_video.npz")
    characters = []
    for split, size in [("train", 1080), ("test", 360)]:
        part = datasets.load_sprites(split)  # type: ignore[arg-type]
        assert part.video.shape == (size, 8, 64, 64, 3)
        assert np.bincount(part.labels).tolist() == [size // 9] * 9 == [size // 9] * len(part.names)
        characters.append({tuple(row) for row in part.attributes.tolist()})
    assert [len(group) for group in characters] == [120, 40]
    assert not characters[0] & characters[1]


def test_freyfaces_keep_the_order_of_time() -> None:
    local("freyfaces.npz")
    frames = datasets.load_freyfaces()
    assert frames.shape == (1965, 28, 20)
    assert frames.dtype == np.uint8
    moving = np.abs(np.diff(frames.astype(float), axis=0)).mean()
    shuffled = np.random.default_rng(0).permutation(frames).astype(float)
    assert moving < 0.5 * np.abs(np.diff(shuffled, axis=0)).mean()


def test_earthquakes() -> None:
    local("earthquakes.csv")
    years, counts = datasets.load_earthquakes()
    np.testing.assert_array_equal(years, np.arange(1900, 2007))
    # Zucchini and MacDonald: one Poisson state, of the mean rate, has -log L = 391.9189.
    rate = counts.mean()
    log_factorial = np.array([np.log(np.arange(1, n + 1)).sum() for n in counts])
    log_likelihood = (counts * np.log(rate) - rate - log_factorial).sum()
    assert -log_likelihood == pytest.approx(391.9189, abs=5e-5)


def test_nile_geyser_and_sp500() -> None:
    for name in ("nile.csv", "geyser.csv", "sp500_daily_1990s.csv"):
        local(name)
    years, volumes = datasets.load_nile()
    np.testing.assert_array_equal(years, np.arange(1871, 1971))
    assert volumes.mean() == pytest.approx(919.35)
    geyser = datasets.load_geyser()
    assert geyser.waiting.shape == geyser.duration.shape == (299,)
    assert geyser.duration.max() < 6 < 40 < geyser.waiting.min()
    returns = datasets.load_sp500()
    assert returns.shape == (2780,)
    assert returns.std() == pytest.approx(0.95, abs=0.1)


def test_an_unknown_split_is_refused_with_the_choices() -> None:
    loaders: list[Callable[..., Any]] = [
        datasets.load_mnist,
        datasets.load_jsb,
        datasets.load_occupancy,
        datasets.load_sprites,
    ]
    for load in loaders:
        with pytest.raises(ValueError, match="'dev' is not known; choose one of train, "):
            load("dev")
