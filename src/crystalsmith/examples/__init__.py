"""Small files for the first steps: ``crystalsmith examples`` copies them."""
