"use strict";
// Draws the report from the numbers in #data. No library, nothing fetched: SVG and tables from a few functions.
const D = JSON.parse(document.getElementById("data").textContent);
const place = new Map(D.evaluated.map((cell, i) => [cell, i])); // of a cell among those that were evaluated
const why = new Map((D.why ? D.why.cells : []).map((cell, i) => [cell, i]));
const varies = D.heat.findIndex((each) => new Set(each.values.filter((v) => v !== null)).size > 1);
const state = { cell: D.best, other: null, heat: Math.max(0, varies), sort: null, down: true, all: false };
const $ = (id) => document.getElementById(id);
const chart = (id) => $(id).querySelector(".chart");
const esc = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
const there = (x) => x !== null && x !== undefined && Number.isFinite(x);
const digits = (x, n = 4) => (there(x) ? String(Number(x.toPrecision(n))) : "–");
const seconds = (x, n = 4) => {
  if (!there(x)) return "–";
  const [size, unit] = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]].find(([size]) => Math.abs(x) >= size) || [1, "s"];
  return `${digits(x / size, n)} ${unit}`;
};
const number = (name, cell) => (D.numbers[name] ? D.numbers[name][cell] : null);

// --- cells and axes ---
const shape = D.axes.map((axis) => axis.labels.length);
const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
const at = (cell) => shape.map((n, i) => Math.floor(cell / strides[i]) % n);
const cellAt = (index) => index.reduce((sum, i, k) => sum + i * strides[k], 0);
const named = (cell) => D.axes.map((axis, i) => `${axis.name.includes(",") ? "" : axis.name + "="}${axis.labels[at(cell)[i]]}`).join("  ") || "the only cell";

function pick(cell) {
  state.cell = cell;
  render();
}

function picker() {
  const index = at(state.cell);
  const parts = D.axes.map((axis, i) => {
    const options = axis.labels.map((label, j) => `<option value="${j}"${j === index[i] ? " selected" : ""}>${esc(label)}</option>`);
    return `<label>${esc(axis.title)}<select data-axis="${i}">${options.join("")}</select></label>`;
  });
  if (D.evaluated.length > 1) {
    const some = D.evaluated.length > 600 ? D.evaluated.slice(0, 600) : D.evaluated;
    const options = some.map((cell) => `<option value="${cell}"${cell === state.other ? " selected" : ""}>${esc(named(cell))}</option>`);
    parts.push(`<label>beside it<select id="other"><option value="">no other cell</option>${options.join("")}</select></label>`);
    if (state.cell !== D.best) parts.push('<button id="best">the best cell</button>');
  }
  $("picker").innerHTML = parts.join("");
  $("picker").hidden = !parts.length;
  for (const select of $("picker").querySelectorAll("select[data-axis]"))
    select.onchange = () => {
      const next = at(state.cell);
      next[Number(select.dataset.axis)] = Number(select.value);
      pick(cellAt(next));
    };
  if ($("other")) $("other").onchange = () => { state.other = $("other").value === "" ? null : Number($("other").value); render(); };
  if ($("best")) $("best").onclick = () => pick(D.best);
}

// --- drawing ---
const width = (id) => Math.max(280, Math.min(1180, chart(id).clientWidth || 520));
const svg = (w, h, label, parts) => `<svg viewBox="0 0 ${w} ${h}" role="img" aria-label="${esc(label)}">${parts.join("")}</svg>`;
const text = (x, y, s, anchor = "start", cls = "") => `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}" class="${cls}">${esc(s)}</text>`;
const rect = (x, y, w, h, colour, title = "", more = "") =>
  `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${Math.max(0, w).toFixed(1)}" height="${h.toFixed(1)}" fill="${colour}" ${more}>${title ? `<title>${esc(title)}</title>` : ""}</rect>`;
const line = (x1, y1, x2, y2, more = 'class="grid"') => `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" ${more}/>`;
const caption = (words) => `<p class="axis">${esc(words)}</p>`;
// of labels [place, words] those that do not touch the one before
function apart(labels, x) {
  let end = -Infinity;
  return labels.map(([v, s]) => {
    const half = 4.2 * s.length, free = x(v) - half > end + 5;
    if (free) end = x(v) + half;
    return [v, free ? s : ""];
  });
}
const legend = (rows) => `<p class="legend">${rows.map(([colour, words]) => `<span><i style="background:${colour}"></i>${esc(words)}</span>`).join("")}</p>`;
const V = (name) => `var(--${name})`;

