"use strict";
// Everything on the page is made here from the data in the page; nothing is fetched.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) name === "class" ? (node.className = value) : node.setAttribute(name, value);
  node.append(...children);
  return node;
}
function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
const short = (x) => (typeof x !== "number" ? (x ?? "") : Number.isInteger(x) ? String(x) : Math.abs(x) >= 100 ? x.toFixed(1) : String(+x.toPrecision(4)));

function fillTable(id, head, rows) {
  const table = $(id);
  if (head) table.append(element("thead", {}, element("tr", {}, ...head.map((h) => element("th", {}, h)))));
  table.append(element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, String(cell ?? "")))))));
}

// --- charts: bars of the crystals, a line of the reference, both as shares -------------------------------------------
function chart(place, title, labels, ours, theirs) {
  const width = 340, height = 170, left = 34, bottom = 24, top = 8;
  const peak = Math.max(...ours, ...(theirs || [0]), 1e-9);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  const step = (width - left - 6) / ours.length;
  const y = (v) => height - bottom - (v / peak) * (height - bottom - top);
  svg.append(shape("line", { x1: left, x2: width - 6, y1: y(0), y2: y(0), stroke: "currentColor", opacity: 0.3 }));
  ours.forEach((v, i) => {
    const bar = shape("rect", { x: left + i * step + 0.5, y: y(v), width: Math.max(step - 1, 1), height: y(0) - y(v), class: "ours" });
    bar.append(shape("title", {}, `${labels[i]}: ${(100 * v).toFixed(1)} %` + (theirs ? ` (reference ${(100 * theirs[i]).toFixed(1)} %)` : "")));
    svg.append(bar);
  });
  if (theirs) {
    const points = theirs.map((v, i) => `${left + i * step},${y(v)} ${left + (i + 1) * step},${y(v)}`).join(" ");
    svg.append(shape("polyline", { points, class: "theirs" }));
  }
  const every = Math.ceil(labels.length / 8);
  labels.forEach((label, i) => { if (i % every === 0) svg.append(shape("text", { x: left + (i + 0.5) * step, y: height - 8, "text-anchor": "middle" }, label)); });
  svg.append(shape("text", { x: left - 4, y: top + 8, "text-anchor": "end" }, `${(100 * peak).toFixed(0)} %`));
  $(place).append(element("div", { class: "chart" }, element("h3", {}, title), svg));
}

function periodicTable() {
  const peak = Math.max(...data.elements.map((e) => e.share), 1e-9);
  for (const e of data.elements) {
    const strength = Math.sqrt(e.share / peak);
    const box = element("div", { title: `${e.symbol}: in ${(100 * e.share).toFixed(1)} % of crystals` + (e.reference === null ? "" : `; ${(100 * e.ours).toFixed(1)} % of atoms (reference ${(100 * e.reference).toFixed(1)} %)`) }, e.symbol, element("small", {}, e.share ? (100 * e.share).toFixed(1) : ""));
    box.style.gridColumn = e.group;
    box.style.gridRow = e.period;
    if (e.share) {
      box.style.background = `color-mix(in srgb, var(--accent) ${Math.round(15 + 80 * strength)}%, var(--band))`;
      if (strength > 0.55) box.style.color = "#fff";
    }
    $("elements").append(box);
  }
}

