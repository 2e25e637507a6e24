"""Sensors that fail: fill in what they did not say, and say how sure that is.

Of Google's daily log-return, log range and change of log-volume, a share of the entries is taken away, single ones and
weeks of one column, and every method is asked for them back.  Errors are measured on what was taken away alone.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

from dbn_vae import GaussianHMM, plotting
from dbn_vae.datasets import load_goog

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="one start of EM, shorter, and fewer draws")
parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for the picture")
arguments = parser.parse_args()

days = load_goog()
scale = days.features.std(0)
frame = pd.DataFrame(days.features / scale, pd.DatetimeIndex(days.dates), days.names)
rng = np.random.default_rng(0)
gone = rng.random(frame.shape) < 0.05
for start in rng.integers(0, len(frame) - 15, 12):
    gone[start : start + 15, rng.integers(3)] = True  # a sensor out for three weeks
holes = frame.mask(gone)
print(f"{len(frame)} days, {gone.sum()} of {gone.size} entries taken away\n")


def regressed(holes: pd.DataFrame) -> pd.DataFrame:
    """Every column by least squares on the others, whose own gaps hold their means."""
    means, out = holes.fillna(holes.mean()), holes.copy()
    for c in holes:
        seen, others = holes[c].notna(), means.drop(columns=c)
        line = LinearRegression().fit(others[seen], holes[c][seen])
        out[c] = holes[c].fillna(pd.Series(line.predict(others), holes.index))
    return out


n_iter, n_init = (50, 1) if arguments.quick else (200, 8)
options = {"n_iter": n_iter, "tol": 1e-3, "n_init": n_init, "random_state": 0}
models = {f"HMM, K = {k}": GaussianHMM(k, "full", **options).fit(holes) for k in (1, 3, 5)}
filled = {
    "mean of the column": holes.fillna(holes.mean()),
    "last value": holes.ffill().bfill(),
    "line between neighbours": holes.interpolate(limit_direction="both"),
    "regression on the others": regressed(holes),
    **{name: model.impute(holes) for name, model in models.items()},
}
print("root mean squared error, in standard deviations of each column")
print(f"{'':<26}{'  '.join(f'{name:>16}' for name in frame)}  {'all':>6}")
for name, guess in filled.items():
    assert np.array_equal(guess.to_numpy()[~gone], holes.to_numpy()[~gone])  # what was seen stays as it was
    error = np.where(gone, guess - frame, np.nan)
    each = "  ".join(f"{value:>16.3f}" for value in np.sqrt(np.nanmean(error**2, 0)))
    print(f"{name:<26}{each}  {np.sqrt(np.nanmean(error**2)):>6.3f}")

# One guess hides what is not known. Draws show it, and may be held to their word: 90 % of intervals should hold.
n_draws = 40 if arguments.quick else 400
for name in ("HMM, K = 1", "HMM, K = 5"):
    draws = np.stack([models[name].impute(holes, how="sample", random_state=i) for i in range(n_draws)])
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    held = 100 * ((frame >= low) & (frame <= high)).to_numpy()[gone].mean()
    narrow, wide = np.quantile((high - low)[gone], [0.1, 0.9])
    print(f"\n{name}: 90 % intervals hold {held:.1f} %, widths {narrow:.2f} to {wide:.2f}", end="")

span = slice(600, 760)  # a stretch with gaps of the range
figure, axes = plotting.canvas(9, 3.2)
column = frame.columns[1]
axes.fill_between(frame.index[span], low[span, 1], high[span, 1], color="0.8", label="90 % of draws")
axes.plot(frame[column][span], ".", ms=3, color="0.4", label="observed")
axes.plot(frame[column].where(gone[:, 1])[span], "o", ms=3, color="tab:red", label="taken away")
axes.set_ylabel(f"{column} (s.d.)")
axes.legend(loc="upper left", frameon=False, ncols=3)
plotting.save(figure, arguments.out / "09_filled.png")
print(f"\n\nWrote 09_filled.png to {arguments.out}.")
