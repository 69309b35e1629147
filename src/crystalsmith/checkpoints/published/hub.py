"""Published models from a Hugging Face repository: ``hf:owner/repository/name[@revision]``.

Files come through huggingface_hub and its cache. All files of one import are of one commit, which the imported model
remembers; the first import under an address pins it until the cached model is deleted. Each file is checked against
the hash that the hub names it by.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalsmith.checkpoints.cache import HUB_PREFIX, cached_models, hub_folder
from crystalsmith.errors import InputError
from crystalsmith.files import sha256_of

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.))*"
_ADDRESS = re.compile(rf"hf:({_PART})/({_PART})/({_PART})(?:@({_PART}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LICENCES = {"microsoft/mattergen": "MIT"}
_LAYOUTS = ("checkpoints/{name}/{file}", "{name}/{file}")
_FILES = ("config.yaml", "checkpoints/last.ckpt")


WAIT = 3600.0
"""Seconds to wait for another process that imports the same model into the user's cache."""

SILENCE = 60.0
"""Seconds in which a hub may send nothing, retries of its client included, before it counts as unreachable."""


@dataclass(frozen=True)
class HubAddress:
    """``hf:owner/repository/name[@revision]``."""

    owner: str
    repository: str
    name: str
    revision: str | None = None

    @staticmethod
    def parse(text: str) -> HubAddress:
        """Read an address.

        Raises:
            InputError: if it is not of that form.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise InputError(f"'{text}' is no hub address; write for example hf:microsoft/mattergen/mattergen_base.")
        return HubAddress(*found.groups())

    @property
    def repo_id(self) -> str:
        """``owner/repository``."""
        return f"{self.owner}/{self.repository}"

    @property
    def folder(self) -> Path:
        """Where its import is cached."""
        return hub_folder(self.owner, self.repository, self.name, self.revision)

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return f"{HUB_PREFIX}{self.owner}/{self.repository}/{self.name}{at}"


def cached_import(address: str) -> Path:
    """The folder of a hub model in the user's cache, imported there the first time.

    Raises:
        InputError: if it cannot be fetched, fails a hash check, or is no published model.
    """
    hub = HubAddress.parse(address)
    if str(hub) not in cached_models():
        try:
            import_from_hub(address, hub.folder, wait=WAIT)
        except InputError:
            if str(hub) not in cached_models():  # else another process was faster
                raise
    return hub.folder


def import_from_hub(address: str, out: str | Path, name: str | None = None, wait: float = 0.0) -> Any:
    """Fetch a published model and write it as a model of ours; returns the import's report.

    Raises:
        InputError: if it cannot be fetched, fails a hash check, or is no published model.
    """
    from crystalsmith.checkpoints.published.mattergen import check_free, import_published

    hub = HubAddress.parse(address)
    check_free(Path(out))
    config, checkpoint, revision = fetch(hub)
    verified = [_verify(path, address) for path in (config, checkpoint)]
    origin = {"source": str(hub), "revision": revision}
    origin["hashes"] = "as the hub names the files" if all(verified) else "not known to the hub's cache; not checked"
    licence = _LICENCES.get(hub.repo_id, "see the repository")
    return import_published(
        config, checkpoint, Path(out), name=name or hub.name, origin=origin, licence=licence, wait=wait
    )


def fetch(hub: HubAddress) -> tuple[Path, Path, str]:
    """``config.yaml``, the checkpoint and their commit: from the hub's cache, else from the network.

    Raises:
        InputError: if they are in neither.
    """
    for offline in (True, False):
        if not offline and is_offline():
            raise InputError(
                f"{hub} is not in the cache {_hub_cache() or 'of huggingface_hub'} and HF_HUB_OFFLINE is set; fetch it "
                "once with a network, or import a local folder."
            )
        for layout in _LAYOUTS:
            if found := _fetch_files(hub, layout, offline):
                return found
    raise InputError(f"The repository {hub.repo_id} holds no model '{hub.name}' (revision {hub.revision or 'main'}).")


def _fetch_files(hub: HubAddress, layout: str, offline: bool) -> tuple[Path, Path, str] | None:
    revision = hub.revision or "main"
    paths: list[Path] = []
    for file in _FILES:
        path = _download(hub, layout.format(name=hub.name, file=file), revision, offline)
        if path is None:
            return None
        paths.append(path)
        commit = _commit_of(path)
        if _COMMIT.fullmatch(commit):
            revision = commit  # the other file is of the same commit, whatever happens to the branch meanwhile
    return paths[0], paths[1], _commit_of(paths[0])


def _download(hub: HubAddress, file: str, revision: str, offline: bool) -> Path | None:
    """One file in the hub's cache, or ``None`` where there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    local = offline or is_offline()

    def download() -> str:
        return hf_hub_download(hub.repo_id, file, revision=revision, cache_dir=_hub_cache(), local_files_only=local)

    try:
        path = download() if local else _unless_silent(download, _blobs(hub))
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise InputError(f"The hub knows no repository {hub.repo_id} with the revision {revision}.") from None
    except EntryNotFoundError as error:
        if not offline and isinstance(error, LocalEntryNotFoundError):  # how the hub's client says "no network"
            raise _unreachable(hub, error) from None
        return None
    except Exception as error:
        if offline:
            return None
        raise _unreachable(hub, error) from None
    return Path(path)