function ticks(low, high, n) {
  if (!(high > low)) return [low];
  const raw = (high - low) / Math.max(1, n), size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * size).find((s) => s >= raw);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(12)));
  return found.length < 2 && n < 8 ? ticks(low, high, n + 1) : found; // one number is no scale
}

// a row each: label, from, to [in units of the axis], colour, words behind the bar
function rows(id, list, axis, { low = null, high = null, whiskers = false, left = 0 } = {}) {
  const w = width(id), label = left || Math.min(0.42 * w, 8 + 6.7 * Math.max(...list.map((row) => row.label.length))), right = 78, h = 24;
  const values = list.flatMap((row) => [row.from, row.to, ...(row.ends || [])]).filter(there);
  const a = low ?? Math.min(0, ...values), b = high ?? (Math.max(...values) || 1);
  const x = (v) => label + ((v - a) / (b - a || 1)) * (w - label - right);
  const bottom = list.length * h + 4, marks = ticks(a, b, (w - label - right) / 80);
  const parts = marks.flatMap((t) => [line(x(t), 0, x(t), bottom), text(x(t), bottom + 14, digits(t), "middle", "quiet")]);
  list.forEach((row, i) => {
    const y = i * h + 4, from = Math.min(row.from, row.to), to = Math.max(row.from, row.to);
    parts.push(text(label - 8, y + 13, row.label, "end"));
    parts.push(rect(x(from), y, Math.max(1, x(to) - x(from)), h - 8, row.colour, `${row.label}: ${row.words}`));
    if (whiskers && row.ends && row.ends.every(there)) parts.push(line(x(row.ends[0]), y + 8, x(row.ends[1]), y + 8, 'stroke="var(--ink)" stroke-width="2"'));
    parts.push(text(Math.max(x(to), whiskers && row.ends ? x(row.ends[1]) : 0) + 6, y + 13, row.words));
  });
  return svg(w, bottom + 20, axis, parts) + caption(axis);
}

// lines or steps over x; frames with ticks and names on both axes
function frame(id, h, [xlow, xhigh], [ylow, yhigh], xname, yname, draw, xticks = null, yticks = null) {
  const w = width(id), left = 58, bottom = h - 20, right = w - 12, top = 20;
  const x = (v) => left + ((v - xlow) / (xhigh - xlow || 1)) * (right - left), y = (v) => bottom - ((v - ylow) / (yhigh - ylow || 1)) * (bottom - top);
  const parts = [];
  for (const [v, s] of apart(xticks || ticks(xlow, xhigh, (right - left) / 90).map((t) => [t, digits(t)]), x)) parts.push(line(x(v), top, x(v), bottom), text(x(v), bottom + 15, s, "middle", "quiet"));
  for (const [v, s] of yticks || ticks(ylow, yhigh, 5).map((t) => [t, digits(t)])) parts.push(line(left, y(v), right, y(v)), text(left - 6, y(v) + 4, s, "end", "quiet"));
  parts.push(...draw(x, y, w), text(4, 11, yname, "start", "quiet"));
  return svg(w, h, `${yname} over ${xname}`, parts) + caption(xname);
}

// --- the sections ---
function show(id, html) {
  $(id).hidden = !html;
  if (html) chart(id).innerHTML = html;
}

function pair() {
  const found = [[state.cell, "blue", named(state.cell)]];
  if (state.other !== null && state.other !== state.cell) found.push([state.other, "orange", named(state.other)]);
  return found.filter(([cell]) => place.has(cell));
}

const both = () => (pair().length > 1 ? legend(pair().map(([, colour, words]) => [V(colour), words])) : "");

