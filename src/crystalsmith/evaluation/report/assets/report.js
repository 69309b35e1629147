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

// --- the table of crystals --------------------------------------------------------------------------------------------
const state = { sort: 0, down: false, chosen: -1 };
function shown() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const flag = $("flag").value;
  const rows = data.rows.map((row, i) => ({ row, i })).filter(({ row }) => words.every((w) => row.some((c) => String(c ?? "").toLowerCase().includes(w))) && (!flag || row[data.columns.indexOf(flag)] === true));
  const k = state.sort, sign = state.down ? -1 : 1;
  const empty = (v) => v === null || v === "";
  return rows.sort((a, b) => {
    const x = a.row[k], y = b.row[k];
    if (empty(x) || empty(y)) return empty(x) - empty(y);
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
  });
}
function draw() {
  const rows = shown();
  $("count").textContent = `${rows.length} of ${data.rows.length}`;
  $("body").replaceChildren(...rows.map(({ row, i }) => {
    const line = element("tr", { "data-i": i, class: i === state.chosen ? "chosen" : "" }, ...row.map((c) => element("td", {}, c === true ? "yes" : c === false ? "no" : short(c))));
    line.addEventListener("click", () => choose(i));
    return line;
  }));
  document.querySelectorAll("#head th").forEach((th, k) => { th.textContent = data.columns[k].replaceAll("_", " ") + (k === state.sort ? (state.down ? " ▾" : " ▴") : ""); });
}

function choose(i) {
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
  try { show("before", before); show("after", after); } catch (error) { $("before").textContent = `This browser draws no 3D pictures (${error.message}).`; }
}

fillTable("headline", ["", ...data.names], data.headline);
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
  periodicTable();
  fillTable("systems", data.systems.head, data.systems.rows);
  if (!data.systems.rows.length) $("systems-part").remove();
  data.columns.forEach((name, k) => {
    const th = element("th", { title: "sort" }, name);
    th.addEventListener("click", () => { state.down = state.sort === k ? !state.down : false; state.sort = k; draw(); });
    $("head").append(th);
  });
  data.flags.forEach((name) => $("flag").append(element("option", { value: name }, name.replaceAll("_", " "))));
  $("filter").addEventListener("input", draw);
  $("flag").addEventListener("change", draw);
  draw();
  const first = data.before.findIndex(Boolean);
  if (first >= 0) choose(first);
} else {
  document.querySelectorAll(".single").forEach((part) => part.remove());
}
