// --- plots of points in a frame -------------------------------------------------------------------------------------
const W = 520, H = 300, L = 54, B = 34, T = 10, R = 12;
function frame(place, title, xs, ys, xName, yName) {
  const svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  const span = (v) => { const a = Math.min(...v), b = Math.max(...v), pad = 0.04 * (b - a) || 0.5; return [a >= 0 && a < b / 4 ? 0 : a - pad, b + pad]; };  // what begins near nothing begins at nothing
  const [x0, x1] = span(xs.length ? xs : [0, 1]), [y0, y1] = span(ys.length ? ys : [0, 1]);
  const x = (v) => L + ((v - x0) / (x1 - x0)) * (W - L - R), y = (v) => H - B - ((v - y0) / (y1 - y0)) * (H - B - T);
  svg.append(shape("line", { x1: L, x2: W - R, y1: H - B, y2: H - B, stroke: "currentColor", opacity: 0.3 }));
  svg.append(shape("line", { x1: L, x2: L, y1: T, y2: H - B, stroke: "currentColor", opacity: 0.3 }));
  for (const f of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(shape("text", { x: x(x0 + f * (x1 - x0)), y: H - B + 13, "text-anchor": "middle" }, short(+(x0 + f * (x1 - x0)).toPrecision(3))));
    svg.append(shape("text", { x: L - 5, y: y(y0 + f * (y1 - y0)) + 3, "text-anchor": "end" }, short(+(y0 + f * (y1 - y0)).toPrecision(3))));
  }
  svg.append(shape("text", { x: (L + W) / 2, y: H - 4, "text-anchor": "middle" }, xName));
  svg.append(shape("text", { x: 12, y: (H - B) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(H - B) / 2})` }, yName));
  place.append(element("div", { class: "chart" }, element("h3", {}, title), svg));
  return { svg, x, y };
}
function dot(svg, cx, cy, kind, text, i) {
  const node = shape("circle", { cx, cy, r: kind === "chosen" ? 5 : 3, class: `dot ${kind}` });
  node.append(shape("title", {}, text));
  if (i !== undefined) { node.style.cursor = "pointer"; node.addEventListener("click", () => choose(i, "nearest")); }
  svg.append(node);
}
const column = (name) => data.columns.indexOf(name);
const cell = (row, name) => row[column(name)];

// --- yield ------------------------------------------------------------------------------------------------------------
function yields() {
  for (const [title, k, name] of [["Accepted against relaxations", 0, "relaxations"], ["Accepted against run time", 1, "hours"]]) {
    const points = data.yield.map((p) => [p[k], p[2]]);
    const { svg, x, y } = frame($("yield"), title, points.map((p) => p[0]), points.map((p) => p[1]), name, "accepted");
    svg.append(shape("polyline", { points: points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ") }));
  }
}

// --- the table --------------------------------------------------------------------------------------------------------
const state = { sort: -1, down: false, chosen: -1 }; // unsorted: the best first, as they come
function draw() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean), verdict = $("verdict").value;
  const rows = data.rows.map((row, i) => ({ row, i })).filter(({ row }) => words.every((w) => row.some((c) => String(c ?? "").toLowerCase().includes(w))) && (!verdict || cell(row, "verdict") === verdict));
  const k = state.sort, sign = state.down ? -1 : 1, empty = (v) => v === null || v === "";
  if (k >= 0) rows.sort((a, b) => {
    const p = a.row[k], q = b.row[k];
    if (empty(p) || empty(q)) return empty(p) - empty(q);
    return sign * (typeof p === "number" && typeof q === "number" ? p - q : String(p).localeCompare(String(q), "en", { numeric: true }));
  });
  $("count").textContent = `${rows.length} of ${data.rows.length}`;
  $("body").replaceChildren(...rows.map(({ row, i }) => {
    const line = element("tr", { "data-i": i, class: i === state.chosen ? "chosen" : "" }, ...row.map((c) => element("td", {}, short(c))));
    line.addEventListener("click", () => choose(i, "nearest"));
    return line;
  }));
  document.querySelectorAll("#head th").forEach((th, j) => { th.textContent = data.columns[j].replaceAll("_", " ") + (j === k ? (state.down ? " ▾" : " ▴") : ""); });
}

// --- one candidate ----------------------------------------------------------------------------------------------------
function choose(i, block) {
  state.chosen = i;
  document.querySelectorAll("#body tr").forEach((line) => line.classList.toggle("chosen", Number(line.dataset.i) === i));
  const row = data.rows[i], more = data.more[i], name = cell(row, "id");
  $("name").textContent = `${name} ${cell(row, "formula") ?? ""}`;
  $("downloads").replaceChildren(...[["as proposed", "-raw", more.before], ["relaxed", "-relaxed", more.after]].filter((x) => x[2]).map(([label, suffix, crystal]) => {
    const button = element("button", {}, `CIF, ${label}`);
    button.addEventListener("click", () => download(name + suffix, crystal));
    return button;
  }));
  const table = (id, head, rows) => { $(id).replaceChildren(); fillTable(id, head, rows); };
  table("relatives", ["id", "formula", "what differs"], more.relatives.length ? more.relatives : [["none is known", "", ""]]);
  table("history", null, more.history);
  phase(i);
  pareto();
  views3d(more.before, more.after, block);
}

// --- the phase diagram of the chosen candidate's chemical system ------------------------------------------------------
function phase(i) {
  const place = $("phase");
  place.replaceChildren();
  const system = data.more[i].system, entries = data.systems[system];
  if (!entries) { place.append(element("p", { class: "soft" }, "A phase diagram is drawn for two to four elements.")); return; }
  const names = system.split("-"), n = names.length;
  const mine = data.rows.map((row, j) => ({ row, j })).filter(({ j }) => data.more[j].system === system && data.more[j].place);
  const tell = (e) => `${e[0]}: ${short(e[2])} eV/atom, ${e[3] <= 1e-6 ? "on the hull" : short(e[3]) + " above the hull"}`;
  if (n === 2) {
    const xs = [0, 1], ys = entries.map((e) => e[2]).concat(mine.map(({ j }) => data.more[j].place[1]), [0]);
    const { svg, x, y } = frame(place, `${system}: formation energies and the hull`, xs, ys, `share of ${names[1]}`, "eV/atom");
    const stable = entries.filter((e) => e[3] <= 1e-6).sort((a, b) => a[1][1] - b[1][1]);
    svg.append(shape("polyline", { points: stable.map((e) => `${x(e[1][1])},${y(e[2])}`).join(" ") }));
    entries.forEach((e) => dot(svg, x(e[1][1]), y(e[2]), e[3] <= 1e-6 ? "hull" : "other", tell(e)));
    mine.forEach(({ row, j }) => dot(svg, x(data.more[j].place[0][1]), y(data.more[j].place[1]), j === i ? "chosen" : "", `${cell(row, "id")} ${cell(row, "formula")}`, j));
    return;
  }
  const corners = n === 3 ? [[60, 250], [400, 250], [230, 20]] : [[60, 235], [380, 270], [430, 170], [230, 15]];
  const svg = shape("svg", { viewBox: "0 0 520 290", role: "img", "aria-label": system });
  const at = (shares) => [0, 1].map((k) => shares.reduce((s, f, c) => s + f * corners[c][k], 0));
  for (let a = 0; a < n; a++) for (let b = a + 1; b < n; b++) svg.append(shape("line", { x1: corners[a][0], y1: corners[a][1], x2: corners[b][0], y2: corners[b][1], stroke: "currentColor", opacity: 0.35 }));
  corners.forEach(([px, py], c) => svg.append(shape("text", { x: px, y: py + (py > 100 ? 16 : -6), "text-anchor": "middle", style: "font-size:13px" }, names[c])));
  entries.forEach((e) => { const [px, py] = at(e[1]); dot(svg, px, py, e[3] <= 1e-6 ? "hull" : "other", tell(e)); });
  mine.forEach(({ row, j }) => { const [px, py] = at(data.more[j].place[0]); dot(svg, px, py, j === i ? "chosen" : "", `${cell(row, "id")} ${cell(row, "formula")}: ${short(cell(row, "energy_above_hull"))} eV/atom above the hull`, j); });
  place.append(element("h3", {}, `${system}: known phases (dark: on the hull) and candidates (blue; red: this one)`), svg);
}

// --- property against stability, with the front of what nothing beats in both -----------------------------------------
function pareto() {
  $("pareto").replaceChildren();
  const name = $("property").value;
  if (!name) return;
  const points = data.rows.map((row, i) => [cell(row, "energy_above_hull"), cell(row, name), i]).filter((p) => typeof p[0] === "number" && typeof p[1] === "number");
  if (!points.length) { $("pareto").append(element("p", { class: "soft" }, "No candidate has both yet.")); return; }
  const { svg, x, y } = frame($("pareto"), `${name.replaceAll("_", " ")} against energy above hull`, points.map((p) => p[0]), points.map((p) => p[1]), "energy above hull, eV/atom", name.replaceAll("_", " "));
  const sign = data.lower.includes(name) ? -1 : 1;
  let best = -Infinity;
  const front = [];
  for (const p of [...points].sort((a, b) => a[0] - b[0] || sign * (b[1] - a[1]))) if (sign * p[1] > best) { best = sign * p[1]; front.push(p); }
  svg.append(shape("polyline", { class: "front", points: front.map((p) => `${x(p[0])},${y(p[1])}`).join(" ") }));
  points.forEach(([a, b, i]) => dot(svg, x(a), y(b), i === state.chosen ? "chosen" : cell(data.rows[i], "verdict") === "accepted" ? "" : "other", `${cell(data.rows[i], "id")} ${cell(data.rows[i], "formula")}: ${short(b)}`, i));
}
function estimates() {
  const points = data.rows.map((row, i) => [cell(row, "estimated_above_hull"), cell(row, "energy_above_hull"), i]).filter((p) => typeof p[0] === "number" && typeof p[1] === "number" && p[0] < 2);
  if (!points.length) return;
  const both = points.flatMap((p) => [p[0], p[1]]);
  const { svg, x, y } = frame($("estimates"), "Energy above hull after relaxation against the estimate before", both, both, "before, eV/atom", "after, eV/atom");
  const low = Math.min(...both), high = Math.max(...both);
  svg.append(shape("polyline", { class: "front", points: `${x(low)},${y(low)} ${x(high)},${y(high)}` }));
  points.forEach(([a, b, i]) => dot(svg, x(a), y(b), cell(data.rows[i], "verdict") === "accepted" ? "" : "other", `${cell(data.rows[i], "id")} ${cell(data.rows[i], "formula")}`, i));
}

fillTable("summary", null, data.summary);
fillTable("funnel", ["stage", "reached", "dropped", "seconds", "each"], data.funnel);
fillTable("factors", ["factor", "level", "proposed", "relaxed", "accepted", "presumed"], data.factors);
if (data.lessons.length) {
  $("learning").hidden = false;
  fillTable("lessons", ["lesson", "own crystals", "real ones", "proposed", "one energy within the limit", "relaxed", "accepted", "share", "on the same budget, before and after"], data.lessons);
}
yields();
data.columns.forEach((name, k) => {
  const th = element("th", { title: "sort" }, name);
  th.addEventListener("click", () => { state.down = state.sort === k ? !state.down : false; state.sort = k; draw(); });
  $("head").append(th);
});
$("verdict").append(element("option", { value: "" }, "all"), ...[...new Set(data.rows.map((r) => cell(r, "verdict")))].map((v) => element("option", { value: v }, v.replaceAll("_", " "))));
$("property").append(...data.properties.map((p) => element("option", { value: p }, p.replaceAll("_", " "))));
$("filter").addEventListener("input", draw);
$("verdict").addEventListener("change", draw);
$("property").addEventListener("change", pareto);
if (data.elements.length) periodicTable();
estimates();
draw();
if (data.rows.length) choose(0); else pareto();
