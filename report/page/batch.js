"use strict";
/* Fills the page of a log folder: a table of songs that sorts, players on demand, and values beside published ones. */

const data = JSON.parse(document.getElementById("data").textContent);
// A line each of the songs beyond those with details.
for (const [name, run, steps, first, lowest, ended] of data.lines) data.songs.push({ name, run, steps, first, lowest, ended, brief: true, created: "", reason: "", findings: [], removed: [], certainty: {}, curves: [], report: "", audio: {} });
const PAGE = 500; // rows of the table at once
const byId = (id) => document.getElementById(id);
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const RANK = { note: 1, warning: 10, refusal: 100 };
const gravity = (song) => song.findings.reduce((sum, f) => sum + (RANK[f.severity] ?? 10), 0);
const sure = (song) => song.certainty.found ?? -1;
const saved = (song) => (song.first && song.lowest != null ? (100 * (song.lowest - song.first)) / song.first : null);

const COLUMNS = [
  { name: "song", key: (s) => s.name.toLowerCase(), cell: nameCell },
  { name: "loss", key: (s) => s.lowest ?? Infinity, cell: (s) => html("td", { class: "number" }, html("b", { text: format(s.lowest) })), number: true },
  { name: "from", key: (s) => s.first ?? Infinity, cell: (s) => html("td", { class: "number muted", text: format(s.first) }), number: true },
  { name: "change", key: (s) => saved(s) ?? Infinity, cell: (s) => html("td", { class: "number muted", text: saved(s) == null ? "–" : `${signed(saved(s), 0)}\u00a0%` }), number: true },
  { name: "steps", key: (s) => s.steps, cell: (s) => html("td", { class: "number muted", text: String(s.steps) }), number: true },
  { name: "curves", cell: (s) => html("td", { class: "thumbs" }, ...s.curves.map(thumbnail)) },
  { name: "findings", key: gravity, cell: findingsCell },
  { name: "certainty", key: sure, cell: certaintyCell },
  { name: "listen", cell: listenCell },
];

let sorted = { column: 1, down: data.lines.length > 0 };
let page = 0;

function nameCell(song) {
  const name = song.report ? html("a", { href: song.report, text: song.name }) : html("span", { text: song.name });
  const more = [song.run, song.created, song.removed.length && `without ${song.removed.join(", ")}`].filter(Boolean).join(" · ");
  const state = song.ended ? html("span", { class: `chip ${song.ended === "error" ? "bad" : "warning"}`, text: song.ended }) : "";
  return html("th", { scope: "row" }, name, " ", state, html("div", { class: "muted small", text: more }), song.reason ? html("div", { class: "small why", text: song.reason }) : "");
}

function findingsCell(song) {
  if (song.brief) return html("td", { class: "muted", text: "–" });
  if (!song.findings.length) return html("td", {}, html("span", { class: "chip good", text: "good pair" }));
  const box = html("details", {}, html("summary", { text: plural(song.findings.length, "finding") }));
  for (const f of song.findings) box.append(html("p", { class: "small" }, html("span", { class: `chip ${f.severity === "note" ? "" : f.severity === "warning" ? "warning" : "bad"}`, text: f.severity }), ` ${f.text}`));
  return html("td", {}, box);
}

function certaintyCell(song) {
  const { found, bounded, "not identifiable": unknown } = song.certainty;
  const total = (found ?? 0) + (bounded ?? 0) + (unknown ?? 0);
  if (!total) return html("td", { class: "muted", text: "–" });
  const text = `${found} found, ${bounded} bounded, ${unknown} not identifiable`;
  const bar = html("span", { class: "stack", role: "img", "aria-label": text, title: text });
  for (const [count, colour] of [[found, "var(--good)"], [bounded, "var(--warning)"], [unknown, "var(--line)"]]) bar.append(html("span", { style: `flex:${count};background:${colour}` }));
  return html("td", {}, bar, html("div", { class: "muted small", text: `${found} of ${total} found` }));
}

