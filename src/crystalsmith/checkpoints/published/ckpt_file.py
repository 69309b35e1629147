"""Finding the files of a published model, and opening a ``.ckpt`` without executing anything."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

from crystalsmith.errors import InputError

CONFIG_YAML = "config.yaml"
_LFS = b"version https://git-lfs.github.com/spec/"
_VERSION = re.compile(r"version_(\d+)")
_BEST = re.compile(r"epoch=\d+-loss_val=(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?).*\.ckpt", re.IGNORECASE)


def locate(source: Path, checkpoint: str = "last") -> tuple[Path, Path]:
    """``config.yaml`` and the checkpoint of a published model folder.

    Args:
        source: the folder itself, or the folder of a training run with one ``lightning_logs/version_k`` inside.
        checkpoint: "last", "best" (lowest validation loss in the file names) or the name of a file.

    Raises:
        InputError: if there is no such file, or several could be meant.
    """
    if not source.is_dir():
        what = "is a file" if source.exists() else "does not exist"
        raise InputError(f"{source} {what}; give the folder that holds config.yaml and checkpoints/.")
    folder = _model_folder(source)
    found = sorted(path for path in folder.rglob("*.ckpt") if path.is_file())
    if not found:
        raise InputError(f"{folder} holds no *.ckpt file; give the folder that holds config.yaml and checkpoints/.")
    path = _choose(folder, found, checkpoint)
    for each in (folder / CONFIG_YAML, path):
        _check_inside(folder, each)
    return folder / CONFIG_YAML, path


def _model_folder(source: Path) -> Path:
    if (source / CONFIG_YAML).is_file():
        return source
    runs = [path.parent for path in source.glob(f"**/lightning_logs/version_*/{CONFIG_YAML}")]
    if source.name == "lightning_logs":
        runs += [path.parent for path in source.glob(f"version_*/{CONFIG_YAML}")]
    if len(runs) == 1:
        return runs[0]
    if runs:
        names = ", ".join(run.relative_to(source).as_posix() for run in sorted(runs))
        raise InputError(f"{source} holds several training runs ({names}); give the folder of one of them.")
    raise InputError(f"{source} holds no {CONFIG_YAML}; give the folder that holds config.yaml and checkpoints/.")


def _choose(folder: Path, found: list[Path], checkpoint: str) -> Path:
    if checkpoint == "last":
        chosen = [path for path in found if path.name.endswith("last.ckpt")]
    elif checkpoint == "best":
        scores = {path: float(match[1]) for path in found if (match := _BEST.fullmatch(path.name))}
        chosen = [path for path, score in scores.items() if score == min(scores.values())][:1]
    else:
        chosen = [path for path in found if path.name == checkpoint]
    names = ", ".join(path.relative_to(folder).as_posix() for path in found[:5])
    if not chosen:
        raise InputError(f"{folder} has no checkpoint '{checkpoint}'; there are {names}.")
    if len(chosen) > 1:
        raise InputError(f"{folder} has several checkpoints '{checkpoint}' ({names}); give the folder of one model.")
    return chosen[0]


def _check_inside(folder: Path, path: Path) -> None:
    """A link may lead elsewhere within the folder, or to the blobs of the hub cache that the folder is in."""
    real, root = path.resolve(), folder.resolve()
    roots = [root]
    for parent in root.parents:
        if parent.name == "snapshots":
            roots.append(parent.parent / "blobs")
    if not any(real.is_relative_to(each) for each in roots):
        raise InputError(f"{path} is a link that leads out of {folder}; copy the file there instead.")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a ``.ckpt``, tensors memory-mapped; nothing in the file is executed.

    Raises:
        InputError: if the file is a Git-LFS pointer, damaged, of another kind, or holds code.
    """
    import torch

    _check_archive(path)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        what = _code_named_in(str(error))
        raise InputError(f"{path} holds {what}, and code in a checkpoint is never run; it is not read.") from None
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} cannot be read ({reason[:200]}); copy or download it again.") from None
    if not isinstance(data, dict) or "state_dict" not in data:
        raise InputError(f"{path} holds no 'state_dict'; it is not the checkpoint of a published model.")
    return data


def _code_named_in(message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    return f"the object {found[1]}" if found else "something other than numbers and plain data"


def _check_archive(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); copy or download it again.") from None
    for entry in _entries(path, head):
        parts = entry.filename.replace("\\", "/").split("/")
        if entry.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise InputError(f"{path} holds an entry whose path leads out of the archive; it is not read.")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{path} holds compressed entries, which torch never writes; it is not read.")


def _entries(path: Path, head: bytes) -> list[zipfile.ZipInfo]:
    """The entries of the zip file that begins with ``head``."""
    if head.startswith(_LFS):
        raise InputError(
            f"{path} is a Git-LFS pointer, not the weights; fetch them with 'git lfs pull' or import "
            "hf:microsoft/mattergen/<name>."
        )
    if not head.startswith(b"PK\x03\x04"):
        raise InputError(f"{path} is not a checkpoint as torch writes them since 1.6 (a zip file); it is not read.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not look at the checksums of its entries
            if damaged is not None:
                raise InputError(
                    f"{path} is damaged at {damaged[:80]} (its checksum differs); copy or download it again."
                )
            return archive.infolist()
    except InputError:
        raise
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError):
        raise InputError(f"{path} is a truncated or damaged zip file; copy or download it again.") from None
