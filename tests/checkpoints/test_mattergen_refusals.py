"""Files that are damaged, of another kind, or would run code: each is refused in one sentence, and nothing runs."""

from __future__ import annotations

import copy
import io
import os
import pickle
import zipfile

import pytest
import torch
import yaml

from crystalsmith.checkpoints.published.mattergen import import_model
from crystalsmith.checkpoints.published.names import PREFIX
from crystalsmith.errors import InputError

FORCE = f"{PREFIX}gemnet.out_blocks.0.out_forces.linear.weight"


def refuse(source, tmp_path, match):
    """The import fails with one sentence that matches, and leaves nothing behind."""
    out = tmp_path / "out"
    with pytest.raises(InputError, match=match) as caught:
        import_model(source, out)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert not out.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


class Bomb:
    """A pickle of this runs a command."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_pickle_that_would_run_a_command(tmp_path, make_checkpoint, make_folder):
    config, content = make_checkpoint()
    target = tmp_path / "ran"
    source = make_folder(tmp_path / "a", config, {**content, "callbacks": Bomb(target)})
    refuse(source, tmp_path, "code in a checkpoint is never run")
    assert not target.exists()


def test_a_bare_pickle(tmp_path, published_folder):
    target = tmp_path / "ran"
    (published_folder / "checkpoints" / "last.ckpt").write_bytes(pickle.dumps(Bomb(target)))
    refuse(published_folder, tmp_path, "not a checkpoint as torch writes them")
    assert not target.exists()


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("x: !!python/object/apply:os.system ['touch {}']", "something other than plain data"),
        ("x: !!python/name:os.system", "something other than plain data"),
        ("x: &a [1]\ny: *a", "aliases"),
        ("x: [1, 2", "not valid YAML"),
        ("- a list", "not valid YAML"),
    ],
)
def test_yaml_that_is_no_plain_data(line, match, tmp_path, published_folder):
    target = tmp_path / "ran"
    path = published_folder / "config.yaml"
    path.write_text(path.read_text() + line.format(target) + "\n")
    refuse(published_folder, tmp_path, match)
    assert not target.exists()


def edited(source, keys, value):
    """Change one entry of ``config.yaml``."""
    path = source / "config.yaml"
    data = yaml.safe_load(path.read_text())
    node = data
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    path.write_text(yaml.safe_dump(data))
    return source


MODEL = ("lightning_module", "diffusion_module", "model")


@pytest.mark.parametrize(
    ("keys", "value", "match"),
    [
        ((*MODEL, "hidden_dim"), "${eval:__import__('os').system('touch ran')}", "interpolation"),
        ((*MODEL, "gemnet", "cutoff"), "${oc.env:HOME}", "interpolation"),
        ((*MODEL, "_target_"), "os.system", "_target_ 'os.system', which is not known"),
        ((*MODEL, "gemnet", "_target_"), "builtins.eval", "_target_ 'builtins.eval', which is not known"),
        ((*MODEL, "element_mask_func"), {"_target_": "os.system"}, "not known"),
        ((*MODEL, "gemnet", "atom_embedding", "_target_"), "some.Class", "not known"),
        ((*MODEL, "property_embeddings_adapt", "dft_mag_density", "scaler"), {"_target_": "a.B"}, "not known"),
        (
            (*MODEL, "property_embeddings_adapt", "dft_mag_density", "conditional_embedding_module", "_target_"),
            "os.system",
            "not known",
        ),
        ((*MODEL, "gemnet", "activation"), "tanh", "the setting 'activation'"),
        ((*MODEL, "gemnet", "cutoff"), "far", "must be a number"),
        ((*MODEL, "gemnet", "cutoff"), float("nan"), "must be a number"),
        ((*MODEL, "gemnet", "num_blocks"), 10**9, "positive whole number"),
        ((*MODEL, "gemnet", "num_blocks"), True, "positive whole number"),
        ((*MODEL, "gemnet", "emb_size_edge"), 32, "only one width"),
        ((*MODEL, "gemnet", "latent_dim"), 64, "latent_dim"),
        ((*MODEL, "gemnet", "condition_on_adapt"), [], "condition_on_adapt"),
        ((*MODEL, "denoise_atom_types"), False, "does not denoise elements"),
        ((*MODEL, "property_embeddings"), {"../../x": {}}, "letters, digits and underscores"),
        (("lightning_module",), "a string", "not a mapping"),
        (("lightning_module", "diffusion_module", "corruption", "sdes", "pos", "_target_"), "a.B", "not known"),
    ],
)
def test_configurations_that_are_not_known(keys, value, match, tmp_path, published_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse(edited(published_folder, keys, value), tmp_path, match)
    assert not (tmp_path / "ran").exists()


def test_other_sections_may_hold_anything_and_are_not_looked_at(tmp_path, published_folder):
    edited(published_folder, ("trainer",), {"_target_": "os.system", "command": "${oc.env:HOME}"})
    import_model(published_folder, tmp_path / "out")


def test_links_and_entries_that_lead_out(tmp_path, published_folder):
    path = published_folder / "checkpoints" / "last.ckpt"
    content = path.read_bytes()
    outside = tmp_path / "elsewhere.ckpt"
    path.rename(outside)
    path.symlink_to(outside)
    refuse(published_folder, tmp_path, "a link that leads out")
    path.unlink()
    with zipfile.ZipFile(io.BytesIO(content)) as given, zipfile.ZipFile(path, "w") as taken:
        for entry in given.infolist():
            taken.writestr(entry, given.read(entry))
        taken.writestr("../../escaped", b"x")
    refuse(published_folder, tmp_path, "leads out of the archive")


def test_damaged_files(tmp_path, published_folder):
    path = published_folder / "checkpoints" / "last.ckpt"
    content = path.read_bytes()
    for size in (10, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:size])
        refuse(published_folder, tmp_path, "truncated or damaged zip file")
    path.write_bytes(b"")
    refuse(published_folder, tmp_path, "not a checkpoint as torch writes them")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 1000)
    refuse(published_folder, tmp_path, "compressed entries")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/readme", b"hello")
    refuse(published_folder, tmp_path, "cannot be read")


def test_a_flipped_bit_is_noticed(tmp_path, published_folder):
    """Torch maps the numbers without a look at the checksums of the archive; the import looks."""
    path = published_folder / "checkpoints" / "last.ckpt"
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 30 + len(largest.filename) + 128 + largest.file_size // 2] ^= 1
    path.write_bytes(content)
    refuse(published_folder, tmp_path, "its checksum differs")


def test_a_git_lfs_pointer(tmp_path, published_folder):
    path = published_folder / "checkpoints" / "last.ckpt"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 536870912\n")
    refuse(published_folder, tmp_path, "Git-LFS pointer")


def changed(state, change):
    state = copy.copy(state)
    change(state)
    return state


def swap(state):
    one, other = f"{PREFIX}gemnet.mlp_rbf3.linear.weight", f"{PREFIX}fc_atom.weight"
    state[one], state[other] = state[other], state[one]


def with_nan(state):
    state[FORCE] = state[FORCE].clone()
    state[FORCE][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop(FORCE), "lacks the tensor '.*out_blocks.0.out_forces.linear.weight'"),
        (lambda s: s.update({f"{PREFIX}gemnet.more": torch.ones(1)}), "unknown tensor '.*gemnet.more'"),
        (lambda s: s.update({"other": torch.ones(1)}), "unknown tensor 'other'"),
        (swap, "mlp_rbf3.linear.weight' has shape"),
        (with_nan, "out_forces.linear.weight' holds numbers that are not finite"),
        (lambda s: s.update({FORCE: torch.full((1, 16), float("inf"))}), "not finite"),
        (lambda s: s.update({FORCE: torch.ones(1, 16, dtype=torch.int64)}), "not an array of real numbers"),
        (lambda s: s.update({FORCE: torch.ones(1, 16).to_sparse()}), "not an array of real numbers"),
        (lambda s: s.update({FORCE: 3.0}), "not an array of real numbers"),
        (
            lambda s: s.update({f"{PREFIX}gemnet.out_blocks.0.seq_energy.0.linear.weight": torch.ones(16, 16)}),
            "its other name",
        ),
    ],
)
def test_tensors_that_do_not_fit(change, match, tmp_path, make_checkpoint, make_folder):
    config, content = make_checkpoint()
    content["state_dict"] = changed(content["state_dict"], change)
    refuse(make_folder(tmp_path / "a", config, content), tmp_path, match)


def test_no_checkpoint_of_the_kind(tmp_path, make_checkpoint, make_folder):
    config, content = make_checkpoint()
    refuse(tmp_path / "nowhere", tmp_path, "does not exist")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", tmp_path, "holds no config.yaml")
    refuse(make_folder(tmp_path / "a", config, {"weights": {}}), tmp_path, "holds no 'state_dict'")
    refuse(make_folder(tmp_path / "a", config, {"state_dict": 3}), tmp_path, "no table of tensors")
    (tmp_path / "a" / "checkpoints" / "last.ckpt").unlink()
    refuse(tmp_path / "a", tmp_path, r"no \*.ckpt")
    make_folder(tmp_path / "a", config, content, "epoch=1-loss_val=0.5.ckpt")
    refuse(tmp_path / "a", tmp_path, "no checkpoint 'last'")


def test_a_folder_that_is_taken_is_left_alone(tmp_path, published_folder):
    out = tmp_path / "taken"
    out.mkdir()
    (out / "mine").write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        import_model(published_folder, out)
    assert [path.name for path in out.iterdir()] == ["mine"]
