"""``python -m crystalsmith``: the command line where the console script is not on the path."""

from crystalsmith.cli.main import main

main()
