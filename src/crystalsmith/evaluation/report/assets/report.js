// --- measured against target, one dot a crystal; the control has no target and stands in a strip of its own ------------
function scatter(place, title, points, control) {
  const width = 340, height = 260, left = 44, bottom = 26, top = 8, strip = control ? 50 : 0;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  const span = (values) => {
    const low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
    const pad = 0.05 * (high - low) || 0.5;
    return [low - pad, high + pad];
  };
  const targets = points.map((p) => p[0]);
  const [x0, x1] = span(targets), [y0, y1] = span(points.map((p) => p[1]).concat(targets, control || []));
  const start = left + strip;
  const x = (v) => start + ((v - x0) / (x1 - x0)) * (width - start - 8);
  const y = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - bottom - top);
  // A dot is moved sideways by up to 2.5 units, the same each time, so that equal targets do not hide one another.
  const jitter = (i) => 5 * (((i * 0.618034) % 1) - 0.5);
  const low = Math.max(x0, y0), high = Math.min(x1, y1);
  if (high > low) svg.append(shape("line", { x1: x(low), y1: y(low), x2: x(high), y2: y(high), stroke: "currentColor", opacity: 0.5, "stroke-dasharray": "4 3" }));
  svg.append(shape("line", { x1: start, x2: width - 8, y1: height - bottom, y2: height - bottom, stroke: "currentColor", opacity: 0.3 }));
  svg.append(shape("line", { x1: start, x2: start, y1: top, y2: height - bottom, stroke: "currentColor", opacity: 0.3 }));
  (control || []).forEach((v, i) => svg.append(shape("circle", { cx: left + 20 + 3 * jitter(i), cy: y(v), r: 2, class: "dot control" })));
  points.forEach(([t, v], i) => {
    const dot = shape("circle", { cx: x(t) + jitter(i), cy: y(v), r: 2.4, class: "dot" });
    dot.append(shape("title", {}, `target ${short(t)}, measured ${short(v)}`));
    svg.append(dot);
  });
  const distinct = [...new Set(targets)].sort((a, b) => a - b);
  const marks = distinct.length <= 8 ? distinct : [0, 0.25, 0.5, 0.75, 1].map((f) => x0 + f * (x1 - x0));
  let last = -Infinity;
  marks.forEach((v) => {
    if (x(v) - last < 30) return;
    last = x(v);
    svg.append(shape("text", { x: x(v), y: height - 8, "text-anchor": "middle" }, short(+v.toPrecision(3))));
  });
  [0, 0.25, 0.5, 0.75, 1].forEach((f) => svg.append(shape("text", { x: left - 4, y: y(y0 + f * (y1 - y0)) + 3, "text-anchor": "end" }, short(+(y0 + f * (y1 - y0)).toPrecision(3)))));
  if (control) svg.append(shape("text", { x: left + 20, y: height - 8, "text-anchor": "middle" }, "control"));
  $(place).append(element("div", { class: "chart" }, element("h3", {}, title), svg));
}

// --- the elements: how many crystals hold each, how many of these are worth it, and a filter by a click ---------------------
function elementsMap() {
  const peak = Math.max(...data.elements.map((e) => e.share), 1e-9);
  const hits = {};
  data.before.forEach((crystal, i) => { if (data.hits[i] && crystal) new Set(crystal.z).forEach((z) => (hits[z] = (hits[z] ?? 0) + 1)); });
  const value = (e, k) => (state.share === "share" ? e.share : e.share ? (hits[k + 1] ?? 0) / Math.round(e.share * data.rows.length) : 0);
  $("elements-what").textContent = state.share === "share" ? "Share of crystals (%) that hold each element." : "Of the crystals that hold an element, the share (%) that is stable, unique and novel at 0.1 eV/atom.";
  $("elements").replaceChildren();
  const top = state.share === "share" ? peak : 1;
  data.elements.forEach((e, k) => {
    const strength = Math.sqrt(value(e, k) / top);
    const box = element("div", { title: `${e.symbol}: in ${(100 * e.share).toFixed(1)} % of crystals` + (e.reference === null ? "" : `; ${(100 * e.ours).toFixed(1)} % of atoms (reference ${(100 * e.reference).toFixed(1)} %)`) }, e.symbol, element("small", {}, e.share ? (100 * value(e, k)).toFixed(state.share === "share" ? 1 : 0) : ""));
    box.style.gridColumn = e.group;
    box.style.gridRow = e.period;
    if (e.share) {
      box.style.background = `color-mix(in srgb, var(--accent) ${Math.round(15 + 80 * strength)}%, var(--band))`;
      if (strength > 0.55) box.style.color = "#fff";
      box.classList.add("held");
      box.classList.toggle("picked", state.elements.has(e.symbol));
      box.addEventListener("click", () => {
        if (!state.elements.delete(e.symbol)) state.elements.add(e.symbol);
        elementsMap();
        draw();
      });
    }
    $("elements").append(box);
  });
  const button = (label, on, act) => {
    const node = element("button", { class: on ? "on" : "" }, label);
    node.addEventListener("click", () => { act(); elementsMap(); draw(); });
    return node;
  };
  const tools = [button("share of crystals", state.share === "share", () => (state.share = "share"))];
  if (data.hits.some(Boolean)) tools.push(button("share that is S.U.N.", state.share === "sun", () => (state.share = "sun")));
  if (state.elements.size) tools.push(button(`all elements (now: ${[...state.elements].join(", ")})`, false, () => state.elements.clear()));
  $("elements-tools").replaceChildren(...tools);
}

