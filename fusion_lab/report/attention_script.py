"""What runs in the browser on the page of :mod:`fusion_lab.report.attention_page`: plain JavaScript, a little HTML."""

LOOK = """
h1{font-size:1.25em;margin:0 0 8px} h2{font-size:1em;margin:24px 0 0} p{margin:6px 0;max-width:75em}
label{display:inline-block;margin:4px 18px 4px 0} select{font:inherit;max-width:min(560px,92vw);padding:3px}
select:focus-visible{outline:3px solid #0072B2;outline-offset:1px}
h2,#facts{overflow-wrap:anywhere} #facts{font-weight:bold} .note{color:#444} section .note{font-size:.9em;margin:2px 0}
"""

BODY = """
<h1>What the model weighed in validation rows</h1>
<div><label>Map <select id="map"></select></label><label>Shown <select id="shown"></select></label></div>
<p id="facts" aria-live="polite"></p>
<p class="note" id="caution"></p>
<div id="charts"></div>
<p class="note" id="choice"></p><p class="note" id="table"></p>
<noscript>The figures need JavaScript; the numbers are in the files beside this page.</noscript>
"""

SCRIPT = r"""
"use strict";
const byId = name => document.getElementById(name);
const data = JSON.parse(byId("data").textContent);
const GREY = "#6b6b6b", PALE = "#8a8a8a", NOT_THERE = "#e2e2e2", MOST_TICKS = 30, BANDS_FROM = 15;
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "star", "cross"];
const ALIKE = "if all were weighed alike";
// Plotly reads some HTML in its texts; names are shown as they are
const plain = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const digits = value => value === null ? "unknown" : value.toPrecision(3);
const lines = texts => texts.filter(Boolean).join("<br>");
const places = count => Array.from({length: count}, (_, i) => i);

// ---- what can be chosen

function option(parent, value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  parent.append(made);
}

function heading(label) {
  const made = document.createElement("optgroup");
  made.label = label;
  byId("shown").append(made);
  return made;
}

function listRows(map) {
  const before = byId("shown").value || "panel 0", panels = map.charts[0].panels, means = heading("Means");
  byId("shown").replaceChildren(means);
  panels.forEach((panel, i) => {
    const all = i === 0 && panels.length > 1 ? ", and of every group" : "";
    option(means, `panel ${i}`, `mean of ${panel.name}${all} (n = ${panel.rows})`);
  });
  let held = null;
  data.samples.forEach((sample, i) => {
    if (map.charts[0].samples[i] === null) return;
    if (held === null || held.label !== sample.heading) held = heading(sample.heading);
    option(held, `row ${i}`, `${sample.id}, ${sample.facts}`);
  });
  byId("shown").value = before;
  if (byId("shown").selectedIndex < 0) byId("shown").value = "panel 0";
}

// ---- one axis: a mark for every name, a point of a curve for every position

function seriesOf(map, chart, choice) {
  const shares = map.kind === "attention", least = map.kind === "answer" ? -Infinity : 0;
  const panels = chart.panels.map((panel, i) => ({
    name: panel.name, label: `${panel.name} (n = ${panel.rows})`, rows: panel.rows,
    mean: panel.mean[0], std: panel.std[0], count: panel.count[0], alike: shares ? panel.alike[0] : null, least,
    colour: data.colours[i % data.colours.length], symbol: SYMBOLS[i % SYMBOLS.length],
  }));
  if (choice.row !== undefined) {
    const sample = data.samples[choice.row], own = chart.samples[choice.row][0];
    const beside = panels.find((panel, i) => i && panel.name === sample.group) || panels[0];
    const one = {name: sample.id, label: sample.id, mean: own, alike: shares ? chart.alike[choice.row][0] : null,
      colour: data.colours[0], symbol: "circle"};
    return [one, {...beside, label: `mean of ${beside.label}`, colour: PALE, symbol: "line-ns-open"}];
  }
  if (choice.panel) return [panels[choice.panel], {...panels[0], colour: PALE}];
  return panels;
}

function markTexts(axis, order, one) {
  return order.map(k => one.mean[k] === null ? "" : lines([
    `<b>${plain(axis.labels[k])}</b>, ${plain(one.name)}: ${digits(one.mean[k])}`,
    one.std ? `± ${digits(one.std[k])} over folds` : "",
    one.count ? `${one.count[k]} of ${one.rows} rows have it` : "",
    one.alike ? `${ALIKE}: ${digits(one.alike[k])}` : "",
  ]));
}

function band(one, n, x, low, high, opacity) {
  const back = list => [...list].reverse();
  return {x: x.concat(back(x)), y: high.concat(back(low)), mode: "lines", fill: "toself", fillcolor: one.colour,
    opacity, line: {width: 0}, hoverinfo: "skip", showlegend: false, legendgroup: String(n)};
}

function markTraces(axis, order, one, n, count) {
  const upright = axis.places, banded = upright && order.length > BANDS_FROM;
  const dodge = upright ? 0 : (n - (count - 1) / 2) * 0.7 / count, at = places(order.length);
  const values = order.map(k => one.mean[k]), where = at.map(i => i + dodge), traces = [];
  const away = one.std ? order.map(k => one.std[k] ?? 0) : null;
  if (away && banded) {
    const there = at.filter(i => values[i] !== null);
    const low = there.map(i => Math.max(one.least, values[i] - away[i])), high = there.map(i => values[i] + away[i]);
    traces.push(band(one, n, there, low, high, count > 2 ? 0.15 : 0.3));
  }
  const bars = {type: "data", array: away, width: 0, thickness: 1.5, color: one.colour, visible: !!away && !banded};
  const size = order.length > 60 ? 5 : 9;
  traces.push({
    x: upright ? where : values, y: upright ? values : where, mode: upright ? "lines+markers" : "markers",
    name: plain(one.label), legendgroup: String(n), text: markTexts(axis, order, one),
    hovertemplate: "%{text}<extra></extra>", line: {color: one.colour, width: 1.8},
    marker: {color: one.colour, symbol: one.symbol, size, line: {color: one.colour, width: 1.5}},
    [upright ? "error_y" : "error_x"]: bars,
  });
  return traces;
}

function alikeTrace(axis, order, alike) {
  const apart = axis.places ? [] : [null];  // steps of one line, or a line for each name
  const edges = order.flatMap((_, i) => [i - 0.5, i + 0.5, ...apart]);
  const values = order.flatMap(k => [alike[k], alike[k], ...apart]), upright = axis.places;
  return {x: upright ? edges : values, y: upright ? values : edges, mode: "lines", name: ALIKE, hoverinfo: "skip",
    line: {color: GREY, dash: upright ? "dash" : "solid", width: 1.4}};
}

function runs(flags) {  // [first, last] of each stretch of true
  const found = [];
  flags.forEach((flag, i) => {
    if (flag && i && flags[i - 1]) found[found.length - 1][1] = i;
    else if (flag) found.push([i, i]);
  });
  return found;
}

function notThere(axis, missing) {
  const shapes = [], annotations = [], font = {color: GREY, size: 12};
  for (const [a, b] of runs(missing)) {
    const shape = {type: "rect", layer: "below", line: {width: 0}, fillcolor: NOT_THERE};
    const note = {text: "not there", showarrow: false, font};
    const middle = (a + b) / 2, narrow = missing.length > BANDS_FROM && b - a < 4;
    if (axis.places) {
      shapes.push({...shape, xref: "x", yref: "paper", x0: a - 0.5, x1: b + 0.5, y0: 0, y1: 1});
      annotations.push({...note, x: middle, y: 0.98, yref: "paper", yanchor: "top", textangle: narrow ? -90 : 0});
    } else {
      shapes.push({...shape, xref: "paper", yref: "y", x0: 0, x1: 1, y0: a - 0.5, y1: b + 0.5});
      annotations.push({...note, x: 0.99, xref: "paper", xanchor: "right", y: middle});
    }
  }
  return {shapes, annotations};
}

function marks(map, chart, choice) {
  const axis = chart.axes[0], order = chart.order, upright = axis.places, series = seriesOf(map, chart, choice);
  const traces = series.flatMap((one, n) => markTraces(axis, order, one, n, series.length));
  const end = side => series.flatMap(one => one.mean.map((v, k) => (v ?? 0) + side * (one.std ? one.std[k] ?? 0 : 0)));
  let top = Math.max(0, ...end(1));
  const low = map.kind === "answer" ? Math.min(0, ...end(-1)) : 0;
  if (map.kind === "gate") top = 1;
  if (map.kind === "attention") {
    traces.push(alikeTrace(axis, order, series[0].alike));
    top = Math.max(top, ...series[0].alike.filter(v => v !== null));
  }
  const scale = {title: {text: plain(chart.unit), standoff: 12}, range: [1.04 * low, 1.04 * top || (low ? 0 : 1)],
    automargin: true, zeroline: map.kind === "answer", zerolinecolor: GREY};
  const names = axisLayout(axis, order, upright ? MOST_TICKS : 100);
  names.range = upright ? [-0.7, order.length - 0.3] : [order.length - 0.4, -0.6];
  const missing = choice.row === undefined ? [] : order.map(k => series[0].mean[k] === null);
  return [traces, {
    xaxis: upright ? names : scale, yaxis: upright ? scale : names, ...notThere(axis, missing),
    height: upright ? 400 : 120 + 34 * order.length,
  }];
}

// ---- two axes: a heat map, time from left to right

function cellText(map, names, panel, value, std, count, alike) {
  if (value === null) return lines([names, "not there"]);
  if (!panel) return lines([names, digits(value)]);
  return lines([names, `${digits(value)} ± ${digits(std)} over folds`, `${count} of ${panel.rows} rows have it`,
    map.kind === "attention" ? `${ALIKE}: ${digits(alike)}` : ""]);
}

function largest(tables) {  // one by one: a call takes only so many arguments
  let most = 0;
  for (const table of tables) for (const row of table) for (const value of row) most = Math.max(most, Math.abs(value));
  return most;
}

function heat(map, chart, choice) {
  const turned = chart.axes[0].places && !chart.axes[1].places;
  const [down, across] = turned ? [chart.axes[1], chart.axes[0]] : chart.axes;
  const panel = choice.row === undefined ? chart.panels[choice.panel] : null;
  const own = panel ? panel.mean : chart.samples[choice.row];
  const rows = places(down.labels.length), columns = places(across.labels.length);
  const cell = (table, i, j) => turned ? table[j][i] : table[i][j];
  const grid = told => rows.map(i => columns.map(j => told(i, j)));
  const texts = grid((i, j) => {
    const [of, to] = [[down, i], [across, j]].map(([a, k]) => `${plain(a.name)} <b>${plain(a.labels[k])}</b>`);
    const more = panel ? [panel.std, panel.count, panel.alike].map(table => cell(table, i, j)) : [];
    return cellText(map, `${of}, ${to}`, panel, cell(own, i, j), ...more);
  });
  const answers = map.kind === "answer";
  const scaled = panel ? chart.panels.map(one => one.mean) : chart.samples.filter(Boolean);
  const top = map.kind === "gate" ? 1 : largest(scaled) || 1;
  const trace = {
    type: "heatmap", z: grid((i, j) => cell(own, i, j)), x: columns, y: rows, zmin: answers ? -top : 0, zmax: top,
    colorscale: answers ? data.diverging : data.scale, text: texts, hovertemplate: "%{text}<extra></extra>",
    hoverongaps: true, xgap: columns.length > 60 ? 0 : 1, ygap: rows.length > 60 ? 0 : 1,
    colorbar: {title: {text: {gate: "gate", answer: "answer"}[map.kind] || "share"}, thickness: 16},
  };
  const x = {...axisLayout(across, columns, MOST_TICKS), showgrid: false};
  const y = {...axisLayout(down, rows, MOST_TICKS), showgrid: false, range: [rows.length - 0.5, -0.5]};
  const long = !across.places && across.short.some(name => name.length > 12);
  return [[trace], {plot_bgcolor: NOT_THERE, xaxis: x, yaxis: y,
    height: 180 + 28 * Math.min(rows.length, 40) + (long ? 110 : 0)}];
}

// ---- the page

function axisLayout(axis, order, most) {
  const step = Math.ceil(order.length / most), at = places(order.length).filter(i => i % step === 0);
  return {title: {text: plain(axis.name), standoff: 14}, tickmode: "array", tickvals: at,
    ticktext: at.map(i => plain(axis.short[order[i]])), automargin: true, zeroline: false};
}

function legendOf(map, chart, choice) {
  if (chart.axes.length > 1) {
    const pointer = choice.row === undefined ? " The pointer shows deviation over folds and number of rows." : "";
    return `Colour: ${chart.unit}. Grey: not there.${pointer}`;
  }
  const alike = map.kind === "attention" ? " Grey line: if each row weighed alike all that it has (1/n)." : "";
  return `Bars or bands: ± standard deviation over the folds' means.${alike}`;
}

function factsOf(map, choice) {
  if (choice.row === undefined) {
    const panel = map.charts[0].panels[choice.panel];
    return `Mean of ${panel.name}: ${panel.rows} validation rows, each in its own fold.`;
  }
  const sample = data.samples[choice.row], chart = map.charts[map.charts.length - 1], axis = chart.axes[0];
  const missing = axis.labels.filter((_, k) => chart.samples[choice.row][0][k] === null);
  const named = missing.length > 12 ? `${missing.length} of ${axis.labels.length}` : missing.join(", ");
  return `${sample.id}: ${sample.facts}.${missing.length ? ` Not there (${axis.name}): ${named}.` : ""}`;
}

function sections(count) {
  const charts = byId("charts");
  while (charts.children.length > count) {
    Plotly.purge(charts.lastChild.lastChild);
    charts.lastChild.remove();
  }
  while (charts.children.length < count) {
    const section = document.createElement("section"), note = document.createElement("p");
    note.className = "note";
    section.append(document.createElement("h2"), note, document.createElement("div"));
    charts.append(section);
  }
  return [...charts.children].map(section => section.children);
}

function draw() {
  const map = data.maps[Number(byId("map").value)], [kind, place] = byId("shown").value.split(" ");
  const choice = {[kind]: Number(place)}, narrow = window.innerWidth < 800;
  byId("facts").textContent = factsOf(map, choice);
  const what = map.kind === "answer" ? "answers" : "weights";
  byId("table").textContent = map.table ? `The ${what} of every validation row: ${map.table}, beside this page.` : "";
  sections(map.charts.length).forEach(([title, note, figure], i) => {
    const chart = map.charts[i], [traces, layout] = (chart.axes.length > 1 ? heat : marks)(map, chart, choice);
    title.textContent = choice.row === undefined ? chart.title : chart.row_title;
    note.textContent = legendOf(map, chart, choice);
    Plotly.react(figure, traces, {
      font: {family: "Helvetica, Arial, sans-serif", size: 13}, hoverlabel: {align: "left"},
      margin: {t: 20, l: 60, r: 30, b: 50}, showlegend: chart.axes.length === 1,
      legend: {itemsizing: "constant", ...(narrow ? {orientation: "h", y: -0.3} : {})}, ...layout,
    }, data.config);
  });
}

data.maps.forEach((map, i) => option(byId("map"), i, map.name));
byId("caution").textContent = data.caution;
byId("choice").textContent = data.choice;
byId("map").addEventListener("change", () => {
  listRows(data.maps[Number(byId("map").value)]);
  draw();
});
byId("shown").addEventListener("change", draw);
listRows(data.maps[0]);
draw();
"""
