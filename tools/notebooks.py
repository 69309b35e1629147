"""The tutorials of docs/tutorials as executed notebooks.

python tools/notebooks.py OUT [NAME...]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

TUTORIALS = Path(__file__).resolve().parents[1] / "docs" / "tutorials"


def execute(source: Path, out: Path, timeout: int = 600) -> Path:
    """Run a page from top to bottom in a folder of its own and write the notebook with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook = jupytext.read(source)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{source.stem}.ipynb"
    nbformat.write(notebook, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for source in sorted(TUTORIALS.glob("*.md")):
        if not arguments.names or source.stem in arguments.names:
            print(execute(source, arguments.out))


if __name__ == "__main__":
    main()
