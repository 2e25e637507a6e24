r"""A switching linear system with three modes that only its dynamics can tell apart.

The mode keeps for a segment of d ~ U{20, ..., 50} frames, then jumps to one of the other two with
equal chance; the first mode is uniform and the last segment is cut at T. In mode k the plane turns:

    z_1 ~ N(0, I),   z_t = rho R(theta_k) z_{t-1} + sqrt(1 - rho^2) e_t,   k = s_t
    x_t = first coordinate of z_t + 0.1 n_t,                          e_t, n_t ~ N(0, 1)

with rho = 0.995, R the rotation, and theta = 2 pi / (60, 20, 6): a turn takes 60, 20 or 6 frames.
As R is a rotation, z_t ~ N(0, I) in every mode, so a single frame says nothing of its mode, and an
HMM with independent emissions is at chance. Within a mode the autocovariance of x at lag h > 0 is
rho^h cos(h theta_k). The durations are not geometric.

Our own system, in the spirit of the three-mode data of Ansari et al., "Deep explicit duration
switching models for time series", 2021; results on the two are not comparable.
"""

import math

import numpy as np
import numpy.typing as npt

PERIODS = (60, 20, 6)
DECAY = 0.995
NOISE = 0.1
MIN_DURATION = 20
MAX_DURATION = 50


def three_mode(
    n_sequences: int, n_steps: int = 180, *, random_state: int | np.random.Generator | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Observations (B, T, 1) and modes (B, T) in 0..2."""
    if n_sequences < 1 or n_steps < 1:
        raise ValueError(f"n_sequences={n_sequences} and n_steps={n_steps} must both be at least 1")
    rng = np.random.default_rng(random_state)
    states = np.stack([_modes(n_steps, rng) for _ in range(n_sequences)])
    theta = 2.0 * math.pi / np.array(PERIODS, dtype=np.float64)
    turn = DECAY * np.exp(1j * theta)  # the plane as complex numbers: R(theta) z is exp(i theta) z
    noise = _complex_normal((n_sequences, n_steps), rng)
    z = noise.copy()
    for t in range(1, n_steps):
        z[:, t] = turn[states[:, t]] * z[:, t - 1] + math.sqrt(1.0 - DECAY**2) * noise[:, t]
    x = z.real + NOISE * rng.standard_normal(z.shape)
    return x[..., None], states


def _modes(n_steps: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    mode = int(rng.integers(3))
    path: list[int] = []
    while len(path) < n_steps:
        path += [mode] * int(rng.integers(MIN_DURATION, MAX_DURATION + 1))
        mode = (mode + int(rng.integers(1, 3))) % 3
    return np.array(path[:n_steps], dtype=np.int64)


def _complex_normal(shape: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.complex128]:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
