"""Many crystals relaxed at once end where each ends alone, whatever happens to their companions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.evaluation.conftest import CORNERS, FCC
from tests.evaluation.lennard_jones import LennardJones

from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError
from crystalsmith.evaluation.potential.batch_relaxation import relax_in_batches
from crystalsmith.evaluation.potential.batched import make_batch_potential
from crystalsmith.evaluation.potential.fire import LONGEST_MOVE, Walk, largest_force, step
from crystalsmith.evaluation.potential.potentials import find_potential, make_calculator
from crystalsmith.evaluation.potential.relaxation import BATCH, batch_size, relax
from crystalsmith.evaluation.potential.relaxed import Relaxation
from crystalsmith.evaluation.run import Options, evaluate

LJ = "tests.evaluation.lennard_jones:make"
SETTINGS = Relaxation(LJ, fmax=0.01, steps=300)


def crystal(seed: int, repeats: int = 1, rattle: float = 0.15):
    """Argon and krypton in a strained rock salt or CsCl cell of about the right size, ``repeats`` cells long."""
    rng = np.random.default_rng(seed)
    cell = (5.3 * FCC if seed % 2 else 3.2 * np.eye(3)) @ (np.eye(3) + 0.03 * rng.standard_normal((3, 3)))
    frac = np.concatenate([(CORNERS + [k, 0, 0]) / [repeats, 1, 1] for k in range(repeats)])
    cell = cell * np.array([[repeats], [1], [1]])
    frac = frac + rattle * rng.standard_normal(frac.shape) @ np.linalg.inv(cell)
    return frac, cell, np.array([18, 36] * repeats)


def tasks(crystals):
    return [(f"c{k}", "", arrays) for k, arrays in enumerate(crystals)]


def relaxed(crystals, settings=SETTINGS, potential=None, size=8):
    found = list(relax_in_batches(tasks(crystals), settings, potential or LennardJones(), size))
    assert len(found) == len(crystals)
    return {r.id: r for r in sorted(found, key=lambda r: r.id)}


def test_fcc_finds_its_lattice_constant() -> None:
    """Nearest neighbours at (2 A12 / A6)^(1/6) = 1.0902 sigma; A12 = 12.13188, A6 = 14.45392 (Kittel, chapter 3).

    The cut-off lies between two shells; what is beyond it shifts the result by less than 0.1 %.
    """
    potential = LennardJones(cutoff=4.64 * 1.0902 * 2.6, smooth=False)
    settings = replace(SETTINGS, fmax=0.001)
    crystals = [(np.zeros((1, 3)), s * 1.0902 * 2.6 * np.sqrt(2) * FCC, np.array([18])) for s in (0.97, 1.03)]
    for found in relaxed(crystals, settings, potential).values():
        assert found.failure == ""
        assert abs(np.linalg.det(found.arrays[1])) == pytest.approx((1.0902 * 2.6) ** 3 / np.sqrt(2), rel=4e-3)
        assert np.abs(found.stress).max() < 1e-3


def test_companions_and_order_do_not_matter() -> None:
    crystals = [crystal(k, 1 + k % 3) for k in range(4)]
    alone = {k: r for k, arrays in enumerate(crystals) for r in relaxed([arrays]).values()}
    together, in_pairs = relaxed(crystals), relaxed(crystals, size=2)
    backwards = relaxed(crystals[::-1])
    for k, expected in alone.items():
        assert expected.failure == ""
        for found in (together[f"c{k}"], in_pairs[f"c{k}"], backwards[f"c{len(crystals) - 1 - k}"]):
            assert found.steps == expected.steps
            assert found.energy == pytest.approx(expected.energy, abs=1e-8)
            assert np.allclose(found.cell, expected.cell, atol=1e-6)
            shift = found.arrays[0] - expected.arrays[0]
            assert np.abs(shift - shift.round()).max() < 1e-6


def test_energies_fall_and_forces_vanish() -> None:
    crystals = [crystal(k, 2) for k in range(4)]
    potential = LennardJones()
    before = potential.evaluate(CrystalBatch.from_arrays(crystals, torch.float64)).energy.tolist()
    for energy, found in zip(before, relaxed(crystals).values(), strict=True):
        assert found.failure == ""
        assert found.energy < energy - 0.01
        end = CrystalBatch.from_arrays([found.arrays], torch.float64)
        again = potential.evaluate(end)
        assert float(again.energy) == pytest.approx(found.energy, abs=1e-9)
        assert float(largest_force(end, again.forces, again.stress)) < SETTINGS.fmax
        assert np.allclose(again.forces, found.forces, atol=1e-6)
        assert found.rmsd is None or found.rmsd > 0
        assert found.seconds > 0
        assert found.optimizer == "fire"


def test_a_batch_stays_full_and_no_fuller() -> None:
    potential = LennardJones()
    found = relaxed([crystal(k) for k in range(6)], potential=potential, size=3)
    steps = sum(r.steps + 1 for r in found.values())
    assert max(potential.sizes) == 3
    assert sum(potential.sizes) == steps
    # All but the last crystals relax in a full batch.
    shrinking = next(k for k, size in enumerate(potential.sizes) if size < 3)
    assert set(potential.sizes[:shrinking]) == {3}
    assert potential.sizes[shrinking:] == sorted(potential.sizes[shrinking:], reverse=True)
    assert len(potential.sizes) - shrinking <= max(r.steps + 1 for r in found.values())


def test_a_supercell_takes_the_way_of_its_cell() -> None:
    """The scale of the strain makes the cell as stiff as an atom for any number of atoms.

    Near the minimum, where no step is shortened to the longest move.
    """
    frac, cell, numbers = crystal(0, rattle=0.02)
    cell = 1.15 * cell
    double = np.concatenate([frac / [2, 1, 1], (frac + [1, 0, 0]) / [2, 1, 1]])
    one = Walk.start(CrystalBatch.from_arrays([(frac, cell, numbers)], torch.float64))
    two = Walk.start(CrystalBatch.from_arrays([(double, cell * [[2], [1], [1]], np.tile(numbers, 2))], torch.float64))
    energies = []
    for _ in range(12):
        a, b = LennardJones().evaluate(one.batch), LennardJones().evaluate(two.batch)
        assert float(b.energy) == pytest.approx(2 * float(a.energy), abs=1e-9)
        one, two = step(one, a.forces, a.stress), step(two, b.forces, b.stress)
        energies.append(float(a.energy))
    assert energies[-1] < energies[0] - 0.2
    assert torch.allclose(two.batch.cell[0, 1:], one.batch.cell[0, 1:], atol=1e-9)


def test_no_atom_moves_further_than_it_may() -> None:
    walk = Walk.start(CrystalBatch.from_arrays([crystal(1, 2), crystal(2)], torch.float64))
    forces = 1e6 * torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = step(walk, forces, torch.zeros(2, 3, 3, dtype=torch.float64)).batch
    shift = moved.frac_coords - walk.batch.frac_coords
    length = torch.einsum("ni,nij->nj", shift, walk.batch.cell[walk.batch.batch_index]).norm(dim=-1)
    assert length.split([4, 2])[0].max() == pytest.approx(LONGEST_MOVE)
    assert length.split([4, 2])[1].max() == pytest.approx(LONGEST_MOVE)


class Trouble(LennardJones):
    """Fails for some crystals: neon raises, and of more than ``room`` atoms there is no memory."""

    room = 10**9

    def evaluate(self, batch):
        if len(batch.frac_coords) > self.room:
            raise torch.OutOfMemoryError("of the device")
        if (batch.atomic_numbers == 10).any():
            raise RuntimeError("no neon")
        return super().evaluate(batch)


def neon(seed: int):
    frac, cell, numbers = crystal(seed)
    return frac, cell, 0 * numbers + 10


def test_a_failure_costs_only_its_crystal() -> None:
    good = [crystal(k) for k in range(3)]
    crystals = [good[0], neon(1), good[1], (good[0][0], good[0][1], np.array([18, 47])), good[2], neon(5)]
    found, expected = relaxed(crystals, potential=Trouble()), relaxed(good)
    assert [found[f"c{k}"].failure for k in range(6)] == [
        "", "potential_failed", "", "unknown_element", "", "potential_failed"
    ]  # fmt: skip
    assert "no neon" in found["c1"].detail
    assert "Ag" in found["c3"].detail
    for k, name in enumerate(("c0", "c2", "c4")):
        assert found[name].energy == pytest.approx(expected[f"c{k}"].energy, abs=1e-8)


def test_a_displacement_that_cannot_be_had_costs_only_its_crystal(monkeypatch) -> None:
    from crystalsmith.evaluation.potential import relaxed as left_behind

    plain = left_behind.rms_displacement

    def fragile(one, other):
        if len(one[2]) == 4:
            raise ValueError("no such lattice")
        return plain(one, other)

    monkeypatch.setattr(left_behind, "rms_displacement", fragile)
    found = relaxed([crystal(0), crystal(1, 2), crystal(2)])
    assert [found[f"c{k}"].failure for k in range(3)] == ["", "potential_failed", ""]
    assert "no such lattice" in found["c1"].detail


def test_what_does_not_fit_into_memory_is_divided() -> None:
    potential = Trouble()
    potential.room = 8
    crystals = [crystal(k, 1 + k % 2) for k in range(4)] + [crystal(9, 6)]
    found, expected = relaxed(crystals, potential=potential), relaxed(crystals)
    assert found["c4"].failure == "potential_failed"
    assert "OutOfMemoryError" in found["c4"].detail
    for k in range(4):
        assert found[f"c{k}"].failure == ""
        assert found[f"c{k}"].energy == pytest.approx(expected[f"c{k}"].energy, abs=1e-8)


def test_a_potential_that_dies_ends_the_run_with_a_sentence() -> None:
    class Dying(LennardJones):
        def evaluate(self, batch):
            if len(self.sizes) == 5:
                raise RuntimeError("device-side assert")
            return super().evaluate(batch)

    with pytest.raises(InputError, match=r"device-side assert.*--resume"):
        relaxed([crystal(k) for k in range(3)], potential=Dying())


class Broken(LennardJones):
    """What is named is not finite for crystals that hold neon."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def evaluate(self, batch):
        found = super().evaluate(batch)
        holds = torch.zeros(len(batch)).index_add(0, batch.batch_index, (batch.atomic_numbers == 10).float()) > 0
        where = holds[batch.batch_index] if self.name == "forces" else holds
        values = getattr(found, self.name).clone()
        values[where] = torch.nan
        return replace(found, **{self.name: values})


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_numbers_that_are_none_are_a_failure_of_one_crystal(name) -> None:
    found = relaxed([crystal(0), neon(1), crystal(2)], potential=Broken(name))
    assert [found[f"c{k}"].failure for k in range(3)] == ["", "exploded", ""]
    assert "not finite" in found["c1"].detail