function headline() {
  const c = state.cell, title = D.why && D.why.titles[c];
  if (!place.has(c)) {
    $("what").textContent = `${named(c)}: not evaluated; it does not fit, or was not asked for. Pick another cell.`;
    $("cards").innerHTML = "";
    return;
  }
  $("what").textContent = title ? (D.axes.length ? `${named(c)} (${title})` : title) : named(c);
  const cards = [];
  const card = (name, value, note = "", warn = false) => cards.push(`<div${warn ? ' class="warn"' : ""}><span class="quiet">${name}</span><b>${esc(value)}</b><span class="quiet">${esc(note)}</span></div>`);
  for (const q of ["0.5", "0.95", "0.99"]) {
    const [value, low, high] = ["iteration_time", "iteration_time_low", "iteration_time_high"].map((name) => number(`${name}@${q}`, c));
    const ends = there(low) && there(high) ? `${digits(low, 5)} to ${digits(high, 5)} s` : there(low) ? `${digits(low, 5)} s or more` : `${digits(high, 5)} s or less`;
    const interval = number("n_draws", c) > 1 && (there(low) || there(high)) ? `95 %: ${ends}` : "";
    if (there(value)) card(`iteration, p${100 * Number(q)}`, seconds(value), low === high ? "" : interval);
  }
  const error = number("iteration_time_standard_error", c);
  card("iteration, mean", seconds(number("iteration_time_mean", c)), error ? `standard error ${seconds(error, 2)}` : error === 0 ? "nothing varies" : "one draw: no error");
  card("throughput", `${digits(number("throughput_mean", c))} /s`, "samples");
  if (there(number("mfu_mean", c))) card("MFU", `${digits(100 * number("mfu_mean", c))} %`);
  card("bubble", `${digits(100 * number("bubble_fraction_mean", c))} %`, "of all ranks' time");
  const held = number("peak_memory", c), left = number("headroom", c);
  if (there(held)) card("fullest GPU", `${digits(held / 1e9, 3)} GB`, left < 0 ? `${digits(-left / 1e9, 3)} GB more than it has` : `${digits(left / 1e9, 3)} GB left`, left < 0);
  if (there(number("goodput_fraction_mean", c)))
    card("goodput", `${digits(100 * number("goodput_fraction_mean", c))} %`, `of that without failures; standard error ${digits(100 * number("goodput_fraction_standard_error", c), 2)}`);
  if (there(number("n_failures_mean", c))) card("failures", digits(number("n_failures_mean", c)), "a trial, on average");
  $("cards").innerHTML = cards.join("");
}

const missing = () => (D.why && D.why.left_out ? `<p class="quiet">Of ${D.why.left_out} cells this was not evaluated anew, as it takes long; this is one of them.</p>` : "");

function waterfall() {
  if (!D.why || !place.has(state.cell)) return show("waterfall", "");
  const i = why.get(state.cell);
  if (i === undefined) return show("waterfall", missing());
  let total = 0;
  const has = D.why.mfu[i][0] !== null;
  const list = D.why.waterfalls[i].map((value, k) => {
    const from = total;
    total += value;
    const label = k === 0 && !has ? "compute" : D.why.steps[k], share = has ? `, MFU ${digits(100 * D.why.mfu[i][k], 3)} %` : "";
    return { label, from, to: total, value, words: seconds(value, 3) + share, colour: V(k === 0 ? "green" : k < 4 ? "sky" : k === 4 ? "grey" : k < 14 ? "orange" : "pink") };
  }).filter((row, k) => k === 0 || row.value !== 0);
  const slim = width("waterfall") < 430; // no room for both words
  if (slim) list.forEach((row) => { row.words = row.words.split(",")[0]; });
  const key = [["green", has ? "FLOPs of the model at the GPUs' peak" : "computing"], ["sky", "slower kernels, recomputation, uneven stages"], ["grey", "bubble"], ["orange", "exposed communication, optimizer"], ["pink", "noise"]];
  show("waterfall", legend(key.map(([c, words]) => [V(c), words])) + rows("waterfall", list, "time, up to the p95 of the iteration [s]", { low: 0, high: total * (slim ? 1.02 : 1.25) }));
}

function savings() {
  const i = why.get(state.cell);
  if (i === undefined) return show("savings", "");
  if (i >= D.why.savings.length) return show("savings", '<p class="quiet">Evaluated for the best cells only; of this one hops.what_if(*cube.hops.words(...)) tells.</p>');
  if (!D.why.savings[i].length) return show("savings", "");
  const list = D.why.savings[i].map(([name, , mean, , low, high, , share]) => ({ label: name, from: 0, to: mean, ends: [low, high], words: `${digits(share, 3)} %`, colour: V("green") }));
  const meaning = D.why.savings[i].slice(0, 3).map(([name, words]) => `<b>${esc(name)}</b>: ${esc(words)}`).join("; ");
  show("savings", rows("savings", list, "time an iteration would save [s]; lines: 95 % intervals over pairs of draws", { whiskers: true }) + `<p class="quiet">What if: ${meaning}. Shares are of the mean iteration.</p>`);
}

