"use strict";
/* Fills the page of an estimator's results: examples of every group with players and curves, scores, errors. */

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const FREQUENCY = { label: "frequency (Hz)", log: true, unit: "Hz", min: 20, max: 20000 };
const colours = { wet: "var(--wet)", fitted: "var(--fitted)" };
const called = { wet: "used", fitted: "estimated" };
let context = null; // of all players
let open = null; // the one that sounds

/** A player of one excerpt: decoded when it is asked for, and the only one that plays. */
function listen(example, box) {
  const begin = html("button", { class: "primary", text: "Listen", onclick: async () => {
    begin.disabled = true;
    context ??= new AudioContext();
    const tracks = example.tracks.map((track) => ({ ...track, text: byId(`audio-${track.key}`).textContent, key: track.key.split("-")[1] }));
    const player = new Player(context, tracks, example.seconds);
    try { await Promise.all(tracks.map(async (track) => player.add(track.key, await context.decodeAudioData(bytesOf(track.text))))); }
    catch { box.replaceChildren(html("span", { class: "muted small", text: "This browser does not decode Opus; current Firefox, Chrome, Edge and Safari from 18.4 do." })); return; }
    const play = controls(player, box, () => { if (open !== player) open?.pause(); open = player; });
    play.click();
  } });
  box.append(begin);
}

function examples() {
  const groups = Map.groupBy(data.examples, (example) => example.group);
  for (const [group, members] of groups) {
    const host = html("div", { class: "examples" });
    byId("examples").append(html("h2", { text: group }), data.notes[group] ? html("p", { class: "muted", text: data.notes[group] }) : "", host);
    for (const example of members) {
      const row = html("div", { class: "row screen" }), curves = html("div", { class: "curves" });
      const box = html("div", { class: "card" }, html("h3", { text: example.title[0].toUpperCase() + example.title.slice(1) }), html("p", { class: "muted small", text: example.text }), row, curves);
      host.append(box);
      listen(example, row);
      for (const curve of example.curves) chart(curves.appendChild(html("div")), { title: curve.title, x: curve.log ? FREQUENCY : { label: curve.xLabel, min: curve.x[0], max: curve.x.at(-1) }, y: { label: curve.yLabel, unit: "dB", least: curve.least ?? undefined }, series: Object.entries(curve.series).map(([key, y]) => ({ name: called[key], colour: colours[key], x: curve.x, y, width: 2.2 })) });
    }
  }
}

function scores() {
  const row = (tag, cells) => html("tr", {}, ...cells.map((text) => html(tag, { text })));
  byId("table").append(html("table", {}, html("thead", {}, row("th", data.head)), html("tbody", {}, ...data.rows.map((cells) => row("td", cells)))));
  byId("errors").hidden = byId("to-errors").hidden = !data.errors.length;
  if (data.errors.length) barList(byId("bars"), "Error by parameter", "Mean squared error of the position in the range: of the estimate (blue), and of guessing the middle (grey). Where the blue bar is no shorter, the value says nothing about the one that was used, though it may sound right.", data.errors.map((e) => ({ label: e.name, parts: [{ value: e.error, colour: "var(--fitted)" }, { value: e.middle, colour: "var(--dry)" }] })), (v) => format(v, 3));
}

byId("name").textContent = data.title;
byId("about").textContent = "Excerpts of recordings, processed with random parameters; the estimator heard only the processed ones.";
examples();
scores();
byId("foot").textContent = `Written ${data.written} by reknob ${data.version}. This file is complete: it loads nothing.`;
