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
function show(id, crystal) {
  const box = $(id);
  if (!crystal) { box.replaceChildren(); delete views[id]; return; }
  if (!views[id]) { box.replaceChildren(); views[id] = $3Dmol.createViewer(box, { backgroundColor: "white" }); }
  const viewer = views[id];
  if (!viewer) return;
  viewer.clear();
  const atoms = points(crystal);
  viewer.addModel(`${atoms.length}\n\n` + atoms.map(([z, p]) => `${data.symbols[z - 1]} ${p.join(" ")}`).join("\n"), "xyz");
  viewer.setStyle({}, { sphere: { scale: 0.28, colorscheme: "Jmol" }, stick: { radius: 0.1, colorscheme: "Jmol" } });
  const corner = (i, j, k) => { const [x, y, z] = cartesian(crystal.cell, [i, j, k]); return { x, y, z }; };
  for (const [i, j] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
    for (const [start, end] of [[corner(0, i, j), corner(1, i, j)], [corner(i, 0, j), corner(i, 1, j)], [corner(i, j, 0), corner(i, j, 1)]]) viewer.addLine({ start, end, color: "gray" });
  }
  viewer.zoomTo();
  viewer.rotate(20, "y");
  viewer.rotate(12, "x");
  viewer.render();
}
function cif(name, crystal) {
  const rows = [0, 3, 6].map((k) => crystal.cell.slice(k, k + 3));
  const dot = (a, b) => a.reduce((s, x, k) => s + x * b[k], 0);
  const lengths = rows.map((r) => Math.sqrt(dot(r, r)));
  const angle = (i, j) => (Math.acos(dot(rows[i], rows[j]) / (lengths[i] * lengths[j])) * 180) / Math.PI;
  const lines = [`data_${name.replace(/[^\w.-]/g, "_")}`, "_space_group_name_H-M_alt 'P 1'", "_space_group_IT_number 1"];
  ["a", "b", "c"].forEach((n, k) => lines.push(`_cell_length_${n} ${lengths[k].toFixed(6)}`));
  [["alpha", 1, 2], ["beta", 0, 2], ["gamma", 0, 1]].forEach(([n, i, j]) => lines.push(`_cell_angle_${n} ${angle(i, j).toFixed(6)}`));
  lines.push("loop_", "_space_group_symop_operation_xyz", "'x, y, z'", "loop_", "_atom_site_label", "_atom_site_type_symbol", "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z", "_atom_site_occupancy");
  crystal.z.forEach((z, i) => lines.push(`${data.symbols[z - 1]}${i + 1} ${data.symbols[z - 1]} ${crystal.frac.slice(3 * i, 3 * i + 3).map((x) => x.toFixed(5)).join(" ")} 1`));
  return lines.join("\n") + "\n";
}
function download(name, crystal) {
  const link = element("a", { href: URL.createObjectURL(new Blob([cif(name, crystal)], { type: "chemical/x-cif" })), download: `${name}.cif` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
