"""Rows that are on disk the moment they are known, and Markdown tables of them."""

import argparse
import platform
from pathlib import Path
from typing import Any

import pandas as pd
import torch


class Rows:
    """Results in the order they come; every one rewrites the whole file, so that a run cut short loses nothing.

    Args:
        out: a .csv or .json file; None keeps the rows in memory.
    """

    def __init__(self, out: Path | None) -> None:
        if out is not None and out.suffix not in (".csv", ".json"):
            raise ValueError(f"--out {out} ends in neither .csv nor .json")
        self.out, self.rows = out, list[dict[str, Any]]()

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        print("  ".join(f"{k} {shown(v)}" for k, v in row.items()), flush=True)
        if self.out is None:
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if self.out.suffix == ".csv":
            self.frame().to_csv(self.out, index=False)
        else:
            self.frame().to_json(self.out, orient="records", indent=1)

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown; values as they are, so round them first."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [table.columns, *table.astype(str).values]]
    return "\n".join([lines[0], "|" + "---|" * table.shape[1], *lines[1:]])


def machine() -> str:
    return (
        f"{platform.machine()}, {torch.get_num_threads()} thread, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def arguments(description: str, seeds: int) -> argparse.ArgumentParser:
    """What every benchmark of results asks."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=seeds, help="how many repetitions")
    parser.add_argument("--quick", action="store_true", help="a small version of it, in under two minutes")
    parser.add_argument("--out", type=Path, help="a .csv or .json file, written row by row")
    parser.add_argument("--only", nargs="*", help="names of models; all without it")
    return parser