function path() {
  const i = why.get(state.cell);
  if (i === undefined || !D.why.paths[i]) return show("path", "");
  const list = Object.entries(D.why.paths[i]).map(([label, value]) => ({ label, from: 0, to: value, words: `${digits(value, 3)} %`, colour: V(label.startsWith("rank") ? "sky" : label.startsWith("messages") ? "orange" : "pink") }));
  show("path", rows("path", list, "share of the iteration [%]", { low: 0 }));
}

function distribution() {
  if (!D.draws || !place.has(state.cell)) return show("distribution", "");
  const found = pair().map(([cell, colour]) => [D.draws.histograms[place.get(cell)], colour]).filter(([h]) => h.length > 3);
  if (!found.length) return show("distribution", `<p>${D.draws.histograms[place.get(state.cell)][2] === 1 ? "One draw: nothing varies, or no more were asked for." : "All draws are equal."}</p>`);
  const low = Math.min(...found.map(([h]) => h[0])), high = Math.max(...found.map(([h]) => h[1]));
  const share = found.map(([h]) => { const n = h.slice(2).reduce((a, b) => a + b, 0); return h.slice(2).map((c) => (100 * c) / n / ((h[1] - h[0]) / (h.length - 2))); });
  const most = Math.max(...share.flat());
  const drawn = frame("distribution", 250, [low, high], [0, most * 1.12], "iteration time [s]", "density [% of draws per s]", (x, y) =>
    found.flatMap(([h, colour], k) => {
      const step = (h[1] - h[0]) / (h.length - 2);
      const bars = share[k].map((v, j) => rect(x(h[0] + j * step), y(v), x(step + low) - x(low) - 0.5, y(0) - y(v), V(colour), `${digits(h[0] + j * step, 5)} s: ${h[2 + j]} draws`, 'fill-opacity="0.55"'));
      const marks = ["0.5", "0.95", "0.99"].map((q) => [number(`iteration_time@${q}`, pair()[k][0]), `p${100 * q}`]).filter(([v]) => there(v));
      return [...bars, ...apart(marks, x).flatMap(([v, s]) => [line(x(v), 26, x(v), y(0), `stroke="${V(colour)}" stroke-dasharray="3 3"`), k ? "" : text(x(v), 24, s, "middle", "quiet")])];
    }));
  show("distribution", both() + drawn);
}

function tail() {
  if (!D.draws || !place.has(state.cell)) return show("tail", "");
  const found = pair().map(([cell, colour]) => [D.draws.tails[place.get(cell)], colour]).filter(([t]) => t.length > 1);
  if (!found.length) return show("tail", "");
  const odds = D.draws.quantiles.map((q) => -Math.log10(1 - q)), n = Math.max(...found.map(([t]) => t.length));
  const slow = found.map(([t]) => t.map((v) => 100 * (v / t[0] - 1))), most = Math.max(...slow.flat(), 1e-9);
  const marks = [0.5, 0.9, 0.95, 0.99, 0.999].filter((q) => -Math.log10(1 - q) <= odds[n - 1] + 1e-9).map((q) => [-Math.log10(1 - q), `p${Number((100 * q).toFixed(1))}`]);
  show("tail", both() + frame("tail", 250, [odds[0], odds[n - 1]], [0, most * 1.05], "quantile of the draws [odds on a log scale]", "slower than the median [%]", (x, y) =>
    slow.flatMap((values, k) => [
      `<polyline fill="none" stroke="${V(found[k][1])}" stroke-width="2" points="${values.map((v, j) => `${x(odds[j]).toFixed(1)},${y(v).toFixed(1)}`).join(" ")}"/>`,
      ...values.map((v, j) => `<circle cx="${x(odds[j]).toFixed(1)}" cy="${y(v).toFixed(1)}" r="3" fill="${V(found[k][1])}"><title>p${Number((100 * D.draws.quantiles[j]).toFixed(1))}: ${digits(v, 3)} % slower than the median</title></circle>`),
    ]), marks));
}