// --- the viewer -------------------------------------------------------------------------------------------------------
const views = {};
function cartesian(c, f) { return [0, 1, 2].map((k) => f[0] * c[k] + f[1] * c[3 + k] + f[2] * c[6 + k]); }
function points(crystal) {
  // Atoms on a face, edge or corner of the cell are shown on the opposite ones as well.
  const found = [];
  for (let i = 0; i < crystal.z.length; i++) {
    const f = crystal.frac.slice(3 * i, 3 * i + 3);
    const options = f.map((x) => (x < 0.01 ? [x, x + 1] : x > 0.99 ? [x, x - 1] : [x]));
    for (const a of options[0]) for (const b of options[1]) for (const c of options[2]) found.push([crystal.z[i], cartesian(crystal.cell, [a, b, c])]);
  }
  return found;
}
// The conventional cell: its rows are whole numbers of steps along the rows of the given one.
function conventional(crystal) {
  const s = crystal.steps, row = (m, k) => m.slice(3 * k, 3 * k + 3);
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const volume = dot(row(s, 0), cross(row(s, 1), row(s, 2)));
  const dual = [0, 1, 2].map((k) => cross(row(s, (k + 1) % 3), row(s, (k + 2) % 3)).map((x) => x / volume));
  // Corners of the new cell bound the steps that have to be looked at; atoms may stand up to one step further.
  const range = [0, 1, 2].map((k) => {
    let low = 0, high = 0;
    for (const i of [0, 1, 2]) s[3 * i + k] < 0 ? (low += s[3 * i + k]) : (high += s[3 * i + k]);
    return [low - 1, high];
  });
  const found = { z: [], frac: [], cell: [0, 1, 2].flatMap((k) => cartesian(crystal.cell, row(s, k))) };
  crystal.z.forEach((z, i) => {
    const f = row(crystal.frac, i);
    for (let a = range[0][0]; a <= range[0][1]; a++) for (let b = range[1][0]; b <= range[1][1]; b++) for (let c = range[2][0]; c <= range[2][1]; c++) {
      const place = dual.map((d) => dot(d, [f[0] + a, f[1] + b, f[2] + c]));
      if (place.every((x) => x > -1e-4 && x < 1 - 1e-4)) { found.z.push(z); found.frac.push(...place); }
    }
  });
  return found;
}
function lattice(c) {
  const rows = [0, 3, 6].map((k) => c.slice(k, k + 3));
  const dot = (a, b) => a.reduce((s, x, k) => s + x * b[k], 0);
  const lengths = rows.map((r) => Math.sqrt(dot(r, r)));
  const angle = (i, j) => (Math.acos(dot(rows[i], rows[j]) / (lengths[i] * lengths[j])) * 180) / Math.PI;
  return { lengths, angles: [angle(1, 2), angle(0, 2), angle(0, 1)] };
}
// What the colours mean, the lattice, and the other cell: over the picture, as elements of the page.
function legend(box, id, crystal, drawn) {
  const { lengths, angles } = lattice(drawn.cell);
  const colour = (symbol) => `#${($3Dmol.elementColors.Jmol[symbol] ?? 0xff1493).toString(16).padStart(6, "0")}`;
  const counts = new Map();
  for (const z of drawn.z) counts.set(z, (counts.get(z) ?? 0) + 1);
  const kinds = [...counts].map(([z, n]) => {
    const ball = element("i");
    ball.style.background = colour(data.symbols[z - 1]);
    return element("span", { title: `${n} in the cell` }, ball, data.symbols[z - 1]);
  });
  box.append(
    element("div", { class: "lattice" }, `a, b, c ${lengths.map((x) => x.toFixed(3)).join(", ")} Å; α, β, γ ${angles.map((x) => x.toFixed(1)).join(", ")}°`),
    element("div", { class: "legend" }, ...kinds),
  );
  if (!crystal.steps) return;
  const other = element("button", { class: "cell" }, drawn === crystal ? "conventional cell" : "cell as given");
  other.addEventListener("click", () => show(id, crystal, drawn === crystal));
  box.append(other);
}
function show(id, crystal, whole) {
  const box = $(id);
  if (!crystal) { box.replaceChildren(); delete views[id]; return; }
  const first = !views[id];
  if (first) { box.replaceChildren(); views[id] = $3Dmol.createViewer(box, { backgroundColor: "white" }); }
  const viewer = views[id];
  if (!viewer) return;
  viewer.clear();
  box.querySelectorAll(".lattice, .legend, .cell").forEach((part) => part.remove());
  const drawn = whole ? conventional(crystal) : crystal;
  const atoms = points(drawn);
  viewer.addModel(`${atoms.length}\n\n` + atoms.map(([z, p]) => `${data.symbols[z - 1]} ${p.join(" ")}`).join("\n"), "xyz");
  viewer.setStyle({}, { sphere: { scale: 0.28, colorscheme: "Jmol" }, stick: { radius: 0.1, colorscheme: "Jmol" } });
  const corner = (i, j, k) => { const [x, y, z] = cartesian(drawn.cell, [i, j, k]); return { x, y, z }; };
  for (const [i, j] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
    for (const [start, end] of [[corner(0, i, j), corner(1, i, j)], [corner(i, 0, j), corner(i, 1, j)], [corner(i, j, 0), corner(i, j, 1)]]) viewer.addLine({ start, end, color: "gray" });
  }
  viewer.zoomTo();
  if (first) { viewer.rotate(20, "y"); viewer.rotate(12, "x"); }  // later crystals keep the view that was turned to
  viewer.render();
  legend(box, id, crystal, drawn);
}
// Both pictures of a crystal; with ``block`` (as of scrollIntoView) they come into view.
function views3d(before, after, block) {
  try { show("before", before); show("after", after); } catch (error) { $("before").textContent = `This browser draws no 3D pictures (${error.message}).`; }
  if (block) $(block === "start" ? "name" : "before").scrollIntoView({ block });
}
function cif(name, crystal) {
  const { lengths, angles } = lattice(crystal.cell);
  const lines = [`data_${name.replace(/[^\w.-]/g, "_")}`, "_space_group_name_H-M_alt 'P 1'", "_space_group_IT_number 1"];
  ["a", "b", "c"].forEach((n, k) => lines.push(`_cell_length_${n} ${lengths[k].toFixed(6)}`));
  ["alpha", "beta", "gamma"].forEach((n, k) => lines.push(`_cell_angle_${n} ${angles[k].toFixed(6)}`));
  lines.push("loop_", "_space_group_symop_operation_xyz", "'x, y, z'", "loop_", "_atom_site_label", "_atom_site_type_symbol", "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z", "_atom_site_occupancy");
  crystal.z.forEach((z, i) => lines.push(`${data.symbols[z - 1]}${i + 1} ${data.symbols[z - 1]} ${crystal.frac.slice(3 * i, 3 * i + 3).map((x) => x.toFixed(5)).join(" ")} 1`));
  return lines.join("\n") + "\n";
}
function download(name, crystal) {
  const link = element("a", { href: URL.createObjectURL(new Blob([cif(name, crystal)], { type: "chemical/x-cif" })), download: `${name}.cif` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
