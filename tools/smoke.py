"""Install the wheel of a folder into a clean environment and use it as a stranger would.

python tools/smoke.py dist [--system-packages]

With ``--system-packages`` the environment sees the packages of the interpreter that runs this (torch and all), so that
only the wheel itself is installed; otherwise everything is, with the torch of that interpreter, as another build may be
gigabytes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path

MOST_MB = 60
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROGRAM = """
import crystalsmith
made = crystalsmith.load("mp20-tiny").generate(2, steps=5)
assert len(made.table) == 2
assert made.save("by-python").is_dir()
print(made.table[0]["formula"], crystalsmith.__file__)
assert "site-packages" in crystalsmith.__file__
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path)
    parser.add_argument("--system-packages", action="store_true")
    arguments = parser.parse_args()
    wheel = max(arguments.dist.resolve().glob("*.whl"), key=lambda path: path.stat().st_mtime)
    size = wheel.stat().st_size / 1e6
    if size > MOST_MB:
        sys.exit(f"{wheel.name} has {size:.0f} MB; {MOST_MB} are allowed.")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        venv.create(place / "env", with_pip=True)
        python = place / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
        more = []
        if arguments.system_packages:
            site = subprocess.run(
                [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                check=True, capture_output=True, text=True,
            ).stdout.strip()  # fmt: skip
            own = [p for p in sys.path if p.endswith("site-packages")]
            Path(site, "seen.pth").write_text("\n".join(own))
            more = ["--no-deps"]
        run = {"check": True, "cwd": place, "env": environment}
        pip = [python, "-m", "pip", "install", "--quiet"]
        if not more:
            torch = f"torch=={version('torch')}"
            if subprocess.run([*pip, torch], cwd=place, env=environment).returncode:
                subprocess.run([*pip, torch, "--index-url", CPU_INDEX], **run)
        subprocess.run([*pip, *more, wheel], **run)
        subprocess.run([python, "-m", "crystalsmith", "--help"], stdout=subprocess.DEVNULL, **run)
        subprocess.run([python, "-m", "crystalsmith", "examples"], **run)
        subprocess.run([python, "-m", "crystalsmith", "models", "list"], **run)
        few = ["--num", "1", "--steps", "5"]
        subprocess.run([python, "-m", "crystalsmith", "generate", "crystals", *few], **run)
        subprocess.run([python, "-m", "crystalsmith", "evaluate", "crystals", "--jobs", "1"], **run)
        subprocess.run([python, "-c", PROGRAM], **run)
    print(f"{wheel.name} ({size:.0f} MB) installs and works.")


if __name__ == "__main__":
    main()
