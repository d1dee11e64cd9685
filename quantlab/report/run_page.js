"use strict";
// Shows the data of the page. Text from runs is set as text and never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
for (const run of data.runs) for (const [name, [steps, values]] of Object.entries(run.curves)) run.curves[name] = { x: run.steps[steps], y: values };
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B", "#7F7F7F", "#5E3C99"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const MOST_DRAWN = 60, MOST_SHOWN = 60, NEIGHBOURS = 3;
const notSettings = new Set(data.not_settings);
const methods = [...new Set(data.runs.map(run => run.method))].sort();
const labelsOf = new Map(methods.map(method => [method, [...new Set(data.runs.filter(run => run.method === method).map(run => run.label))]]));

function make(tag, facts = {}, children = []) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(facts)) key in element ? element[key] = value : element.setAttribute(key, value);
  element.append(...children);
  return element;
}
// plotly reads some markup in names
const plain = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// a method has one colour on the whole page; its configurations differ in dashes, and then in lightness
function styleOf(run) {
  const place = methods.length === 1 ? labelsOf.get(run.method).indexOf(run.label) : methods.indexOf(run.method);
  const variant = methods.length === 1 ? Math.floor(place / COLORS.length) : labelsOf.get(run.method).indexOf(run.label);
  return { color: methods.length === 1 ? COLORS[place % COLORS.length] : data.colors[run.method], dash: DASHES[variant % DASHES.length], width: 1.6, lightness: Math.floor(variant / DASHES.length) };
}

// ---- filter: words that all must stand in a row, or COLUMN=TEXT, COLUMN<NUMBER, COLUMN>NUMBER
function matcher(text, table) {
  const tests = text.trim().toLowerCase().split(/\s+/).filter(Boolean).map(word => {
    const found = word.match(/^([^=<>]+)([=<>])(.+)$/);
    if (!found) return row => row.text.includes(word);
    const place = table.columns.findIndex(column => column.title.toLowerCase().startsWith(found[1]));
    const key = data.keys.findIndex(name => name.toLowerCase() === found[1] || name.toLowerCase().endsWith("." + found[1]));
    const valueOf = row => place >= 0 ? row.cells[place] : key >= 0 && row.run !== null && data.runs[row.run].config[key] !== null ? data.values[data.runs[row.run].config[key]] : "";
    return row => {
      const value = valueOf(row).toLowerCase(), sorted = place >= 0 ? row.sort[place] : parseFloat(value);
      if (found[2] === "=") return value === found[3] || (sorted !== null && sorted === Number(found[3]));
      return sorted !== null && !isNaN(sorted) && (found[2] === "<" ? sorted < Number(found[3]) : sorted > Number(found[3]));
    };
  });
  return row => tests.every(test => test(row));
}

const search = make("input", { type: "search", placeholder: "Filter: words, or column=value, column<number", "aria-label": "Filter runs" });
const count = make("span", { className: "faint", role: "status" });
const sections = [];

function tableSection(table) {
  const section = { table, sorted: null, descending: false };
  for (const row of table.rows) row.text = row.cells.join(" ").toLowerCase();
  const body = make("tbody");
  const heads = table.columns.map((column, place) => {
    const head = make("th", { textContent: column.title, title: column.meaning, tabIndex: 0, className: column.numeric ? "number" : "" });
    head.onclick = () => {
      // the best of a metric first, then the other way round
      section.descending = section.sorted === place ? !section.descending : column.better === "↑";
      section.sorted = place;
      heads.forEach((other, index) => {
        other.textContent = table.columns[index].title + (index === place ? (section.descending ? " ▼" : " ▲") : "");
        other.setAttribute("aria-sort", index === place ? (section.descending ? "descending" : "ascending") : "none");
      });
      section.fill();
    };
    head.onkeydown = event => { if (event.key === "Enter") head.click(); };
    return head;
  });
  for (const row of table.rows) {
    const run = row.run;
    row.element = make("tr", run === null ? { className: "baseline", title: "a baseline of these runs" } : { className: "run", tabIndex: 0 },
      row.cells.map((text, place) => make("td", { textContent: text, title: text, className: table.columns[place].numeric ? "number" : "" })));
    if (run !== null) {
      row.element.onclick = () => openRun(run, section);
      row.element.onkeydown = event => { if (event.key === "Enter") openRun(run, section); };
    }
  }
  section.fill = () => {
    const place = section.sorted, sign = section.descending ? -1 : 1;
    let rows = table.rows.filter(matcher(search.value, table));
    if (place !== null) rows.sort((one, other) => {
      const a = one.sort[place], b = other.sort[place];
      if (a !== null && b !== null) return sign * (a - b);
      if (a !== null || b !== null) return a === null ? 1 : -1;
      return sign * one.cells[place].localeCompare(other.cells[place], undefined, { numeric: true });
    });
    section.shown = rows;
    body.replaceChildren(...rows.map(row => row.element));
    empty.hidden = rows.length > 0;
    if (section.drawn) section.draw();
  };
  const empty = make("p", { className: "faint", textContent: "No run of this table passes the filter.", hidden: true });
  const about = [table.common && `All runs: ${table.common}.`, table.protocol && `Protocol: ${table.protocol}.`].filter(Boolean).join(" ");
  section.element = make("section", {}, [make("h2", { textContent: table.title }), make("p", { className: "faint", textContent: about }),
    make("div", { className: "scroll" }, [make("table", {}, [make("thead", {}, [make("tr", {}, heads)]), body])]), empty]);
  addCurves(section);
  addGallery(section);
  return section;
}