// --- pictures of the crystals, seen slightly from above, each drawn once ------------------------------------------------
const pictures = new Map();
const colour = (z) => "#" + (($3Dmol.elementColors.Jmol[data.symbols[z - 1]] ?? 0x808080).toString(16).padStart(6, "0"));
function picture(i) {
  const crystal = data.after[i] ?? data.before[i];
  if (!crystal) return "";
  if (pictures.has(i)) return pictures.get(i);
  const [a, b] = [0.45, 0.28];
  const turn = ([x, y, z]) => {
    const [u, w] = [x * Math.cos(a) + y * Math.sin(a), -x * Math.sin(a) + y * Math.cos(a)];
    return [u, z * Math.cos(b) - w * Math.sin(b), w * Math.cos(b) + z * Math.sin(b)];
  };
  const atoms = points(crystal).map(([z, p]) => [z, turn(p)]).sort((p, q) => q[1][2] - p[1][2]);
  const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((k) => turn(cartesian(crystal.cell, [k & 1, (k >> 1) & 1, (k >> 2) & 1])));
  const all = corners.concat(atoms.map(([, p]) => p));
  const range = (k) => [Math.min(...all.map((p) => p[k])), Math.max(...all.map((p) => p[k]))];
  const [[x0, x1], [y0, y1]] = [range(0), range(1)];
  const size = Math.max(x1 - x0, y1 - y0) + 1.6, left = (x0 + x1 - size) / 2, top = (y0 + y1 + size) / 2;
  const svg = shape("svg", { viewBox: `0 0 ${size.toFixed(2)} ${size.toFixed(2)}` });
  const at = (p) => [(p[0] - left).toFixed(2), (top - p[1]).toFixed(2)];
  for (let k = 0; k < 8; k++) for (const bit of [1, 2, 4]) if (!(k & bit)) {
    const [[ax, ay], [bx, by]] = [at(corners[k]), at(corners[k | bit])];
    svg.append(shape("line", { x1: ax, y1: ay, x2: bx, y2: by, stroke: "currentColor", "stroke-width": size / 160, opacity: 0.5 }));
  }
  for (const [z, p] of atoms) {
    const [cx, cy] = at(p);
    svg.append(shape("circle", { cx, cy, r: 0.35 + 0.11 * Math.min(7, data.elements[z - 1].period > 7 ? 6 : data.elements[z - 1].period), fill: colour(z), stroke: "#0006", "stroke-width": size / 160 }));
  }
  pictures.set(i, svg);
  return svg;
}