/** A small curve with its zero line. */
function thumbnail(curve) {
  const y = curve.y.filter((v) => v != null), log = curve.log ? Math.log : (v) => v;
  const decibel = !/decay/.test(curve.title);
  const low = Math.min(...y, ...(decibel ? [-12] : [0])), high = Math.max(...y, ...(decibel ? [6] : [1]));
  const x0 = log(curve.x[0]), x1 = log(curve.x.at(-1));
  const X = (v) => (1 + (70 * (log(v) - x0)) / (x1 - x0)).toFixed(1), Y = (v) => (2 + (32 * (high - v)) / (high - low)).toFixed(1);
  const path = curve.x.map((x, i) => (curve.y[i] == null ? "" : `${X(x)} ${Y(curve.y[i])}`)).filter(Boolean).join("L");
  const text = `${curve.title}, ${format(Math.min(...y), 1)} to ${format(Math.max(...y), 1)}`;
  return svg("svg", { viewBox: "0 0 72 36", class: "thumb", role: "img", "aria-label": text }, svg("title", {}, text), svg("line", { x1: 1, x2: 71, y1: Y(0), y2: Y(0), class: "grid-line" }), svg("path", { d: `M${path}`, fill: "none", stroke: "var(--fitted)", "stroke-width": 1.6 }));
}

function listenCell(song) {
  const names = Object.keys(song.audio);
  const cell = html("td", { class: "screen" });
  if (names.length) cell.append(html("button", { "aria-expanded": "false", "aria-label": `Listen to ${song.name}`, text: "Listen", onclick: (event) => listen(song, event.currentTarget) }));
  return cell;
}

/* A report holds its recordings, which no other page may read from a file: it is asked for them (see report.js). */
let open = null;
const PATIENCE = 15000; // ms, for a report to answer

function listen(song, button) {
  const again = open?.button === button;
  close();
  if (again) return;
  const box = html("div", { class: "row" });
  const row = html("tr", { class: "player-row" }, html("td", { colspan: COLUMNS.length }, box));
  button.closest("tr").after(row);
  button.setAttribute("aria-expanded", "true");
  const mine = open = { row, button, player: null };
  if (!song.report) return files(song, box);
  box.append(html("span", { class: "muted small", role: "status", text: "loading …" }));
  fromReport(song.report).then((player) => { if (mine === open) controls(open.player = player, box); }, () => files(song, box));
}

function close() {
  open?.player?.context.close();
  open?.row.remove();
  open?.button.setAttribute("aria-expanded", "false");
  open = null;
}

/** A player of the excerpts of a report, level-matched. */
async function fromReport(address) {
  const frame = html("iframe", { src: address, hidden: true, title: "report" });
  const { seconds, tracks } = await new Promise((resolve, reject) => {
    addEventListener("message", (event) => { if (event.source === frame.contentWindow) resolve(event.data); });
    frame.addEventListener("load", () => frame.contentWindow.postMessage("recordings", "*"));
    setTimeout(reject, PATIENCE);
    document.body.append(frame);
  }).finally(() => frame.remove());
  const context = new AudioContext(), player = new Player(context, tracks, seconds);
  await Promise.all(tracks.map(async (track) => player.add(track.key, await context.decodeAudioData(bytesOf(track.audio)))));
  return player;
}

/** The files beside the page, of a song without a report: one at a time, as they were recorded. */
function files(song, box) {
  box.replaceChildren(...Object.entries(song.audio).map(([name, src]) => html("label", { class: "check" }, name, html("audio", { src, controls: true, preload: "none" }))));
  box.append(html("span", { class: "muted small", text: "Levels are as recorded; a report has them matched, and switches between them." }));
}

function table() {
  close();
  const wanted = byId("filter").value.trim().toLowerCase();
  const { key } = COLUMNS[sorted.column];
  const rows = data.songs.map((song, index) => ({ song, index })).filter(({ song }) => song.name.toLowerCase().includes(wanted));
  rows.sort((a, b) => { const [x, y] = [key(a.song), key(b.song)]; return (x < y ? -1 : x > y ? 1 : a.index - b.index) * (sorted.down ? -1 : 1); });
  const head = html("tr", {}, ...COLUMNS.map((column, i) => {
    const mine = i === sorted.column;
    const attributes = { scope: "col", class: `${column.number ? "number" : ""} ${column.name === "listen" ? "screen" : ""}`.trim() || false, "aria-sort": mine ? (sorted.down ? "descending" : "ascending") : false };
    if (!column.key) return html("th", { ...attributes, text: column.name });
    const arrow = mine ? (sorted.down ? " ▾" : " ▴") : "";
    return html("th", attributes, html("button", { class: "sort", text: column.name + arrow, onclick: () => { sorted = { column: i, down: mine && !sorted.down }; page = 0; table(); byId("table").querySelectorAll("th")[i].querySelector("button").focus(); } }));
  }));
  page = Math.max(0, Math.min(page, Math.ceil(rows.length / PAGE) - 1));
  const shown = rows.slice(page * PAGE, (page + 1) * PAGE);
  const body = html("tbody", {}, ...shown.map(({ song, index }) => {
    const row = html("tr", {}, ...COLUMNS.map((column) => column.cell(song)));
    row.addEventListener("pointerenter", () => highlight(index));
    row.addEventListener("focusin", () => highlight(index));
    row.addEventListener("pointerleave", () => highlight(null));
    return row;
  }));
  byId("table").replaceChildren(html("table", { class: "songs" }, html("thead", {}, head), body));
  byId("pages").hidden = rows.length <= PAGE;
  byId("page").textContent = `${page * PAGE + 1} to ${page * PAGE + shown.length}`;
  byId("before").disabled = page === 0;
  byId("after").disabled = (page + 1) * PAGE >= rows.length;
  byId("count").textContent = wanted ? `${rows.length} of ${plural(data.songs.length, "song")}` : plural(data.songs.length, "song");
}