def _unless_silent(download: Callable[[], str], blobs: Path) -> str:
    """The result of ``download``, given up when nothing arrives in ``blobs`` for ``SILENCE`` seconds.

    The client retries on its own and has no limit on all tries together, so it runs in a thread that can be left.

    Raises:
        TimeoutError: if the hub is silent.
    """
    results: list[str] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(download())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)  # a daemon: it does not hold the command at its end
    thread.start()
    arrived, since = _sizes(blobs), time.monotonic()
    while thread.is_alive():
        thread.join(0.2)
        if (now := _sizes(blobs)) != arrived:
            arrived, since = now, time.monotonic()
        elif thread.is_alive() and time.monotonic() - since > SILENCE:
            raise TimeoutError(f"the hub sent nothing for {SILENCE:g} s")
    if errors:
        raise errors[0]
    return results[0]


def _blobs(hub: HubAddress) -> Path:
    """Where the hub's client writes what arrives."""
    from huggingface_hub import constants

    cache = Path(_hub_cache() or constants.HF_HUB_CACHE)
    return cache / f"models--{hub.owner}--{hub.repository}" / "blobs"


def _sizes(folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    try:
        for entry in os.scandir(folder):
            sizes[entry.name] = entry.stat().st_size
    except OSError:  # not there yet, or a file that was renamed meanwhile
        pass
    return sizes


def _unreachable(hub: HubAddress, error: BaseException) -> InputError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return InputError(f"{hub} could not be fetched ({reason}); check the network, or import a local folder.")


def _verify(path: Path, address: str) -> bool:
    """Compare a file with the hash that names its blob; False where the cache keeps no blobs (no links on the disk).

    Raises:
        InputError: if they differ.
    """
    real = path.resolve()
    name = real.name
    if re.fullmatch(r"[0-9a-f]{64}", name):  # a large file: SHA-256
        actual = sha256_of(real)
    elif _COMMIT.fullmatch(name):  # a small file: the hash of git
        content = real.read_bytes()
        actual = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        return False
    if actual != name:
        raise InputError(f"{path} of {address} does not have the hash that the hub names it by; delete it and retry.")
    return True


def _commit_of(path: Path) -> str:
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else "unknown"


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` (or its older twin) is set."""
    values = (os.environ.get(key, "") for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)


def _hub_cache() -> str | None:
    """The hub's cache folder as the environment says now; ``None`` for its default."""
    if given := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return given
    return str(Path(home) / "hub") if (home := os.environ.get("HF_HOME")) else None