// --- phase diagrams: a curve of two elements, a triangle of three --------------------------------------------------------
function phase() {
  const d = data.phases[$("phase-system").selectedIndex];
  if (!d) return;
  const n = d.elements.length, width = 720, height = n === 2 ? 380 : 560;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Phase diagram ${d.elements.join("-")}` });
  let place;
  if (n === 2) {
    const energies = d.entries.concat(d.crystals).map((r) => r[1]).concat(0);
    const low = Math.min(...energies), high = Math.min(Math.max(...energies), Math.max(0.5, -low));
    const pad = 0.06 * (high - low) || 0.1, y0 = low - pad, y1 = high + pad;
    place = (r) => [70 + r[0] * (width - 110), 20 + ((y1 - Math.min(r[1], y1)) / (y1 - y0)) * (height - 70)];
    for (let k = 0; k <= 4; k++) {
      const e = y0 + (k / 4) * (y1 - y0), y = place([0, e])[1];
      svg.append(shape("text", { x: 62, y: y + 3, "text-anchor": "end" }, e.toFixed(2)));
    }
    svg.append(shape("text", { x: 8, y: 14 }, "formation energy, eV/atom"));
    [0, 0.25, 0.5, 0.75, 1].forEach((x) => svg.append(shape("text", { x: place([x, y0])[0], y: height - 26, "text-anchor": "middle" }, String(x))));
    svg.append(shape("text", { x: width / 2, y: height - 8, "text-anchor": "middle" }, `share of ${d.elements[1]} in ${d.elements.join("-")}`));
  } else {
    const corner = [[70, height - 50], [width - 70, height - 50], [width / 2, 40]];
    place = (r) => [0, 1].map((k) => corner[0][k] * (1 - r[0] - r[1]) + corner[1][k] * r[0] + corner[2][k] * r[1]);
    corner.forEach(([x, y], k) => svg.append(shape("text", { x, y: k === 2 ? y - 12 : y + 22, "text-anchor": "middle", style: "font-size:14px" }, d.elements[k])));
    [[0, 1], [1, 2], [0, 2]].forEach(([p, q]) => svg.append(shape("line", { x1: corner[p][0], y1: corner[p][1], x2: corner[q][0], y2: corner[q][1], class: "hull", opacity: 0.4 })));
  }
  for (const [p, q] of d.edges) {
    const [[x1, y1], [x2, y2]] = [place(d.entries[p]), place(d.entries[q])];
    svg.append(shape("line", { x1, y1, x2, y2, class: "hull" }));
  }
  const tell = (r) => `${r[n + 1]}: formation energy ${r[n - 1]}, above hull ${r[n]} eV/atom`;
  d.entries.toReversed().forEach((r) => {
    const [cx, cy] = place(r), stable = r[n] <= 1e-6;
    if (n === 3 && r[n] > 0.1) return;
    const dot = shape("circle", { cx, cy, r: stable ? 4 : 2.5, class: stable ? "stable" : "", opacity: stable ? 1 : 0.7 });
    dot.append(shape("title", {}, tell(r)));
    svg.append(dot);
  });
  d.crystals.forEach((r) => {
    const [x, y] = place(r), i = r[n + 2];
    const mark = shape("rect", { x: x - 5, y: y - 5, width: 10, height: 10, transform: `rotate(45 ${x} ${y})`, class: data.hits[i] ? "mine hit" : "mine" });
    mark.append(shape("title", {}, tell(r)));
    mark.addEventListener("click", () => choose(i, "start"));
    svg.append(mark);
  });
  $("phase").replaceChildren(svg);
  $("phase-key").textContent = `${d.entries.length} entries${n === 3 ? " (drawn within 0.1 eV/atom of the hull)" : ""}, ${d.crystals.length} crystals; orange: stable, unique and novel at 0.1 eV/atom`;
}

// --- the table of crystals --------------------------------------------------------------------------------------------
const lowest = data.rows ? data.columns.indexOf("energy_above_hull") : -1; // the best first, where energies say which
const state = { sort: Math.max(0, lowest), down: false, chosen: -1, page: 0, elements: new Set(), share: "share" };
const PAGE = 50;
function shown() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const flag = $("flag").value;
  const rows = data.rows.map((row, i) => ({ row, i })).filter(({ row }) => words.every((w) => row.some((c) => String(c ?? "").toLowerCase().includes(w))) && (!flag || row[data.columns.indexOf(flag)] === true)).filter(({ i }) => within(i) && holds(i));
  const k = state.sort, sign = state.down ? -1 : 1;
  const empty = (v) => v === null || v === "";
  return rows.sort((a, b) => {
    const x = a.row[k], y = b.row[k];
    if (empty(x) || empty(y)) return empty(x) - empty(y);
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
  });
}
function within(i) {
  const most = $("above").value;
  return most === "" || (data.above[i] !== null && data.above[i] <= Number(most) + 1e-6);
}
function holds(i) {
  if (!state.elements.size) return true;
  const own = new Set((data.before[i]?.z ?? []).map((z) => data.symbols[z - 1]));
  return [...state.elements].every((symbol) => own.has(symbol));
}
function draw(keep) {
  const rows = shown(), pages = Math.max(1, Math.ceil(rows.length / PAGE));
  state.page = keep === true ? Math.min(Math.max(state.page, 0), pages - 1) : 0;
  $("count").textContent = `${rows.length} of ${data.rows.length}`;
  $("page").textContent = `page ${state.page + 1} of ${pages}`;
  $("body").replaceChildren(...rows.slice(state.page * PAGE, (state.page + 1) * PAGE).map(({ row, i }) => {
    const line = element("tr", { "data-i": i, class: i === state.chosen ? "chosen" : "" }, element("td", { class: "picture" }, picture(i)), ...row.map((c) => element("td", {}, c === true ? "yes" : c === false ? "no" : short(c))));
    line.addEventListener("click", () => choose(i, "nearest"));
    return line;
  }));
  document.querySelectorAll("#head th.sort").forEach((th, k) => { th.textContent = data.columns[k].replaceAll("_", " ") + (k === state.sort ? (state.down ? " ▾" : " ▴") : ""); });
}

function choose(i, block) {
  state.chosen = i;
  document.querySelectorAll("#body tr").forEach((line) => line.classList.toggle("chosen", Number(line.dataset.i) === i));
  const name = data.rows[i][0], before = data.before[i], after = data.after[i];
  $("name").textContent = `${name} ${data.rows[i][1] ?? ""}`;
  const buttons = [];
  for (const [label, suffix, crystal] of [["as given", "", before], ["relaxed", "-relaxed", after]]) {
    if (!crystal) continue;
    const button = element("button", {}, `CIF, ${label}`);
    button.addEventListener("click", () => download(name + suffix, crystal));
    buttons.push(button);
  }
  $("downloads").replaceChildren(...buttons);
  $("after").style.display = data.after.some(Boolean) ? "" : "none";
  views3d(before, after, block);
}

fillTable("headline", ["", ...data.names, ""], data.headline.map((row, k) => [...row, data.meanings[k]]));
document.querySelectorAll("#headline tbody tr").forEach((line, k) => {
  line.lastChild.className = "meaning";
  if (data.groups[k] !== data.groups[k - 1]) line.before(element("tr", { class: "group" }, element("td", { colspan: data.names.length + 2 }, data.groups[k])));
});
fillTable("failures", null, data.failures.length ? data.failures : [["none", ""]]);
fillTable("missing", null, data.missing);
if (!data.missing.length) $("missing-part").remove();
if (data.rows) {
  if (data.targets.length || data.target_charts.length) {
    fillTable("targets", ["property", "target", "crystals", "came out", "control"], data.targets);
    data.target_charts.forEach((c) => {
      if (c.kind === "scatter") scatter("target-charts", c.title, c.points, c.control);
      else if (c.labels.length) chart("target-charts", c.title, c.labels, c.ours, c.reference);
    });
  } else $("targets-part").remove();
  if (data.budgets.length) fillTable("budgets", data.budgets[0], data.budgets.slice(1));
  else $("budgets-part").remove();
  data.charts.forEach((c) => chart("charts", c.title, c.labels, c.ours, c.reference));
  elementsMap();
  fillTable("systems", data.systems.head, data.systems.rows);
  if (!data.systems.rows.length) $("systems-part").remove();
  $("head").append(element("th", {}, ""));
  data.columns.forEach((name, k) => {
    const th = element("th", { title: "sort", class: "sort" }, name);
    th.addEventListener("click", () => { state.down = state.sort === k ? !state.down : false; state.sort = k; draw(); });
    $("head").append(th);
  });
  data.flags.forEach((name) => $("flag").append(element("option", { value: name }, name.replaceAll("_", " "))));
  $("filter").addEventListener("input", draw);
  $("flag").addEventListener("change", draw);
  $("above").addEventListener("input", draw);
  $("back").addEventListener("click", () => { state.page--; draw(true); });
  $("next").addEventListener("click", () => { state.page++; draw(true); });
  if (data.above.every((v) => v === null)) $("above").parentElement.style.display = "none";
  if (data.phases.length) {
    data.phases.forEach((d) => $("phase-system").append(element("option", {}, `${d.elements.join("-")} (${d.crystals.length})`)));
    $("phase-system").addEventListener("change", phase);
    phase();
  } else $("phases-part").remove();
  draw();
  const first = shown().find(({ i }) => data.before[i]);
  if (first) choose(first.i);
  data.tiles.forEach(([value, interval, name]) => $("tiles").append(element("div", {}, element("b", {}, value), element("i", {}, interval), element("span", {}, name))));
  document.querySelectorAll("h2:not(#name)").forEach((title, k) => {
    title.id = title.id || `part-${k}`;
    $("contents").append(element("a", { href: `#${title.id}` }, title.textContent));
  });
} else {
  document.querySelectorAll(".single").forEach((part) => part.remove());
}
