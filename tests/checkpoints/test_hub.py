"""Hub models against a cache laid out as huggingface_hub lays it out; no network."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys

import pytest

from crystalsmith.checkpoints.cache import cached_models, imported_models, remember_import
from crystalsmith.checkpoints.find import find_model, list_models, load_model
from crystalsmith.checkpoints.published.hub import HubAddress, import_from_hub
from crystalsmith.checkpoints.published.mattergen import import_model
from crystalsmith.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ADDRESS = "hf:microsoft/mattergen/mattergen_base"


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch, make_checkpoint, make_folder):
    """A hub cache that holds mattergen_base, and no way to the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    source = make_folder(tmp_path / "source", *make_checkpoint())
    repository = tmp_path / "hub" / "models--microsoft--mattergen"
    folder = repository / "snapshots" / COMMIT / "checkpoints" / "mattergen_base"
    (folder / "checkpoints").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for file, name_of in (
        ("config.yaml", git_hash),
        ("checkpoints/last.ckpt", lambda c: hashlib.sha256(c).hexdigest()),
    ):
        content = (source / file).read_bytes()
        blob = repository / "blobs" / name_of(content)
        blob.write_bytes(content)
        (folder / file).symlink_to(blob)
    return repository


def test_a_hub_model_is_imported_once_and_then_cached(hub):
    model = load_model(ADDRESS)
    training = model.metadata.training
    assert (training["source"], training["revision"]) == (ADDRESS, COMMIT)
    assert training["hashes"] == "as the hub names the files"
    assert model.metadata.licence == "MIT"
    assert list(cached_models()) == [ADDRESS]
    assert find_model(ADDRESS) == list_models()[ADDRESS]
    shutil.rmtree(hub)  # the first import pins it
    assert load_model(ADDRESS).metadata.name == "mattergen_base"


def test_a_pinned_revision_is_a_model_of_its_own(hub, tmp_path):
    report = import_from_hub(f"{ADDRESS}@{COMMIT}", tmp_path / "out")
    assert report.origin["revision"] == COMMIT
    with pytest.raises(InputError, match="not in the cache"):
        find_model(f"{ADDRESS}@{'f' * 40}")


@pytest.mark.parametrize("file", ["config.yaml", "checkpoints/last.ckpt"])
def test_a_file_that_does_not_have_its_hash_is_refused(file, hub):
    path = hub / "snapshots" / COMMIT / "checkpoints" / "mattergen_base" / file
    content = path.read_bytes()
    path.resolve().write_bytes(content + b"\n")
    with pytest.raises(InputError, match="does not have the hash"):
        load_model(ADDRESS)
    assert not cached_models()


def test_offline_and_not_in_the_cache(hub):
    for address in ("hf:microsoft/mattergen/space_group", "hf:someone/else/model"):
        with pytest.raises(InputError, match="HF_HUB_OFFLINE is set") as caught:
            load_model(address)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "hf:microsoft/mattergen",
        "hf:microsoft/mattergen/../../etc",
        "hf:microsoft/mattergen/..",
        "hf:../mattergen/base",
        "hf:microsoft/mattergen/a/b",
        "hf:microsoft//base",
        "hf:",
    ],
)
def test_addresses_that_are_none(address):
    with pytest.raises(InputError, match="is no hub address"):
        HubAddress.parse(address)
    with pytest.raises(InputError, match="is no hub address"):
        find_model(address)


def test_imported_models_are_remembered_while_they_exist(published_folder, tmp_path):
    import_model(published_folder, tmp_path / "mine")
    remember_import(tmp_path / "mine")
    assert list(imported_models()) == [str(tmp_path / "mine")]
    shutil.rmtree(tmp_path / "mine")
    assert not imported_models()


def test_a_hub_that_accepts_and_never_answers_is_given_up(tmp_path):
    """The client retries for minutes; the limit is on all of its tries together."""
    code = (
        "from crystalsmith.checkpoints.published import hub\n"
        "from crystalsmith.errors import InputError\n"
        "hub.SILENCE = 2.0\n"
        "try:\n    hub.import_from_hub('hf:owner/repository/name', 'out')\n"
        "except InputError as error:\n    print(error)\n"
    )
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert "the hub sent nothing for 2 s" in done.stdout
    assert len(done.stdout.splitlines()) == 1