def test_what_goes_wrong_is_told() -> None:
    small = crystal(0)[0], 0.7 * crystal(0)[1], np.array([18, 36])
    found = relaxed([crystal(0), small], replace(SETTINGS, max_volume_change=2.0))
    assert (found["c0"].failure, found["c1"].failure) == ("", "exploded")
    assert found["c1"].cell is None
    stopped = relaxed([crystal(0)], replace(SETTINGS, steps=3))["c0"]
    assert (stopped.failure, stopped.steps) == ("not_converged", 3)
    assert stopped.energy is not None
    assert relaxed([crystal(0)], replace(SETTINGS, time_limit=0.0))["c0"].failure == "timed_out"


def test_a_run_is_kept_and_goes_on(tmp_path) -> None:
    from crystalsmith.formats import extxyz_frame

    text = "".join(extxyz_frame(*crystal(k), {"id": f"c{k}"}) for k in range(4))
    (tmp_path / "a.extxyz").write_text(text)
    settings = replace(SETTINGS, batch=2)
    found = evaluate(tmp_path / "a.extxyz", tmp_path / "out", Options(relaxation=settings))["metrics"]
    assert found["relaxed"]["count"] == 4
    file = tmp_path / "out" / "relaxed.jsonl"
    lines = file.read_text().splitlines()
    # A run that was killed while it wrote its third result, and goes on with other batches.
    file.write_text("\n".join([*lines[:3], lines[3][:40]]))
    options = Options(relaxation=replace(settings, batch=4), resume=True)
    again = evaluate(tmp_path / "a.extxyz", tmp_path / "out", options)["metrics"]
    assert again["relaxed"] == found["relaxed"]
    after = file.read_text().splitlines()
    assert after[:3] == lines[:3]
    before = {json.loads(line)["id"]: json.loads(line) for line in lines[1:]}
    for line in after[1:]:
        result = json.loads(line)
        assert result["energy"] == pytest.approx(before[result["id"]]["energy"], abs=1e-8)


