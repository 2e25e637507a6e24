"""The page of the main job: the comparison, the states of the best model, how each learned, and the checks."""

import argparse
import platform
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd

import dbn_vae
from dbn_vae.estimators import VAEHMM, DeepMarkovModel, GaussianHMM
from dbn_vae.evaluation.comparison import Row
from dbn_vae.evaluation.states import effective_states
from dbn_vae.jobs.demo_fits import Check, Decoded, Series

PLUS_MINUS = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"  # a number and its error stay on one line
MINUS = "\N{MINUS SIGN}"


def write_page(
    arguments: argparse.Namespace,
    series: Series,
    rows: list[Row],
    result: pd.DataFrame,
    best: Row,
    decoded: Decoded,
    described: pd.DataFrame,
    checks: list[Check],
) -> None:
    from dbn_vae import plotting
    from dbn_vae.report import Section, write_report

    dates, K = series.days.dates, decoded.gamma.shape[1]
    n_train, n_test = int((~series.held_out).sum()), int(series.held_out.sum())
    dots = plotting.held_out_table(
        result["model"].tolist(),
        result["per frame"].tolist(),
        result["s.e."].tolist(),
        result["kind"].tolist(),
        xlabel="held-out log-likelihood (nats per day), ± 1 standard error",
    )
    price = plotting.series_by_state(
        dates, series.days.price, decoded.states, ylabel="price (USD)", held_out=series.held_out
    )
    plotting.save(dots, arguments.out / "comparison.png")
    plotting.save(price, arguments.out / "states.png")
    comparison = Section(
        "What each model says of days it never saw",
        [
            f"{n_test} of {len(dates)} days were held out in {len(series.split.test)} blocks; every model was fitted "
            f"to the other {n_train}. Numbers are nats per day in standardised units, higher is better. "
            "“exact” is the log-likelihood itself; a bound lies below it by an unknown amount, so a "
            "bound that wins, wins, and a bound that loses may be losing only its slack.",
            verdict(result, rows),
        ],
        [("Held-out log-likelihood per day, with its standard error over blocks", dots)],
        [("All models, best first; ± one standard error; gains are paired block by block", readable(result))],
    )
    states = Section(
        f"The states of the best model with states: {best.name}",
        [
            *(f"{line[0].upper()}{line[1:]}." for line in described["in words"]),
            f"On average the days use {effective_states(decoded.gamma):.1f} of the {K} states. The model was chosen by "
            "the table above, on the same held-out days, so its lead there is a little flattering.",
        ],
        [
            ("Price by decoded state; held-out blocks shaded", price),
            ("Probability of each state, given the whole series", plotting.gammas(dates, decoded.gamma)),
            ("Transition matrix, from row to column", plotting.transition_matrix(decoded.transmat)),
        ],
        [("States by rising volatility", described.drop(columns="in words"))],
    )
    pages = [comparison, states, learning(rows), checked(checks)]
    write_report(
        arguments.out / "report.html",
        title="Google's share, 2004 to 2008: hidden states and their models",
        lead=f"Held-out comparison of {len(rows)} models, from independent days to deep Markov models.",
        sections=pages,
        facts=facts(),
    )


def readable(result: pd.DataFrame) -> pd.DataFrame:
    """The table with each number beside its standard error, rounded to what it can bear."""
    return pd.DataFrame(
        {
            "model": result["model"],
            "nats per day": [
                f"{v:.3f}{PLUS_MINUS}{e:.3f}".replace("-", MINUS)
                for v, e in zip(result["per frame"], result["s.e."], strict=True)
            ],
            "gain": [
                "reference" if e == 0 else f"{round(v, 3) + 0.0:+.3f}{PLUS_MINUS}{e:.3f}".replace("-", MINUS)
                for v, e in zip(result["gain"], result["gain s.e."], strict=True)
            ],
            "kind": result["kind"],
            "states": result["states"],
            "parameters": result["parameters"],
            "seconds": result["seconds"].round(1),
        }
    )


def verdict(result: pd.DataFrame, rows: list[Row]) -> str:
    """Who won, and whether by more than the noise."""
    winner = result.iloc[0]
    difference, error, reference = winner["gain"], winner["gain s.e."], result.attrs["reference"]
    if winner["model"] == reference or abs(difference) < 1e-6:
        return f"{reference} and ours from the same starts lead; no other model beats them."
    sure = "more" if difference > 2 * error else "no more"
    return (
        f"First is {winner['model']}. Against {reference}, the best of hmmlearn's, it gains "
        f"{difference:.3f} ± {error:.3f} nats per day: {sure} than two standard errors of that difference."
    )


def learning(rows: list[Row]) -> Any:
    from dbn_vae import plotting
    from dbn_vae.report import Section

    hmms: dict[str, Sequence[float]] = {
        row.name: row.model.monitor_.history
        for row in rows
        if isinstance(row.model, GaussianHMM) and row.model.n_components > 1
    }
    deep: dict[str, Sequence[float]] = {
        row.name: [c.validation for c in row.model.history_]
        for row in rows
        if isinstance(row.model, VAEHMM | DeepMarkovModel)
    }
    return Section(
        "Learning",
        ["EM climbs the exact log-likelihood of the training days; the deep models climb a bound."],
        [
            (
                "EM: training log-likelihood after each iteration, best start of each size",
                plotting.learning_curves(hmms, ylabel="log-likelihood (nats)", xlabel="iteration"),
            ),
            (
                "Deep models: importance bound (S = 8) on validation pieces cut from the training part",
                plotting.learning_curves(deep, ylabel="bound (nats per day)", xlabel="look (20 in all)"),
            ),
        ],
        [],
    )


def checked(checks: list[Check]) -> Any:
    from dbn_vae.report import Section

    frame = pd.DataFrame(
        [{"check": c.claim, "holds": "yes" if c.holds else "NO", "seen": c.seen} for c in checks]
    )
    return Section(
        "Checks", ["The run exits with status 0 only when all of these hold."], [], [("Checks", frame)]
    )


def facts() -> dict[str, str]:
    """What it takes to make this page again."""
    from importlib.metadata import version

    packages = ("torch", "numpy", "hmmlearn", "scikit-learn")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return {
        "command": shlex.join(["dbn-vae", *sys.argv[1:]]),
        "versions": f"dbn_vae {dbn_vae.__version__}, Python {platform.python_version()}, {versions}",
        "data": "goog.npz of matplotlib's sample data: log-return, log high-low range, log-volume change",
    }
