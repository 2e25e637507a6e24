r"""A ball that bounces without loss between two walls, seen with noise; the state is its direction.

    y_1 ~ U(0, h),   v ~ U(-0.5, 0.5),   y_t = fold(y_1 + (t - 1) v),   x_t = y_t + noise * e_t

with h = 10 and e_t ~ N(0, 1). Here fold(u) is the elastic reflection of u at 0 and h: a triangle
wave of period 2h. The state of frame t is 1 if the ball rises at that instant and 0 if it falls.
The rule and its numbers are those of Ansari et al., "Deep explicit duration switching models for
time series", 2021, with a starting point of our own; a slow ball is left in, so not every state can
be told from the data.
"""

import numpy as np
import numpy.typing as npt

HEIGHT = 10.0
MAX_SPEED = 0.5


def bouncing_ball(
    n_sequences: int,
    n_steps: int = 100,
    *,
    noise: float = 0.1,
    random_state: int | np.random.Generator | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Observations (B, T, 1) and directions (B, T): 0 falling, 1 rising."""
    if n_sequences < 1 or n_steps < 1:
        raise ValueError(f"n_sequences={n_sequences} and n_steps={n_steps} must both be at least 1")
    if not noise >= 0.0:
        raise ValueError(f"noise={noise} is a standard deviation and must be at least 0")
    rng = np.random.default_rng(random_state)
    start = rng.uniform(0.0, HEIGHT, (n_sequences, 1))
    velocity = rng.uniform(-MAX_SPEED, MAX_SPEED, (n_sequences, 1))
    phase = (start + velocity * np.arange(n_steps)) % (2.0 * HEIGHT)
    mirrored = phase > HEIGHT
    position = np.where(mirrored, 2.0 * HEIGHT - phase, phase)
    rising = (velocity > 0.0) != mirrored
    x = position + noise * rng.standard_normal(position.shape)
    return x[..., None], rising.astype(np.int64)
