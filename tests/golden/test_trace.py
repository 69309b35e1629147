"""Intermediate values of the published network, wherever ours has them under another name."""

from __future__ import annotations

import pytest
import torch

from crystalsmith.neighbors import build_edges

CASES = [
    ("small_base_sparse_f64", "small_base", torch.float64, 1e-10),
    ("small_base_f32", "small_base", torch.float32, 2e-5),
    ("small_mag_f32", "small_mag", torch.float32, 2e-5),
]


def record(network, batch, t, conditions):
    """Outputs and inputs of every module during one evaluation."""
    outputs, inputs, handles = {}, {}, []

    def keep(name):
        def hook(module, args, output):
            inputs[name], outputs[name] = args, output

        return hook

    for name, module in network.named_modules():
        handles.append(module.register_forward_hook(keep(name)))
    try:
        with torch.no_grad():
            scores = network(batch, t, conditions)
    finally:
        for handle in handles:
            handle.remove()
    return scores, outputs, inputs


def match_edges(edges, trace):
    """For each of our edges the published one: same ends, same image, or its mirror's convention of the image."""
    source, target = trace["graph.edge_index"]
    image = trace["graph.cell_offsets"].round().long()
    theirs = {
        (s, t, *n): e for e, (s, t, n) in enumerate(zip(source.tolist(), target.tolist(), image.tolist(), strict=True))
    }
    ours = zip(edges.source.tolist(), edges.target.tolist(), edges.image.tolist(), strict=True)
    keys = [(s, t, *n) for s, t, n in ours]
    assert len(theirs) == len(keys)
    return torch.tensor([theirs[key] for key in keys])


@pytest.mark.parametrize(("arrays", "checkpoint", "dtype", "tolerance"), CASES)
def test_trace(arrays, checkpoint, dtype, tolerance, golden, imported, difference):
    file = golden(f"model_ckpt_{arrays}")
    trace, t = file.at("t=0.3/trace."), file["t=0.3/t"].to(dtype)
    model, batch = imported(checkpoint, dtype), file.batch(dtype=dtype)
    network, gemnet = model.network, model.network.config.gemnet
    conditions = None
    if "prop.dft_mag_density" in file:
        values = file["prop.dft_mag_density"].to(dtype).view(-1)
        conditions = {"dft_mag_density": values.masked_fill(file["use_unconditional"].view(-1), float("nan"))}
    scores, out, given = record(network, batch, t, conditions)
    edges = build_edges(batch, gemnet.cutoff, gemnet.max_neighbors, "published", gemnet.max_images)
    order = match_edges(edges, trace)

    def same(actual, name, rows=None):
        expected = trace[name].to(dtype).reshape(actual.shape)
        assert difference(actual, expected[order] if rows is None else expected[rows]) < tolerance, name

    everything = slice(None)
    per_crystal = torch.bincount(batch.batch_index[edges.target], minlength=len(batch))
    assert torch.equal(per_crystal, trace["graph.edges_per_crystal"])
    same(edges.distance, "graph.D_st")
    same(-edges.vector / edges.distance.unsqueeze(-1), "graph.V_st")
    assert torch.equal(order[edges.mirror], trace["graph.id_swap"][order])

    same(out["time"], "time_embedding", everything)
    same(network.species.weight[batch.atomic_numbers - 1], "atom_emb", everything)
    h, radial = given["edges"][:2]
    if conditions is None:  # with an adapter the recorded value is the one that enters block 1
        same(h, "h0", everything)
    same(radial, "rbf")
    same(out["edges"], "edge_emb0")
    same(torch.cat(given["lattice"], -1), "m0.in")
    same(out["lattice"], "m0")
    basis = out["basis"][1]
    for ours, theirs in (("triplet", "rbf3"), ("atom", "rbf_h"), ("output", "rbf_out"), ("lattice", "rbf_lattice")):
        same(getattr(basis, ours), theirs)
    same(basis.circular, "cbf3.rbf_W1")
    same_triplets(basis, edges, trace, order, dtype, tolerance, difference)

    direction = -edges.vector / edges.distance.unsqueeze(-1)
    force, stress = 0, 0
    for index in range(gemnet.num_blocks + 1):
        same(out[f"force_heads.{index}"], f"out{index}.F")
        force, stress = force + out[f"force_heads.{index}"], stress + out[f"lattice_heads.{index}"]
        outer = stress.view(-1, 1, 1) * direction.unsqueeze(-1) * direction.unsqueeze(-2)
        sums = torch.zeros(len(batch), 3, 3, dtype=dtype).index_add(0, batch.batch_index[edges.target], outer)
        cell = sums / per_crystal.clamp(min=1).view(-1, 1, 1)
        parts = sum(trace[f"lat{i}"].to(dtype) for i in range(index + 1))
        assert difference(cell, parts) < tolerance, f"lat0 to lat{index}"
    for index in range(gemnet.num_blocks):
        same(out[f"blocks.{index}.triplets"], f"int{index + 1}.trip")
        same(out[f"blocks.{index}.atom_update"], f"int{index + 1}.atom_update", everything)
        same(out[f"blocks.{index}"][0], f"int{index + 1}.h", everything)
        same(out[f"blocks.{index}"][1], f"int{index + 1}.m")
        if conditions is not None:
            # Unlabelled crystals are multiplied by zero afterwards; what is computed for them is arbitrary.
            rows = ~file["use_unconditional"].view(-1)[batch.batch_index]
            adapted = out[f"adapters.dft_mag_density.{index}.mlp"]
            expected = trace[f"adapt.dft_mag_density.{index}"]
            assert difference(adapted[rows], expected[rows]) < tolerance
    cartesian = edges.sum_to_target(force.unsqueeze(-1) * direction)
    same(cartesian, "gemnet.forces_cart", everything)
    same(scores.cell, "gemnet.stress", everything)
    same(out[f"blocks.{gemnet.num_blocks - 1}"][0], "gemnet.node_embeddings", everything)
    same(scores.species_logits, "fc_atom_logits_unmasked", everything)


def same_triplets(basis, edges, trace, order, dtype, tolerance, difference):
    """The published list of triplets against our table of angles: the same pairs, the same harmonics."""
    atoms, width = edges.shape
    num_spherical = basis.angular.shape[1] // width
    ours_of = torch.empty_like(order)
    ours_of[order] = torch.arange(len(order))
    first, second = ours_of[trace["graph.id3_ca"]], ours_of[trace["graph.id3_ba"]]
    table = basis.angular.view(atoms, width, num_spherical, width)
    rank = edges.slot % width
    assert torch.equal(edges.target[first], edges.target[second])
    found = table[edges.target[first], rank[first], :, rank[second]]
    assert difference(found, trace["cbf_basis.sph"].to(dtype)) < max(tolerance, 1e-10)
    degree = torch.bincount(edges.target, minlength=atoms)
    assert len(first) == int((degree * (degree - 1)).sum()), "every pair of edges at an atom is a triplet"