const runsOf = section => section.shown.filter(row => row.run !== null).map(row => row.run);
const all = section => section.table.rows.filter(row => row.run !== null).map(row => data.runs[row.run]);

// ---- curves
// the legend's lines make the chart taller, not its curves smaller
const legendHeight = labels => 25 * Math.ceil(labels / Math.max(1, Math.floor((document.body.clientWidth - 120) / 170)));
const layout = (title, labels = 0) => ({
  margin: { l: 70, r: 44, t: 30, b: 45 }, modebar: { orientation: "v" }, hovermode: "closest", showlegend: true, height: 360 + legendHeight(labels),
  legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 }, groupclick: "togglegroup" },
  xaxis: { title: { text: "optimizer step" }, rangemode: "tozero" }, yaxis: { title: { text: plain(title) } },
});
// plotly would offer to upload the curves
const settings = { responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
const decades = values => { const real = values.filter(value => value !== null && value > 0); return real.length ? Math.log10(Math.max(...real) / Math.min(...real)) : 0; };
const isLog = values => { const real = values.filter(value => value !== null); return real.length > 0 && Math.min(...real) > 0 && Math.max(...real) > 30 * Math.min(...real); };

function traces(runs, key) {
  const named = new Set();
  return runs.map(run => {
    const curve = run.curves[key], style = styleOf(run), first = !named.has(run.label);
    named.add(run.label);
    return { x: curve.x, y: curve.y, name: plain(run.label), legendgroup: run.label, showlegend: first, opacity: Math.max(0.35, 1 - 0.25 * style.lightness),
      mode: curve.x.length === 1 ? "markers" : "lines", line: { color: style.color, dash: style.dash, width: style.width }, marker: { color: style.color, size: 8 },
      hovertemplate: `${plain(run.label)}, seed ${plain(run.seed)}<br>step %{x}: %{y:.5g}<extra></extra>` };
  });
}

function addCurves(section) {
  const keys = [...new Set(all(section).flatMap(run => Object.keys(run.curves)))];
  if (!keys.length) return;
  const chosen = make("select", { "aria-label": "Metric" }, keys.map(key => make("option", { value: key, textContent: key.replaceAll("_", " ") })));
  if (keys.includes("loss")) chosen.value = "loss";
  const log = make("input", { type: "checkbox" }), chart = make("div", { className: "chart" }), said = make("span", { className: "faint" });
  let axis = null;
  section.draw = () => {
    section.drawn = true;
    const runs = runsOf(section).map(place => data.runs[place]).filter(run => run.curves[chosen.value]);
    const drawn = runs.slice(0, MOST_DRAWN);
    said.textContent = !runs.length ? "No run here logged it." : runs.length > drawn.length
      ? `The first ${drawn.length} of ${runs.length} runs, as the table is sorted; filter it to see others.` : `${runs.length} run${runs.length > 1 ? "s" : ""}, a line each; drag to zoom, double-click to go back.`;
    if (axis === null) { axis = isLog(drawn.flatMap(run => run.curves[chosen.value].y)); log.checked = axis; }
    const shape = layout(chosen.selectedOptions[0].textContent, new Set(drawn.map(run => run.label)).size);
    shape.yaxis.type = log.checked ? "log" : "linear";
    if (log.checked) {
      shape.yaxis.exponentformat = "power";
      const span = decades(drawn.flatMap(run => run.curves[chosen.value].y));
      if (span > 1.5) shape.yaxis.dtick = Math.ceil(span / 6); // whole powers, not the digits between them
    }
    Plotly.react(chart, traces(drawn, chosen.value), shape, settings);
  };
  chosen.onchange = () => { axis = null; section.draw(); };
  log.onchange = section.draw;
  section.element.append(make("div", { className: "controls" }, [make("label", {}, ["Curves of ", chosen]), make("label", {}, [log, " logarithmic"]), said]), chart);
  new IntersectionObserver((entries, observer) => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    observer.disconnect();
    setTimeout(() => whenPlotly(section.draw), 100);
  }, { rootMargin: "100px" }).observe(chart);
}

