"""Models that come with the package: one folder each, read by :mod:`crystalsmith.checkpoints.store`."""

DEFAULT = "taught-tiny"
"""What generates where no model is named."""