// bars of every rank, one beside the other; ``parts(k)``: [value, colour, words] from the bottom up
function columns(id, n, yname, high, parts, above = null) {
  const w = width(id), each = (w - 70) / n, step = Math.ceil(n / ((w - 70) / 26));
  const xticks = [...Array(n).keys()].filter((k) => k % step === 0).map((k) => [k + 0.5, String(k)]);
  return frame(id, 240, [0, n], [0, high], "pipeline rank", yname, (x, y) =>
    [...Array(n).keys()].flatMap((k) => {
      let from = 0;
      const bars = parts(k).map(([value, colour, words]) => { const bar = rect(x(k) + each * 0.1, y(from + value), each * 0.8, y(from) - y(from + value), V(colour), `rank ${k}: ${words}`); from += value; return bar; });
      const room = above && above(k);
      return there(room) ? [...bars, line(x(k) + 1, y(room), x(k + 1) - 1, y(room), 'stroke="var(--red)" stroke-width="2.5"')] : bars;
    }), xticks);
}

function ranks() {
  const i = place.get(state.cell);
  if (i === undefined) return show("ranks", "");
  const busy = D.ranks.busy[i];
  show("ranks", legend([[V("sky"), "busy"], [V("empty"), "bubble: idle, or waiting"]]) + columns("ranks", busy.length, "share of the makespan [%]", 100, (k) => [[busy[k], "sky", `${digits(busy[k])} % busy`], [100 - busy[k], "empty", `${digits(100 - busy[k])} % bubble`]]));
}

function memory() {
  const i = place.get(state.cell);
  if (i === undefined || !D.ranks.memory || !D.ranks.memory[i].length) return show("memory", "");
  const held = D.ranks.memory[i], room = (D.why && D.why.room[state.cell]) || [];
  const high = 1.08 * Math.max(...held, ...room);
  const fits = held.every((v, k) => !there(room[k]) || v <= room[k]);
  show("memory", legend([[V("sky"), "peak of a GPU of the rank"], ...(room.length ? [[V("red"), "capacity"]] : [])]) + columns("memory", held.length, "memory [GB]", high, (k) => [[held[k], there(room[k]) && held[k] > room[k] ? "orange" : "sky", `${digits(held[k])} GB`]], (k) => room[k]) + (fits ? "" : '<p class="quiet">Orange: more than the GPU has.</p>'));
}

const STATES = { useful: "empty", replay: "blue", wasted: "grey", checkpoint: "green", detection: "orange", queue: "pink", recovery: "red" };

function ledger() {
  if (!D.ledger || !place.has(state.cell)) return show("ledger", "");
  const list = pair().flatMap(([cell, colour]) => D.ledger.shares[place.get(cell)].map((value, k) => ({ label: D.ledger.buckets[k], from: 0, to: value, words: `${digits(value, 3)} %`, colour: V(colour), k }))).filter((row) => row.to > 0);
  list.sort((a, b) => a.k - b.k);
  show("ledger", both() + rows("ledger", list, "share of GPUs x wall time [%]", { low: 0 }));
}

function raster() {
  const found = D.raster && D.raster[state.cell];
  if (!found) return show("raster", D.raster && Object.keys(D.raster).length && place.has(state.cell) ? '<p class="quiet">Kept for the best cells only.</p>' : "");
  const n = found.trials.length, h = Math.max(3, Math.min(14, 300 / n));
  const w = width("raster"), left = 44, right = w - 12, x = (v) => left + (v / found.end) * (right - left), bottom = 6 + n * h;
  const parts = ticks(0, found.end, (right - left) / 80).flatMap((t) => [line(x(t), 4, x(t), bottom), text(x(t), bottom + 15, digits(t), "middle", "quiet")]);
  found.trials.forEach((trial, k) => trial.forEach(([from, to, state]) => parts.push(rect(x(from), 6 + k * h, Math.max(1, x(to) - x(from)), h * 0.85, V(STATES[found.states[state]]), `trial ${k}, ${found.states[state]}: ${digits(from)} to ${digits(to)} ${found.unit}`))));
  parts.push(text(4, bottom / 2, "trial", "start", "quiet"));
  const key = found.states.map((name) => [V(STATES[name]), name]);
  show("raster", legend(key) + svg(w, bottom + 20, "states of every trial over the wall clock", parts) + caption(`wall clock [${found.unit}]; a row a trial`));
}

