"""What a run writes of its steps: sums since the last row, and the rows of ``log.csv`` and ``val_bins.csv``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from crystalsmith.training.log import CsvLog, Row, TensorBoardLog
from crystalsmith.training.objective import LOSSES
from crystalsmith.training.validation import ValidationResult

COLUMNS = (
    *("step", "epoch", "crystals", "seconds", "lr", "grad_norm", "skipped", "crystals_per_second", "data_wait"),
    *(f"train_{name}" for name in LOSSES),
    *(f"val_{name}" for name in LOSSES),
)
BIN_COLUMNS = ("step", "t_min", "t_max", "crystals", *(f"val_{name}" for name in LOSSES))


class Tally:
    """Sums over the steps since the last row.

    Attributes:
        sums: ``(len(LOSSES) + 3,)`` float64: the losses over crystals, the crystals, gradient norms, steps.
        busy: seconds of these steps, skipped ones included.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(len(LOSSES) + 3, dtype=torch.float64)
        self.busy = 0.0

    @staticmethod
    def of(table: Tensor, crystals: int) -> Tensor:
        """``sums`` of a part of one step: its summed losses ``(len(LOSSES),)`` and crystals."""
        return torch.cat([table.cpu(), torch.tensor([float(crystals), 0.0, 0.0], dtype=torch.float64)])

    @property
    def crystals(self) -> float:
        """How many were seen."""
        return float(self.sums[-3])

    @property
    def steps(self) -> float:
        """How many were taken."""
        return float(self.sums[-1])

    def means(self) -> dict[str, float]:
        """Mean loss per crystal by name; there must be crystals."""
        return dict(zip(LOSSES, (self.sums[: len(LOSSES)] / self.crystals).tolist(), strict=True))

    def row(self, waited: float) -> Row:
        """The columns of a log row that these steps fill, given the seconds that they waited for data."""
        if not self.steps:
            return {}
        row: Row = {f"train_{name}": value for name, value in self.means().items()}
        row["grad_norm"] = float(self.sums[-2]) / self.steps
        if self.busy:
            row["crystals_per_second"] = self.crystals / (self.busy + waited)
            row["data_wait"] = waited / (self.busy + waited)
        return row

    def clear(self) -> None:
        """Begin the next row."""
        self.sums.zero_()
        self.busy = 0.0


class Record:
    """The log files of a run.

    Args:
        out: folder of the run.
        last, last_validation: steps up to which rows of an earlier session are kept; -1 starts anew.
        tensorboard: write scalars for TensorBoard as well.
    """

    def __init__(self, out: Path, last: int, last_validation: int, tensorboard: bool) -> None:
        self.log = CsvLog(out / "log.csv", COLUMNS, last)
        self.bins = CsvLog(out / "val_bins.csv", BIN_COLUMNS, last_validation)
        self.board = TensorBoardLog(out / "tensorboard", last) if tensorboard else None

    def write(self, row: Row, validation: ValidationResult | None = None) -> None:
        """A row, with what a validation at its step has found."""
        if validation is not None:
            row = row | {f"val_{name}": value for name, value in validation.mean.items()}
        self.log.write(row)
        if self.board is not None:
            self.board.write(row)
        for low, high, count, means in validation.bins if validation is not None else ():
            bin_row: Row = {"step": row["step"], "t_min": low, "t_max": high, "crystals": count}
            self.bins.write(bin_row | {f"val_{name}": value for name, value in means.items()})
