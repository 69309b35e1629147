"""How many atoms crystals shall have: histograms, ranges, files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from crystalsmith.data.delimited import Delimited
from crystalsmith.errors import InputError
from crystalsmith.schema import read_json

Histogram = dict[int, float]
"""Number of atoms to relative weight."""

MAX_ATOMS = 10_000
"""Most atoms of a crystal; networks were trained on tens, and memory grows with the square."""

_HOW = "write one number (8), a range (4-12) or the path of a JSON or CSV file of number of atoms and weight"


def whole_number(text: str) -> int | None:
    """The number that ``10`` or ``10.0`` names; None for anything else, and for more digits than any count has."""
    text = text.strip()
    whole = text.removesuffix(".0")
    return int(whole) if whole.isascii() and whole.isdigit() and len(whole) <= 12 else None


def parse_num_atoms(text: str, model_histogram: Mapping[int, float]) -> Histogram:
    """The histogram that ``--num-atoms`` asks for.

    A range is the model's own histogram cut to that range; sizes that the model never saw have no weight in it, unless
    the range holds no other, in which case all its sizes are equally likely.

    Args:
        text: a number, a range ``low-high``, or the path of a JSON object or CSV table of number of atoms and weight.
        model_histogram: what the model was trained on.

    Raises:
        InputError: if the text is none of these.
    """
    text = text.strip()
    single = whole_number(text)
    if single is not None:
        return check_histogram({single: 1.0}, f"--num-atoms {text[:20]}")
    low, high = (whole_number(part) for part in (text.partition("-")[::2]))
    if low is not None and high is not None:
        if high > MAX_ATOMS:
            raise InputError(f"--num-atoms {text[:40]} goes beyond {MAX_ATOMS:,} atoms, the most that are sampled.")
        bounds = range(low, high + 1)
        if not bounds or low < 1:
            raise InputError(f"--num-atoms {text} is an empty range; write the smaller number, 1 at least, first.")
        cut = {n: float(w) for n, w in model_histogram.items() if n in bounds and w > 0}
        return check_histogram(cut or dict.fromkeys(bounds, 1.0), f"--num-atoms {text}")
    path = Path(text)
    if len(text) > 1000 or not path.is_file():
        raise InputError(f"--num-atoms {text[:40]!r} is neither a number, a range nor a file; {_HOW}.")
    return read_histogram(path)


def read_histogram(path: Path) -> Histogram:
    """A histogram from a JSON object ``{"4": 0.5, ...}`` or a CSV file of two columns (a header line is allowed).

    Raises:
        InputError: if the file is not that.
    """
    try:
        if path.suffix.lower() == ".json":
            pairs = list(read_json(path, max_bytes=2**20).items())
        else:
            rows = [row for row in islice(Delimited.open(path).lines(), MAX_ATOMS + 2) if row]
            if rows and whole_number(rows[0][0]) is None:
                rows = rows[1:]
            pairs = [(row[0], row[1]) for row in rows]
        sizes = [(whole_number(str(n)), float(w)) for n, w in pairs]
        if any(n is None for n, _ in sizes):
            raise ValueError
        histogram = {n: w for n, w in sizes if n is not None}
    except InputError:
        raise
    except (ValueError, AttributeError, IndexError, TypeError, OverflowError):
        raise InputError(f"{path} is not a histogram; {_HOW}.") from None
    if len(histogram) != len(pairs):
        raise InputError(f"{path} names a number of atoms twice; keep one line for each.")
    return check_histogram(histogram, str(path))


def check_histogram(histogram: Mapping[int, float], where: str) -> Histogram:
    """The histogram sorted, without empty entries, its weights summing to 1.

    Raises:
        InputError: if it is empty, holds a number of atoms below 1 or a weight that is negative or not finite.
    """
    for n, weight in histogram.items():
        if n < 1:
            raise InputError(f"{where} asks for crystals of {n} atoms; give 1 at least.")
        if n > MAX_ATOMS:
            raise InputError(f"{where} asks for crystals beyond {MAX_ATOMS:,} atoms, the most that are sampled.")
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(f"{where} has the weight {weight} for {n} atoms; weights are numbers of 0 or more.")
    total = sum(histogram.values())
    if not total > 0:
        raise InputError(f"{where} holds no number of atoms with a weight above 0; {_HOW}.")
    return {int(n): histogram[n] / total for n in sorted(histogram) if histogram[n] > 0}