// --- heat map over the two longest axes; the others stay where the picker has them ---
const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
function shade(v) {
  const s = Math.min(0.9999, Math.max(0, v)) * (CIVIDIS.length - 1), k = Math.floor(s), mix = (i) => [1, 3, 5].map((p) => parseInt(CIVIDIS[i].slice(p, p + 2), 16));
  const [a, b] = [mix(k), mix(k + 1)], rgb = a.map((c, i) => Math.round(c + (s - k) * (b[i] - c)));
  return [`rgb(${rgb})`, 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] > 120 ? "#111" : "#fff"];
}

function heat() {
  const order = shape.map((n, i) => i).filter((i) => shape[i] > 1).sort((a, b) => shape[b] - shape[a] || a - b).slice(0, 2);
  if (!order.length) return show("heat", "");
  const [i, j] = order.length > 1 ? (shape[order[0]] >= shape[order[1]] ? [order[1], order[0]] : order) : [null, order[0]]; // rows, columns
  const metric = D.heat[state.heat], index = at(state.cell), w = width("heat");
  const n = i === null ? 1 : shape[i], m = shape[j];
  const cells = [...Array(n).keys()].map((r) => [...Array(m).keys()].map((c) => { const here = [...index]; if (i !== null) here[i] = r; here[j] = c; return cellAt(here); }));
  const values = cells.flat().filter((cell) => place.has(cell)).map((cell) => metric.values[cell]).filter(there);
  const low = Math.min(...values), high = Math.max(...values);
  const left = i === null ? 8 : Math.min(0.36 * w, 16 + 6.7 * Math.max(...D.axes[i].labels.map((s) => s.length))), each = (w - left - 8) / m, h = Math.max(16, Math.min(34, 420 / n));
  const parts = [];
  cells.forEach((row, r) => {
    if (i !== null) parts.push(text(left - 8, 22 + r * h + h / 2 + 4, D.axes[i].labels[r], "end"));
    row.forEach((cell, c) => {
      const v = metric.values[cell], known = place.has(cell) && there(v), [fill, ink] = known ? shade(high > low ? (v - low) / (high - low) : 0.5) : [V("empty"), ""];
      parts.push(rect(left + c * each, 22 + r * h, each - 1, h - 1, fill, `${named(cell)}: ${known ? `${digits(v)} ${metric.unit}` : "not evaluated"}`, `data-cell="${cell}" style="cursor:pointer"${cell === state.cell ? ' stroke="var(--red)" stroke-width="3"' : ""}`));
      if (known && each > 44) parts.push(`<text x="${(left + (c + 0.5) * each).toFixed(1)}" y="${(22 + r * h + h / 2 + 4).toFixed(1)}" text-anchor="middle" class="bare" style="fill:${ink};pointer-events:none">${digits(v, each > 56 ? 4 : 3)}</text>`);
    });
  });
  const bottom = 22 + n * h, skip = Math.ceil((Math.max(...D.axes[j].labels.map((s) => s.length)) * 7 + 6) / each);
  D.axes[j].labels.forEach((s, c) => { if (c % skip === 0) parts.push(text(left + (c + 0.5) * each, bottom + 15, s, "middle", "quiet")); });
  if (i !== null) parts.push(text(4, 13, D.axes[i].title, "start", "quiet"));
  const options = D.heat.map((each, k) => `<option value="${k}"${k === state.heat ? " selected" : ""}>${esc(each.title)} [${esc(each.unit)}]</option>`);
  const fixed = D.axes.length > 2 ? ` Other axes as picked above: ${esc(D.axes.map((axis, k) => (k === i || k === j ? "" : `${axis.name}=${axis.labels[index[k]]}`)).filter(Boolean).join(", "))}.` : "";
  const scale = `<p class="legend"><span><i style="background:${CIVIDIS[0]}"></i>${digits(low)} ${esc(metric.unit)}</span><span><i style="background:${CIVIDIS[9]}"></i>${digits(high)} ${esc(metric.unit)}</span><span><i style="background:${V("empty")}"></i>not evaluated</span></p>`;
  show("heat", `<p><select id="metric" aria-label="metric">${options.join("")}</select></p>${scale}${svg(w, bottom + 20, metric.title, parts)}${caption(D.axes[j].title)}<p class="quiet">Pick a cell by a click.${fixed}</p>`);
  $("metric").onchange = () => { state.heat = Number($("metric").value); heat(); };
  for (const box of chart("heat").querySelectorAll("[data-cell]")) box.onclick = () => pick(Number(box.dataset.cell));
}

