"""Recipes that come with the package: ``crystalsmith train --recipe NAME``."""
