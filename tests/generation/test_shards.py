"""Laws of shards: together they are the run that was not cut, and nothing else can be merged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crystalsmith.cli.main import app
from crystalsmith.errors import InputError
from crystalsmith.generation.merge import merge
from crystalsmith.generation.run import Options, generate
from crystalsmith.shards import Shard, choose_shard, command_line, parse_shard

NUM, BATCH = 22, 3


@pytest.fixture(scope="module")
def options(untrained) -> Options:
    return Options(
        model=str(untrained),
        num=NUM,
        seed=5,
        steps=2,
        solver="ancestral",
        batch_size=BATCH,
        precision="float32",
        device="cpu",
        command="crystalsmith generate out",
    )


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    generate(out, options)
    return out


@pytest.fixture(scope="module")
def thirds(options, tmp_path_factory) -> Path:
    """Three shards, not merged."""
    out = tmp_path_factory.mktemp("thirds") / "out"
    for k in (2, 0, 1):
        assert generate(out, dataclasses.replace(options, shard=Shard(k, 3))).status == "complete"
    return out


def files(out: Path) -> dict[str, bytes]:
    paths = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def record(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


@pytest.mark.parametrize("num", [1, 2, 31, 32, 33, 1000])
@pytest.mark.parametrize("n", [1, 3, 7, 50])
def test_shards_hand_out_every_crystal_once_in_whole_batches(num: int, n: int) -> None:
    spans = [Shard(k, n).span(num, 8) for k in range(n)]
    assert [i for span in spans for i in span] == list(range(num))
    assert all(span.start % 8 == 0 or not span for span in spans)
    batches = [-(-len(span) // 8) for span in spans]
    assert max(batches) - min(batches) <= 1


@pytest.mark.parametrize("n", [1, 3, 7])
def test_merged_shards_are_the_unsharded_run_byte_for_byte(options, whole, tmp_path, n: int) -> None:
    out = tmp_path / "out"
    for k in reversed(range(n)):
        generate(out, dataclasses.replace(options, shard=Shard(k, n)))
    merge(out)
    assert files(out) == files(whole)
    merged, expected = record(out), record(whole)
    assert set(merged) - {"merged", "lineage"} == set(expected)
    for name in ("status", "settings", "counts", "columns", "failed", "model", "versions", "format"):
        assert merged[name] == expected[name], name
    assert [batch[:2] for batch in merged["batches"]] == [batch[:2] for batch in expected["batches"]]
    with pytest.raises(InputError, match="holds no shards"):
        merge(out)
    assert generate(out, Options(), resume=True).status == "complete"
    assert files(out) == files(whole)


def test_a_finished_shard_is_skipped_and_an_unfinished_one_goes_on(options, thirds, tmp_path) -> None:
    out = tmp_path / "out"
    shutil.copytree(thirds, out)
    wanted = dataclasses.replace(options, shard=Shard(1, 3))
    assert generate(out, wanted).seconds_per_crystal == 0
    place = Shard(1, 3).folder(out)
    cut = record(place)
    cut |= {"batches": cut["batches"][:1], "status": "stopped"}
    (place / "manifest.json").write_text(json.dumps(cut))
    (place / "crystals.csv").write_bytes((place / "crystals.csv").read_bytes()[:-40])
    summary = generate(out, wanted)
    assert (summary.status, summary.finished, summary.requested) == ("complete", len(wanted.shard.span(NUM, BATCH)), 9)
    assert files(out) == files(thirds)


def test_what_is_missing_is_named_with_the_command(options, thirds, tmp_path) -> None:
    out = tmp_path / "out"
    shutil.copytree(thirds, out)
    shutil.rmtree(Shard(1, 3).folder(out))
    with pytest.raises(InputError, match=r"1 of the 3 shards .* \(1\).*: crystalsmith generate out --shard 1/3"):
        merge(out)
    generate(out, dataclasses.replace(options, shard=Shard(1, 3), seed=6))
    with pytest.raises(InputError, match=r"Shards 0/3 and 1/3 .* other settings"):
        merge(out)
    shutil.rmtree(Shard(1, 3).folder(out))
    generate(out, dataclasses.replace(options, shard=Shard(1, 4)))
    with pytest.raises(InputError, match="holds shards of 3 and 4"):
        merge(out)


def test_damage_is_found(thirds, tmp_path) -> None:
    out = tmp_path / "out"
    shutil.copytree(thirds, out)
    table = Shard(2, 3).folder(out) / "crystals.csv"
    table.write_bytes(table.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"Shard 2/3 .* does not hold its crystals 15 to 21 in full"):
        merge(out)


def test_a_damaged_manifest_is_one_sentence(thirds, tmp_path) -> None:
    out = tmp_path / "out"
    shutil.copytree(thirds, out)
    file = Shard(1, 3).folder(out) / "manifest.json"
    manifest = json.loads(file.read_text())
    refused = 0
    for key in manifest:
        for value in (None, "x", -1, [], {}, [[]], True, "gone"):
            damaged = {k: v for k, v in manifest.items() if k != key} | ({} if value == "gone" else {key: value})
            file.write_text(json.dumps(damaged))
            try:
                merge(out)
            except InputError:
                refused += 1
            else:  # a field that the result does not rest on
                shutil.rmtree(out)
                shutil.copytree(thirds, out)
    assert refused > 4 * len(manifest)


@pytest.mark.parametrize("moment", range(1, 7))
def test_a_killed_merge_can_be_done_again(whole, thirds, tmp_path, monkeypatch, moment: int) -> None:
    import os

    out, real, count = tmp_path / "out", os.replace, 0
    shutil.copytree(thirds, out)

    def fragile(source, target):
        nonlocal count
        count += 1
        if count == moment:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", fragile)
    try:
        merge(out)
    except KeyboardInterrupt:
        assert (out / "shards").is_dir()
        monkeypatch.setattr(os, "replace", real)
        merge(out)
    assert files(out) == files(whole)


def test_a_whole_run_and_shards_do_not_mix(options, whole, thirds) -> None:
    with pytest.raises(InputError, match="holds a whole run"):
        generate(whole, dataclasses.replace(options, shard=Shard(0, 2)))
    with pytest.raises(InputError, match="not empty"):
        generate(thirds, options)
    with pytest.raises(InputError, match="holds no shards"):
        merge(whole)


def test_shards_need_no_cif_of_each_crystal(options, tmp_path) -> None:
    out = tmp_path / "out"
    for k in range(2):
        generate(out, dataclasses.replace(options, num=8, shard=Shard(k, 2), cif=False))
    merge(out)
    generate(tmp_path / "whole", dataclasses.replace(options, num=8, cif=False))
    assert files(out) == files(tmp_path / "whole")
    assert sorted(files(out)) == ["crystals.csv", "crystals.extxyz"]


def slurm(task: int, low: int, high: int, count: int) -> dict[str, str]:
    values = {"ID": task, "MIN": low, "MAX": high, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def test_a_slurm_array_says_which_shard() -> None:
    assert choose_shard(None, {}) is None
    assert choose_shard(None, slurm(3, 0, 7, 8)) == Shard(3, 8)
    assert choose_shard("1/2", slurm(3, 0, 7, 8)) == Shard(1, 2)
    assert choose_shard("none", slurm(3, 0, 7, 8)) is None
    one_based, sparse = slurm(8, 1, 8, 8), slurm(4, 0, 6, 4)
    for wrong, count in ((one_based, 8), (sparse, 4), (slurm(3, 3, 3, 1), 1)):
        with pytest.raises(InputError, match=f"sbatch --array=0-{count - 1}'"):
            choose_shard(None, wrong)
    with pytest.raises(InputError, match="give --shard k/n"):
        choose_shard(None, {"SLURM_ARRAY_TASK_ID": "3"})


@pytest.mark.parametrize("text", ["3/3", "8/8", "1", "a/b", "-1/2", "0/0", "1/2/3", ""])
def test_no_shard(text: str) -> None:
    with pytest.raises(InputError, match="--shard"):
        parse_shard(text)


def test_the_command_without_its_shard() -> None:
    typed = ["/bin/crystalsmith", "generate", "my out", "--shard", "1/3", "--num", "9"]
    assert command_line(typed) == "crystalsmith generate 'my out' --num 9"
    assert command_line([*typed[:3], "--shard=1/3"]) == "crystalsmith generate 'my out'"


def test_the_command_line(untrained, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    for name, value in slurm(1, 0, 1, 2).items():
        monkeypatch.setenv(name, value)
    out = str(tmp_path / "out")
    asked = ["generate", out, "--num", "4", "--model", str(untrained), "--steps", "1", "--batch-size", "2"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "This task of the SLURM array makes shard 1/2" in result.output
    assert CliRunner().invoke(app, [*asked, "--shard", "0/2"]).exit_code == 0
    result = CliRunner().invoke(app, ["merge", out])
    assert "4 crystals of 2 shards" in result.output


@pytest.mark.parametrize("cut", [0, 1, 60, 2000])
def test_a_run_whose_files_grow_in_place_is_the_same_and_goes_on(options, whole, tmp_path, monkeypatch, cut) -> None:
    """As in runs of more than a thousand batches: the first are told as one, a tail that is cut short is made again."""
    from crystalsmith.generation import folder

    monkeypatch.setattr(folder, "WHOLE", 0)
    monkeypatch.setattr(folder, "NAMED", 2)
    out = tmp_path / "out"
    generate(out, options)
    assert files(out) == files(whole)
    batches = record(out)["batches"]
    assert [batch[:2] for batch in batches] == [[0, 21], [21, 22]]
    assert batches[0][3] == BATCH
    for name in ("crystals.csv", "crystals.extxyz"):
        data = (out / name).read_bytes()
        (out / name).write_bytes(data[: len(data) - cut])
    summary = generate(out, Options(), resume=True)
    assert (summary.status, summary.finished) == ("complete", NUM)
    assert files(out) == files(whole)