// --- the table ---
const COLUMNS = [
  ["p50 [s]", (c) => number("iteration_time@0.5", c), 5], ["p95 [s]", (c) => number("iteration_time@0.95", c), 5], ["p99 [s]", (c) => number("iteration_time@0.99", c), 5],
  ["mean [s]", (c) => number("iteration_time_mean", c), 5], ["±", (c) => number("iteration_time_standard_error", c), 2], ["samples/s", (c) => number("throughput_mean", c), 4],
  ["goodput [%]", (c) => 100 * (number("goodput_fraction_mean", c) ?? NaN), 4], ["bubble [%]", (c) => 100 * number("bubble_fraction_mean", c), 4], ["MFU [%]", (c) => 100 * (number("mfu_mean", c) ?? NaN), 4],
  ["GB", (c) => (number("peak_memory", c) ?? NaN) / 1e9, 3],
];

function table() {
  if (D.evaluated.length < 2) return show("cells", "");
  const columns = COLUMNS.filter(([, value]) => D.evaluated.some((cell) => there(value(cell)) && !Number.isNaN(value(cell))));
  const keys = [...D.axes.map((axis, i) => [axis.title, (cell) => at(cell)[i]]), ...columns];
  const sort = state.sort === null ? columns.findIndex(([name]) => name === (there(number("goodput_fraction_mean", D.best)) ? "goodput [%]" : "samples/s")) + D.axes.length : state.sort;
  const value = (cell) => { const v = keys[sort][1](cell); return there(v) ? v : -Infinity; };
  const ordered = [...D.evaluated].sort((a, b) => (state.down ? value(b) - value(a) : value(a) - value(b)) || a - b);
  const shown = state.all ? ordered : ordered.slice(0, 10);
  const head = keys.map(([name], k) => `<th><button data-sort="${k}">${esc(name)}${k === sort ? (state.down ? " ▾" : " ▴") : ""}</button></th>`).join("");
  const body = shown.map((cell) => {
    const labels = D.axes.map((axis, i) => `<td>${esc(axis.labels[at(cell)[i]])}</td>`);
    const full = number("fits", cell) === 0;
    const numbers = columns.map(([name, of, n]) => `<td>${digits(of(cell), n)}${name === "GB" && full ? " *" : ""}</td>`);
    return `<tr data-cell="${cell}" class="${cell === state.cell ? "here" : cell === state.other ? "there" : ""}">${labels.join("")}${numbers.join("")}</tr>`;
  });
  const more = ordered.length > 10 ? `<p><button id="all">${state.all ? "only 10" : `all ${ordered.length} cells`}</button></p>` : "";
  const star = D.evaluated.some((cell) => number("fits", cell) === 0) ? '<p class="quiet">* more memory than the GPU has</p>' : "";
  show("cells", `<div class="scroll"><table><thead><tr>${head}</tr></thead><tbody>${body.join("")}</tbody></table></div>${star}${more}`);
  for (const row of chart("cells").querySelectorAll("tr[data-cell]")) row.onclick = () => pick(Number(row.dataset.cell));
  for (const button of chart("cells").querySelectorAll("[data-sort]"))
    button.onclick = () => { const k = Number(button.dataset.sort); state.down = k === sort ? !state.down : true; state.sort = k; table(); };
  if ($("all")) $("all").onclick = () => { state.all = !state.all; table(); };
}

function render() {
  for (const draw of [picker, headline, waterfall, savings, path, distribution, tail, ranks, memory, ledger, raster, heat, table]) draw();
}

const A = D.attributes;
$("made").textContent = [`made ${A.created_utc}`, `HOPS ${A.hops_version}${A.git_sha ? ` (${A.git_sha.slice(0, 10)})` : ""}`, `${D.evaluated.length} cell${D.evaluated.length > 1 ? "s" : ""}`, ...(A.notes ? A.notes.split("\n") : [])].join(" · ");
$("words").textContent = A.overrides ? `Made by: ${A.overrides.split("\n").join("  ")}` : "";
let last = 0;
addEventListener("resize", () => { if (innerWidth !== last) { last = innerWidth; render(); } });
render();
render(); // widths are known only when all sections stand