// some megabytes, which the page reads and sorts its tables without
function whenPlotly(action) {
  if (!window.Plotly) document.head.append(make("script", { textContent: document.getElementById("plotly").textContent }));
  action();
}

// ---- pictures
function figureOf(picture, words) {
  const shown = picture.image ? make("img", { src: picture.image, alt: picture.caption }) : "not on this page: open the file";
  return make("figure", {}, [make("a", { href: picture.link, target: "_blank", rel: "noopener" }, [shown]), make("figcaption", { textContent: words })]);
}

function addGallery(section) {
  const names = [...new Set(all(section).flatMap(run => run.pictures.filter(one => one.image).map(one => one.name)))];
  if (!names.length) return;
  const chosen = make("select", { "aria-label": "Picture" }, [make("option", { value: "", textContent: "choose…" }), ...names.map(name => make("option", { value: name, textContent: name }))]);
  const gallery = make("div", { className: "gallery" });
  chosen.onchange = () => {
    const runs = runsOf(section).map(place => data.runs[place]);
    const found = runs.flatMap(run => run.pictures.filter(one => one.name === chosen.value && one.image).map(one => [run, one]));
    gallery.replaceChildren(...found.slice(0, MOST_SHOWN).map(([run, one]) => figureOf(one, `${run.label}, seed ${run.seed}`)));
    if (found.length > MOST_SHOWN) gallery.append(`The first ${MOST_SHOWN} of ${found.length}; filter the table to see others.`);
  };
  section.element.append(make("div", { className: "controls" }, [make("label", {}, ["Pictures of all runs side by side: ", chosen])]), gallery);
}

// ---- one run
const dialog = make("dialog");
dialog.onclick = event => { if (event.target === dialog) dialog.close(); };

function differing(one, other) {
  return data.keys.map((key, place) => place).filter(place => !notSettings.has(data.keys[place]) && one.config[place] !== other.config[place]);
}
const valueAt = (run, place) => run.config[place] === null ? "–" : data.values[run.config[place]];

// how far two runs lie apart in keys that are numbers, of equal weight
function farness(one, other, keys) {
  return keys.reduce((sum, key) => {
    const a = parseFloat(valueAt(one, key)), b = parseFloat(valueAt(other, key));
    return sum + (isNaN(a) || isNaN(b) ? 1 : a === b ? 0 : Math.abs(a - b) / (Math.abs(a) + Math.abs(b)));
  }, 0);
}

function neighbours(place, section) {
  const run = data.runs[place];
  const others = [...new Set(section ? section.table.rows.map(row => row.run) : data.runs.keys())].filter(other => other !== null && other !== place);
  const found = others.map(other => [other, differing(run, data.runs[other])]);
  const same = found.filter(([, keys]) => !keys.length).map(([other]) => data.runs[other]);
  const parts = [make("h3", { textContent: "Differences to its neighbours" })];
  if (same.length) parts.push(make("p", { textContent: `The same settings: ${same.slice(0, 12).map(other => `seed ${other.seed}`).join(", ")}${same.length > 12 ? ` and ${same.length - 12} more` : ""}.` }));
  const labels = new Set([run.label]);
  const near = found.filter(([, keys]) => keys.length).map(([other, keys]) => [other, keys, farness(run, data.runs[other], keys)])
    .sort((one, other) => one[1].length - other[1].length || one[2] - other[2])
    .filter(([other]) => !labels.has(data.runs[other].label) && labels.add(data.runs[other].label)).slice(0, NEIGHBOURS);
  if (!near.length && !same.length) parts.push(make("p", { className: "faint", textContent: "No other run in its table." }));
  for (const [other, keys] of near) {
    const open = make("button", { textContent: `${data.runs[other].label}, seed ${data.runs[other].seed}` });
    open.onclick = () => openRun(other, section);
    parts.push(make("p", {}, ["Against ", open, ` (${keys.length} key${keys.length > 1 ? "s" : ""}):`]), make("div", { className: "scroll" }, [make("table", {}, [
      make("thead", {}, [make("tr", {}, ["key", "this run", "the other"].map(text => make("th", { textContent: text })))]),
      make("tbody", {}, keys.map(key => make("tr", {}, [data.keys[key], valueAt(run, key), valueAt(data.runs[other], key)].map(text => make("td", { textContent: text })))))])]));
  }
  return parts;
}