def test_batches_are_for_gpus_and_for_who_asks() -> None:
    assert batch_size(Relaxation("7net-0", device="cpu")) == 0
    assert batch_size(Relaxation("7net-0", device="cuda:1")) == BATCH
    assert batch_size(Relaxation("chgnet", device="cuda")) == 0
    assert batch_size(Relaxation("7net-0", device="cuda", batch=0)) == 0
    assert batch_size(Relaxation("7net-0", device="cpu", batch=3)) == 3
    with pytest.raises(InputError, match="--batch-relax"):
        make_batch_potential(find_potential("ase.calculators.emt:EMT"))


@pytest.mark.slow
def test_sevennet_says_the_same_of_a_batch_and_ends_where_bfgs_does() -> None:
    """Known crystals, strained and rattled; energies within 1 meV/atom, as between optimisers of one crystal."""
    pytest.importorskip("sevenn")
    from ase import Atoms
    from ase.build import bulk

    crystals = []
    for seed, atoms in enumerate([bulk("NaCl", "rocksalt", a=5.64), bulk("Cu", a=3.61), bulk("Si", a=5.43)]):
        rng = np.random.default_rng(seed)
        cell = atoms.cell.array @ (1.03 * np.eye(3) + 0.01 * rng.standard_normal((3, 3)))
        moved = atoms.get_scaled_positions() + 0.08 * rng.standard_normal((len(atoms), 3)) @ np.linalg.inv(cell)
        crystals.append((moved, cell, atoms.numbers.astype(np.int64)))
    calculator = make_calculator(find_potential("7net-0"), "cpu")
    potential = make_batch_potential(find_potential("7net-0"), "cpu")
    batch = CrystalBatch.from_arrays(crystals, torch.float64)
    said = potential.evaluate(batch)
    for place, (frac, cell, numbers) in enumerate(crystals):
        atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell, pbc=True, calculator=calculator)
        one = said.select(batch, [place])
        assert float(one.energy) == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
        assert np.allclose(one.forces, atoms.get_forces(), atol=1e-4)
        assert np.allclose(one.stress[0], atoms.get_stress(voigt=False), atol=1e-5)
    settings = Relaxation("7net-0")
    for (name, found), arrays in zip(relaxed(crystals, settings, potential).items(), crystals, strict=True):
        expected = relax(name, "", arrays, calculator, settings)
        assert found.failure == expected.failure == ""
        assert abs(found.energy - expected.energy) / len(arrays[2]) < 1e-3
        assert np.linalg.norm(found.forces, axis=1).max() < settings.fmax
        # The stress that fmax leaves is 1.5 % of the volume of NaCl (24 GPa), for each of the two.
        assert np.linalg.det(found.cell) == pytest.approx(np.linalg.det(expected.cell), rel=0.03)