/** Shows where the values of one song lie. */
function highlight(index) {
  document.querySelectorAll(".strips .song").forEach((dot) => dot.classList.toggle("chosen", Number(dot.dataset.song) === index));
}

function failures() {
  byId("failed").hidden = byId("to-failed").hidden = !data.failures.length;
  if (data.failure_count > data.failures.length) byId("failures").append(html("p", { class: "muted small", text: `The first ${data.failures.length} of ${data.failure_count}.` }));
  byId("failures").append(facts(data.failures.map((f) => [f.name, f.reason || "no reason is recorded"])));
}

function values() {
  const known = data.parameters.filter((p) => p.quantiles);
  byId("values").hidden = !data.parameters.length;
  const line = known.length ? ` Line and box: the ${data.published.count} published vocal presets of DiffVox, 5 to 95 % and the middle half.` : "";
  const which = data.lines.length ? `A dot for each of ${data.songs.length - data.lines.length} songs, those that ended early or have the highest losses` : "A dot per song";
  byId("values-note").textContent = `${which}; its row in the table marks it.${line}`;
  for (const p of data.parameters) {
    const given = p.values.filter((v) => v != null), q = p.quantiles;
    const log = /^(Hz|ms)$/.test(p.unit) && given.every((v) => v > 0) && (!q || q[0] > 0), f = log ? Math.log : (v) => v;
    const low = f(Math.min(...given, q ? q[0] : Infinity)), high = f(Math.max(...given, q ? q[4] : -Infinity));
    const X = (v) => 8 + (184 * (f(v) - low)) / (high - low || 1);
    const picture = svg("svg", { viewBox: "0 0 200 26", preserveAspectRatio: "xMinYMid", role: "img", "aria-label": `${p.name}: ${format(Math.min(...given))} to ${format(Math.max(...given))} ${p.unit}` });
    if (q) picture.append(svg("line", { class: "whisker", x1: X(q[0]), x2: X(q[4]), y1: 13, y2: 13 }), svg("rect", { class: "box", x: X(q[1]), y: 6, width: Math.max(X(q[3]) - X(q[1]), 1), height: 14, rx: 2 }), svg("line", { class: "whisker", x1: X(q[2]), x2: X(q[2]), y1: 6, y2: 20 }));
    p.values.forEach((v, i) => { if (v != null) picture.append(svg("circle", { class: "song", "data-song": i, cx: X(v), cy: 13, r: 4 }, svg("title", {}, `${data.songs[i].name}: ${format(v)} ${p.unit}`))); });
    const [least, most] = [format(Math.min(...given)), format(Math.max(...given))];
    const span = html("span", { class: "muted small", text: `${least === most ? least : `${least} to ${most}`} ${p.unit}` });
    byId("strips").append(html("div", { class: "strip" }, html("span", { class: "small", text: p.name.replaceAll("_", " ") }), picture, span));
  }
}

const done = data.songs.filter((s) => !s.ended).length;
byId("name").textContent = data.name;
byId("about").textContent = [plural(data.songs.length, "song"), done < data.songs.length && `${data.songs.length - done} ended early`, data.failure_count && `${data.failure_count} failed`].filter(Boolean).join(" · ");
byId("foot").textContent = `Written ${data.written} by reknob ${data.version}. Audio and reports are linked: keep this file beside its folders.`;
byId("filter").addEventListener("input", () => { page = 0; table(); });
byId("before").addEventListener("click", () => { page -= 1; table(); });
byId("after").addEventListener("click", () => { page += 1; table(); });
table();
failures();
values();
