"""crystalsmith: generate inorganic crystals with a diffusion model."""

__version__ = "0.1.0"
