r"""Google's share on 1,046 trading days, from matplotlib's sample data: no download.

With adjusted close c_t, high h_t, low l_t and volume v_t of day t, the features of day t are

    log-return          log c_t - log c_{t-1}
    log high-low range  log(log h_t - log l_t)
    log-volume change   log v_t - log v_{t-1}

The range is Alizadeh, Brandt and Diebold's proxy of volatility ("Range-based estimation of
stochastic volatility models", 2002): its outer logarithm makes it close to Gaussian. That logarithm
exists because no day has h_t = l_t; the smallest log h_t - log l_t is 0.0052. The 1,047 rows, from
19 August 2004 to 14 October 2008, give 1,046 days, since the first has no day before it.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class GoogDays(NamedTuple):
    """`dates` (1046,) in days, `features` (1046, 3), `price` (1046,) the adjusted close in USD."""

    dates: npt.NDArray[np.datetime64]
    features: npt.NDArray[np.float64]
    price: npt.NDArray[np.float64]
    names: tuple[str, ...]


def load_goog() -> GoogDays:
    """Three features a day, and the date and price they belong to."""
    from matplotlib.cbook import get_sample_data

    # The path, not matplotlib's opened file: whether pickles are refused is then decided here.
    with np.load(get_sample_data("goog.npz", asfileobj=False), allow_pickle=False) as stored:
        rows = stored["price_data"]
    log_return = np.diff(np.log(rows["adj_close"]))
    log_range = np.log(np.log(rows["high"]) - np.log(rows["low"]))[1:]
    log_volume_change = np.diff(np.log(rows["volume"]))
    return GoogDays(
        dates=rows["date"][1:],
        features=np.stack([log_return, log_range, log_volume_change], axis=1),
        price=rows["adj_close"][1:],
        names=("log-return", "log high-low range", "log-volume change"),
    )
