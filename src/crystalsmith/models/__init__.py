"""Models that come with the package: one folder each, read by :mod:`crystalsmith.checkpoints.store`."""

DEFAULT = "taught-tiny"
"""What generates where no model is named."""

DEFAULT_CSP = "taught-csp"
"""What predicts structures of given compositions where no model is named."""