function openRun(place, section) {
  const run = data.runs[place], order = section ? runsOf(section) : [place], at = order.indexOf(place);
  const go = (text, step) => { const button = make("button", { textContent: text, disabled: !(at + step in order) }); button.onclick = () => openRun(order[at + step], section); return button; };
  const close = make("button", { textContent: "close" });
  close.onclick = () => dialog.close();
  const row = section && section.table.rows.find(one => one.run === place);
  const parts = [make("div", { className: "bar" }, [go("◀ previous", -1), go("next ▶", 1), close]), make("h2", { textContent: `${run.label}, seed ${run.seed}` }),
    make("p", { className: "faint", textContent: `${run.directory}: ${run.state}` })];
  if (run.error) parts.push(make("pre", { textContent: run.error }));
  if (row) parts.push(make("div", { className: "scroll" }, [make("table", {}, [make("tbody", {}, section.table.columns.map((column, index) => [column, row.cells[index]])
    .filter(([column, text]) => column.numeric && text !== "–").map(([column, text]) => make("tr", {}, [make("td", { textContent: column.title, className: "fact" }), make("td", { textContent: text, className: "fact" }), make("td", { className: "faint", textContent: column.meaning })])))])]));
  if (run.notes) parts.push(make("p", { textContent: `Note: ${run.notes}` }));
  for (const [what, command] of run.commands) parts.push(make("h3", { textContent: what }), make("pre", { textContent: command }));
  parts.push(...neighbours(place, section));
  if (run.pictures.length) parts.push(make("h3", { textContent: "Pictures" }), make("div", { className: "gallery" }, run.pictures.map(one => figureOf(one, one.caption))));
  const keys = Object.keys(run.curves), charts = make("div", { className: "gallery" });
  if (keys.length) {
    const curves = make("details", {}, [make("summary", { textContent: `Curves (${keys.length})` }), charts]);
    curves.ontoggle = () => whenPlotly(() => charts.childElementCount || keys.forEach(key => {
      const chart = make("figure");
      charts.append(chart);
      Plotly.newPlot(chart, traces([run], key), { ...layout(key.replaceAll("_", " ")), height: 260, showlegend: false }, settings);
    }));
    parts.push(curves);
  }
  parts.push(make("details", {}, [make("summary", { textContent: "Config" }), make("table", {}, [make("tbody", {}, data.keys.map((key, index) => index).filter(index => run.config[index] !== null)
    .map(index => make("tr", {}, [make("td", { textContent: data.keys[index] }), make("td", { textContent: valueAt(run, index) })])))])]));
  dialog.replaceChildren(...parts);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

// ---- the page
const completed = data.runs.length - data.unfinished.length;
document.body.append(make("h1", { textContent: `${data.runs.length} run${data.runs.length === 1 ? "" : "s"}` }), make("p", { className: "faint", textContent: `${completed} completed; a table for each task and protocol. Click a heading to sort, a row for its command, config and pictures. Made by quantlab ${data.version}.` }),
  make("header", {}, [search, count]));
for (const table of data.tables) sections.push(tableSection(table));
document.body.append(...sections.map(section => section.element));
if (data.unfinished.length) {
  const rows = data.unfinished.map(place => { const run = data.runs[place], row = make("tr", { className: "run", tabIndex: 0 }, [run.label, run.seed, run.state, run.error, run.directory].map(text => make("td", { textContent: text, title: text }))); row.onclick = () => openRun(place, null); return row; });
  document.body.append(make("section", {}, [make("h2", { textContent: "Not completed" }), make("div", { className: "scroll" }, [make("table", {}, [make("thead", {}, [make("tr", {}, ["method", "seed", "state", "error", "directory"].map(text => make("th", { textContent: text })))]), make("tbody", {}, rows)])])]));
}
document.body.append(dialog);
function refresh() {
  for (const section of sections) section.fill();
  const shown = sections.reduce((sum, section) => sum + runsOf(section).length, 0);
  count.textContent = `${shown} of ${completed} completed runs`;
}
let waiting = null;
search.oninput = () => { clearTimeout(waiting); waiting = setTimeout(refresh, 120); };
refresh();
document.documentElement.dataset.ready = String(Math.round(performance.now()));
