"use strict";
/* Fills the page of a run from its data, and connects the player. */

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
// What the three are called, and what a page says that is not of a fit: of a transfer, or of an estimate.
const [dry, fitted, wet] = data.names;
const called = { dry, fitted, wet };
const about = data.about;
const colours = { dry: "var(--dry)", fitted: "var(--fitted)", wet: "var(--wet)" };
const bandColours = [1, 2, 3, 4, 5, 6].map((i) => `var(--band${i})`);
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

function head() {
  const { loss, files, excerpt, findings } = data;
  byId("name").textContent = data.name;
  const line = [loss?.steps && plural(loss.steps, "step"), `${format(files.sr / 1000, 1)} kHz`, data.created && `fitted ${data.created}`];
  if (excerpt) line.splice(1, 0, `${format(excerpt.whole, 1)} s of audio`);
  if (data.ended) line.push(`ended early: ${data.ended}`);
  byId("about").textContent = line.filter(Boolean).join(" · ");
  const figures = [...(about?.figures ?? [])];
  if (loss?.lowest != null) {
    const saved = loss.first ? ` (${signed((100 * (loss.lowest - loss.first)) / loss.first, 0)}\u00a0%)` : "";
    figures.push([`${format(loss.first)} → ${format(loss.lowest)}`, `loss, first and lowest step${saved}`]);
  }
  if (data.curves.difference) figures.push([`${format(data.curves.difference.mean, 1)} dB`, "mean difference between the spectrograms of fitted and wet"]);
  if (data.matters?.length) figures.push([data.matters[0].label, "the effect that matters most"]);
  const grave = (findings ?? []).filter((f) => f.severity !== "note").length;
  if (!about) figures.push([findings.length ? plural(findings.length, "finding") : "good pair", findings.length ? `on the recordings, ${grave ? `${plural(grave, "warning")}` : "notes only"}` : "nothing found wrong with the recordings"]);
  for (const [value, text] of figures) byId("figures").append(html("div", { class: "figure" }, html("b", { text: value }), html("span", { text })));
  if (about?.remarks.length) byId("figures").append(html("div", { class: "figure full" }, ...about.remarks.map((text) => html("p", { text }))));
}

/* ---- player ---- */

let player = null;

function listen() {
  const host = byId("player");
  if (!data.tracks) {
    host.append(html("p", { text: `There is nothing to hear: the recordings cannot be read (${data.problem || "none are known"}).` }));
    return;
  }
  const seconds = data.excerpt.seconds;
  const main = data.tracks.filter((t) => colours[t.key]), off = data.tracks.filter((t) => !colours[t.key]);
  const state = { track: "fitted", decoded: null, drag: null, blind: null };
  const buttons = new Map();

  const region = svg("rect", { class: "region", y: 0, height: 100, visibility: "hidden" });
  const shape = svg("path");
  const picture = svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" }, shape, region);
  const cursor = html("div", { class: "head" });
  const wave = html("div", { class: "wave", role: "slider", tabindex: 0, "aria-label": "Position in the excerpt", "aria-valuemin": 0, "aria-valuemax": seconds }, picture, cursor);
  const play = html("button", { class: "primary", id: "play", text: "Play" });
  const time = html("span", { class: "time" });
  const status = html("span", { class: "muted small", role: "status" });
  const matched = html("input", { type: "checkbox", checked: true, id: "match" });
  const repeat = html("input", { type: "checkbox", checked: true });
  const clear = html("button", { text: "Clear loop", disabled: true });

  const show = () => {
    const hidden = state.blind?.hidden;
    for (const [key, button] of buttons) button.setAttribute("aria-pressed", String(!hidden && key === state.track));
    const track = data.tracks.find((t) => t.key === (state.blind ? "wet" : state.track));
    shape.setAttribute("d", outline(track.wave));
    wave.style.setProperty("--wave", state.blind ? "var(--muted)" : colours[track.key] ?? "var(--fitted)");
  };
  const tick = () => {
    const at = player ? player.position() : 0;
    cursor.style.left = `${(100 * at) / seconds}%`;
    time.textContent = `${clock(at)} / ${clock(seconds)}`;
    wave.setAttribute("aria-valuenow", at.toFixed(1));
    wave.setAttribute("aria-valuetext", `${at.toFixed(1)} of ${seconds.toFixed(1)} seconds`);
    if (player?.playing) requestAnimationFrame(tick);
  };
  const label = () => { play.textContent = player?.playing ? "Pause" : "Play"; };

  const load = () => {
    if (state.decoded) return state.decoded;
    const context = new AudioContext();
    player = new Player(context, data.tracks, seconds);
    window.player = player;
    player.select(state.track);
    player.onstop = () => { label(); tick(); };
    const decode = async (track) => player.add(track.key, await context.decodeAudioData(bytesOf(byId(`audio-${track.key}`).textContent)));
    // The three that are compared first; the others join while these play.
    state.decoded = (async () => {
      status.textContent = "decoding …";
      await Promise.all(main.map(decode));
      status.textContent = "";
      (async () => { for (const track of off) await decode(track); player.complete = true; })();
    })().catch(() => { status.textContent = "This browser does not decode Opus; current Firefox, Chrome, Edge and Safari from 18.4 do."; throw new Error("no Opus"); });
    return state.decoded;
  };
  const toggle = async () => {
    try { await load(); } catch { return; }
    if (player.context.state === "suspended") await player.context.resume();
    player.playing ? player.pause() : player.play();
    label();
    tick();
  };
  const select = (key) => {
    state.track = key;
    if (state.blind) state.blind.hidden = false;
    player?.select(key);
    show();
  };
  const setLoop = async (from, to) => {
    const known = from != null && to - from > 0.05;
    const span = known ? [Math.max(from, 0), Math.min(to, seconds)] : null;
    region.setAttribute("visibility", known ? "visible" : "hidden");
    if (known) { region.setAttribute("x", (1000 * span[0]) / seconds); region.setAttribute("width", (1000 * (span[1] - span[0])) / seconds); }
    clear.disabled = !known;
    clear.textContent = known ? `Clear loop ${clock(span[0])}–${clock(span[1])}` : "Clear loop";
    state.region = span;
    if (known || state.decoded) await load().catch(() => {});
    player?.loop(span);
    tick();
  };

  play.addEventListener("click", toggle);
  matched.addEventListener("change", () => { load().then(() => player.match(matched.checked), () => {}); });
  repeat.addEventListener("change", () => { load().then(() => player.repeat(repeat.checked), () => {}); });
  clear.addEventListener("click", () => setLoop(null));
  const place = (event) => { const box = wave.getBoundingClientRect(); return (Math.min(Math.max(event.clientX - box.left, 0), box.width) / box.width) * seconds; };
  wave.addEventListener("pointerdown", (event) => { state.drag = place(event); wave.setPointerCapture(event.pointerId); });
  wave.addEventListener("pointermove", (event) => {
    if (state.drag == null) return;
    const [a, b] = [state.drag, place(event)].sort((x, y) => x - y);
    if (b - a < seconds / 100) return;
    region.setAttribute("visibility", "visible");
    region.setAttribute("x", (1000 * a) / seconds);
    region.setAttribute("width", (1000 * (b - a)) / seconds);
  });
  wave.addEventListener("pointerup", (event) => {
    if (state.drag == null) return; // pressed elsewhere
    const [a, b] = [state.drag, place(event)].sort((x, y) => x - y);
    state.drag = null;
    if (b - a >= seconds / 100) setLoop(a, b);
    else load().then(() => { player.seek(a); tick(); }, () => {});
  });
  wave.addEventListener("pointercancel", () => { state.drag = null; });
  wave.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, PageUp: 5, PageDown: -5, Home: -1e9, End: 1e9 }[event.key];
    if (!step) return;
    event.preventDefault();
    load().then(() => { player.seek(player.position() + step); tick(); }, () => {});
  });

  const mains = html("div", { class: "main-tracks screen", role: "group", "aria-label": "Recordings" });
  const without = html("div", { class: "row without screen", role: "group", "aria-label": `${fitted}, without one effect` }, html("span", { class: "muted small", text: `${fitted} without:` }));
  main.forEach((track, i) => {
    const button = html("button", { "aria-pressed": "false", style: `--c:${colours[track.key]}`, "data-track": track.key, onclick: () => select(track.key) }, track.label[0].toUpperCase() + track.label.slice(1), html("kbd", { text: String(i + 1), "aria-hidden": "true" }));
    buttons.set(track.key, button);
    mains.append(button);
  });
  for (const track of off) {
    const button = html("button", { "aria-pressed": "false", "data-track": track.key, text: track.label, onclick: () => select(track.key) });
    buttons.set(track.key, button);
    without.append(button);
  }
  const transport = html("div", { class: "row transport screen" }, play, time, html("label", { class: "check" }, matched, "Match loudness"), html("label", { class: "check" }, repeat, "Repeat"), clear, status);
  const cut = data.excerpt.whole > seconds + 0.5 ? `The loudest ${format(seconds, 0)} s of ${format(data.excerpt.whole, 0)} s, from ${clock(data.excerpt.begin)} on. ` : "";
  host.append(wave, transport, mains, off.length ? without : "", blindTest({ state, load, show, select, start: async () => { if (!player?.playing) await toggle(); } }));
  host.append(html("p", { class: "muted small keys screen" }, `${cut}Keys: `, html("kbd", { text: "Space" }), " play, ", html("kbd", { text: "1" }), "–", html("kbd", { text: String(main.length) }), " switch, ", html("kbd", { text: "[" }), " ", html("kbd", { text: "]" }), " loop from and to here, ", html("kbd", { text: "Esc" }), " clear; or drag over the waveform to loop a part."));
  if (about?.heard) host.append(html("p", { class: "small", text: about.heard }));
  // The local web page serves a report without its folder.
  if (location.protocol === "file:" && Object.keys(data.beside).length) {
    const links = Object.entries(data.beside).flatMap(([name, href]) => [html("a", { href, text: name }), " "]);
    host.append(html("p", { class: "muted small screen" }, "Whole recordings, in the run folder: ", ...links));
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA|SUMMARY)$/.test(event.target.tagName)) return;
    const number = Number(event.key);
    if (event.key === " " && event.target.tagName !== "BUTTON" && event.target.tagName !== "A") { event.preventDefault(); toggle(); }
    else if (number >= 1 && number <= main.length) select(main[number - 1].key);
    else if (event.key === "[" && player) setLoop(player.position(), state.region?.[1] ?? seconds);
    else if (event.key === "]" && player) setLoop(state.region?.[0] ?? 0, player.position());
    else if (event.key === "Escape") setLoop(null);
  });
  show();
  tick();
}

/** The outline of a waveform of peaks, mirrored, in a box of 1000 × 100. */
function outline(peaks) {
  const most = Math.max(...data.tracks.slice(0, 3).map((t) => Math.max(...t.wave)), 1e-6);
  const x = (i) => ((1000 * i) / Math.max(peaks.length - 1, 1)).toFixed(1);
  const y = (p, sign) => (50 - sign * 46 * Math.min(p / most, 1)).toFixed(1);
  const over = peaks.map((p, i) => `${x(i)} ${y(p, 1)}`);
  const under = peaks.map((p, i) => `${x(i)} ${y(p, -1)}`).reverse();
  return `M${over.join("L")}L${under.join("L")}Z`;
}

/** The blind test: which of A and B is X? */
function blindTest({ state, load, show, select, start }) {
  const options = () => data.tracks.map((t) => html("option", { value: t.key, text: colours[t.key] ? t.label : `without ${t.label}` }));
  const a = html("select", { "aria-label": "A" }, ...options()), b = html("select", { "aria-label": "B" }, ...options());
  a.value = "fitted";
  b.value = "wet";
  const result = html("output", { "aria-live": "polite", text: "" });
  const hear = ["A", "B", "X"].map((name) => html("button", { "data-hear": name, "aria-pressed": "false", text: `Hear ${name}`, disabled: true }));
  const answer = ["A", "B"].map((name) => html("button", { "data-answer": name, text: `X is ${name}`, disabled: true }));
  const begin = html("button", { class: "primary", text: "Start", id: "blind-start" });
  let right = 0, asked = 0, hidden = "A";
  const enable = (on) => [...hear, ...answer].forEach((button) => { button.disabled = !on; });
  const draw = () => { hidden = crypto.getRandomValues(new Uint8Array(1))[0] & 1 ? "A" : "B"; };
  const listenTo = (name) => {
    hear.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.hear === name)));
    select({ A: a.value, B: b.value, X: hidden === "A" ? a.value : b.value }[name]);
    state.blind.hidden = true;
    show();
  };
  hear.forEach((button) => button.addEventListener("click", () => listenTo(button.dataset.hear)));
  answer.forEach((button) => button.addEventListener("click", () => {
    const correct = button.dataset.answer === hidden;
    right += correct;
    asked += 1;
    result.value = `${correct ? "Right" : "Wrong"}, it was ${hidden}. ${right} of ${asked} right; guessing does as well in ${format(100 * guessing(right, asked), 0)} % of tests.`;
    draw();
    listenTo("X");
  }));
  const stop = () => {
    state.blind = null;
    begin.textContent = "Start";
    [a, b].forEach((choice) => { choice.disabled = false; });
    hear.forEach((button) => button.setAttribute("aria-pressed", "false"));
    enable(false);
    show();
  };
  begin.addEventListener("click", async () => {
    if (state.blind) return stop();
    try { await load(); } catch { return; }
    right = asked = 0;
    result.value = "Which one is X? Switch as often as you like, then answer.";
    state.blind = { hidden: true };
    begin.textContent = "Stop";
    [a, b].forEach((choice) => { choice.disabled = true; });
    enable(true);
    draw();
    listenTo("X");
    await start();
  });
  const note = "X is A or B, drawn anew for every answer. Levels are matched unless you switch that off.";
  return html("details", { class: "blind screen" }, html("summary", { text: "Blind test" }), html("p", { class: "muted small", text: note }), html("div", { class: "row" }, html("label", { class: "check" }, "A", a), html("label", { class: "check" }, "B", b), begin), html("div", { class: "row" }, ...hear, ...answer), result);
}

/* ---- effects, curves ---- */

function card(host, full = false) {
  const box = html("div", { class: full ? "card full" : "card" });
  host.append(box);
  return box;
}

function effects() {
  const host = byId("matters");
  if (data.matters?.length) {
    const box = card(host);
    barList(box, "Loss without each effect", "By how much the loss rises when one is switched off, on the loudest parts; next to nothing means that the recordings do not need it.", data.matters.map((m) => ({ label: m.label, parts: [{ value: m.cost, colour: "var(--fitted)" }] })), (v) => signed(v, 3));
    if (data.removed?.length) box.append(html("p", { class: "small", text: `Removed, as the fit was as good without: ${data.removed.join(", ")}.` }));
  }
  if (data.loss?.terms?.length) {
    const rows = data.loss.terms.map((t) => ({ label: t.name, parts: [{ value: t.dry, colour: "var(--dry)" }, { value: t.fitted, colour: "var(--fitted)" }] }));
    const box = card(host);
    barList(box, "Terms of the loss, dry and fitted", "Each compares with wet over the excerpt; 0 is no difference.", rows, (v) => format(v, 3));
    box.append(html("ul", { class: "legend" }, ...["dry", "fitted"].map((name) => html("li", {}, html("span", { class: "swatch", style: `--c:${colours[name]}` }), name))));
  }
  if (data.loss?.y.length > 1)
    chart(card(host), { title: "Loss over the steps", x: { label: "step", whole: true }, y: { label: "loss" }, series: [{ name: "loss", colour: "var(--fitted)", x: data.loss.x, y: data.loss.y }] });
  fillLast(host);
  if (!host.children.length) byId("effects").hidden = document.querySelector("nav a[href='#effects']").hidden = true;
}

const FREQUENCY = { label: "frequency (Hz)", log: true, unit: "Hz", min: 20, max: 20000 };

/** The last card takes both columns where it would leave a hole. */
function fillLast(host) {
  const narrow = [...host.children].filter((box) => !box.classList.contains("full"));
  if (narrow.length % 2) narrow.at(-1).classList.add("full");
}

function charts() {
  const host = byId("charts"), c = data.curves;
  if (c.equaliser) {
    const single = c.equaliser.bands.length === 1;
    const bands = c.equaliser.bands.map((b, i) => ({ name: b.name, colour: bandColours[i % bandColours.length], x: c.equaliser.x, y: b.y, width: 1.4, dash: true }));
    const sum = { name: single ? bands[0].name : "all bands", colour: "var(--fitted)", x: c.equaliser.x, y: c.equaliser.sum, width: 3, kind: "area" };
    const range = (c.equaliser.range ?? []).map((y, i) => ({ name: ["lower end, 68 %", "upper end, 68 %"][i], colour: "var(--fitted)", x: c.equaliser.x, y, width: 1 }));
    const low = Math.max(Math.min(...[c.equaliser.sum, ...range.map((r) => r.y)].flat().filter((v) => v != null)), -24);
    chart(card(host), { title: "Equaliser", x: FREQUENCY, y: { label: "gain (dB)", unit: "dB", least: [-6, 6], min: Math.min(low, -6) - 1 }, series: [sum, ...range, ...(single ? [] : bands)] });
  }
  if (c.spectra) chart(card(host), { title: "Long-term spectra", note: `The mean over the excerpt; the loudest band of ${wet} at 0 dB.`, x: { ...FREQUENCY, min: 30, max: 18000 }, y: { label: "level (dB)", unit: "dB", min: -70 }, series: ["dry", "wet", "fitted"].filter((name) => c.spectra[name]).map((name) => ({ name: called[name], colour: colours[name], x: c.spectra.x, y: c.spectra[name], dash: name === "dry", width: name === "dry" ? 1.6 : 2.2 })) });
  for (const curve of c.others.filter((o) => o.family !== "reverb")) {
    const levels = c.dynamics?.find((d) => d.effect === curve.effect);
    const series = [{ name: curve.yLabel.replace(/ \(.*/, ""), colour: "var(--fitted)", x: curve.x, y: curve.y, width: 2.6 }];
    if (levels) series.unshift({ name: "levels of the excerpt", colour: "var(--wet)", kind: "bars", own: true, x: levels.x, y: levels.share, hidden: false });
    const note = [curve.note, levels && "bars: how often each level reaches it"].filter(Boolean).join("; ");
    const twice = c.others.filter((o) => o.title === curve.title).length > 1;
    chart(card(host), { title: twice ? `${curve.title}, ${path(curve.effect)}` : curve.title, note, x: curve.log ? FREQUENCY : { label: curve.xLabel, unit: "dB", min: curve.x[0], max: curve.x.at(-1) }, y: { label: curve.yLabel, unit: "dB", least: curve.least ?? undefined }, series: series.reverse() });
  }
  for (const d of c.dynamics ?? []) {
    const x = d.gain.map((_, i) => i * d.step);
    const note = d.median == null ? "" : `In 10 ms frames, without the make-up gain; median ${format(d.median, 1)} dB, lowest ${format(d.lowest, 1)} dB.`;
    chart(card(host), { title: `Gain of ${path(d.effect)} over time`, note, x: { label: "time (s)", unit: "s", min: 0, max: data.excerpt.seconds }, y: { label: "gain (dB)", unit: "dB", max: 1, least: [-6] }, series: [{ name: "gain", colour: "var(--fitted)", kind: "area", width: 1.2, x, y: d.gain }] });
  }
  for (const e of c.echoes ?? []) if (e.taps.length) echoChart(card(host), "Level beside the direct sound, before the filter of the loop; L and R with the position in percent.", ...["ms", "db", "pan"].map((key) => e.taps.map((t) => t[key])));
  for (const curve of c.others.filter((o) => o.family === "reverb")) chart(card(host), { title: "Reverberation time", note: "Until the tail has decayed by 60 dB.", x: { ...FREQUENCY, max: 16000 }, y: { label: "time (s)", unit: "s", min: 0 }, series: [{ name: "time", colour: "var(--fitted)", x: curve.x, y: curve.y }] });
  for (const d of c.decay ?? []) chart(card(host), { title: "Energy decay of the reverb", note: "Energy that is still to come after each moment, by Schroeder's integration.", x: { label: "time (s)", unit: "s", min: 0, max: 1.15 * (d.x.find((_, i) => d.y[i] < -68) ?? d.x.at(-1)) }, y: { label: "level (dB)", unit: "dB", min: -70, max: 2 }, series: [{ name: "level", colour: "var(--fitted)", x: d.x, y: d.y }] });
  if (c.panorama) chart(card(host), { title: "Panorama", note: "Where the energy lies between the channels.", x: { label: "left – right", ticks: [-100, -50, 0, 50, 100], format: side, min: -100, max: 100 }, y: { label: "share (%)", unit: "%", min: 0 }, series: ["wet", "fitted"].map((name) => ({ name: called[name], colour: colours[name], x: c.panorama.x, y: c.panorama[name], kind: "area" })) });
  if (c.difference) {
    const d = c.difference;
    fillLast(host);
    const box = card(host, true);
    chart(box, { title: "Spectrograms, fitted less wet", note: `Where fitted is louder and where wet is; full colour from ${format(d.most, 0)} dB on. The mean difference is ${format(d.mean, 1)} dB.`, still: true, legend: true, image: d.image, height: 260, x: { label: "time (s)", min: 0, max: d.seconds }, y: { label: "frequency (Hz)", min: 0, max: 1, ...logAxis(d.lowest, d.highest) }, series: [{ name: "fitted louder", colour: "#2457b8", x: [], y: [] }, { name: "wet louder", colour: "#d9731a", x: [], y: [] }], summary: `Difference of the spectrograms, ${format(d.mean, 1)} dB in the mean` });
  }
}

/** Ticks of a frequency axis drawn from 0 to 1. */
function logAxis(low, high) {
  const at = (f) => Math.log(f / low) / Math.log(high / low);
  const ticks = [50, 100, 200, 500, 1000, 2000, 5000, 10000].filter((f) => f > low && f < high);
  return { ticks: ticks.map(at), format: (v) => hertz(Math.round(low * (high / low) ** v)) };
}

const path = (effect) => effect.replaceAll("_", " ").replaceAll(".", " › ");

/* ---- table, findings, commands ---- */

function parameters() {
  const certain = data.parameters.some((g) => g.rows.some((r) => r.low || r.word));
  const known = data.parameters.some((g) => g.rows.some((r) => r.quantiles));
  const costs = new Map((data.matters ?? []).map((m) => [m.key, m.cost]));
  const notes = about?.note ? [about.note] : [];
  if (certain && !about) notes.push("The interval holds the true value with a probability of 68 %.");
  else if (!about) notes.push("This fit computed no certainty; certainty=true does.");
  if (known) notes.push(`The strip shows the ${data.published.count} published vocal presets of DiffVox: line 5 to 95 %, box the middle half, dot this one; the number is how many of them have a lower value.`);
  byId("parameters-note").textContent = notes.join(" ");
  const columns = ["parameter", "value", certain && "interval", certain && "certainty", known && "among published presets"].filter(Boolean);
  const body = html("tbody");
  for (const group of data.parameters) {
    const cost = costs.get(group.effect);
    const extra = [cost != null && `loss ${signed(cost, 3)} without it`, group.arrays.length && `also ${group.arrays.join(", ")} numbers`].filter(Boolean).join("; ");
    body.append(html("tr", { class: "group" }, html("th", { colspan: columns.length, scope: "colgroup" }, path(group.effect || "chain"), html("span", { class: "muted small", text: extra }))));
    for (const row of group.rows) {
      const cells = [html("td", { text: row.label }), html("td", { class: "value", text: `${row.value.replace("-", "−")} ${row.unit}` })];
      if (certain) {
        cells.push(html("td", { class: "muted interval", text: row.low && `${row.low} to ${row.high}`.replaceAll("-", "−") }));
        cells.push(html("td", {}, row.word ? html("span", { class: `chip ${{ found: "good", bounded: "warning" }[row.word] ?? "muted"}`, text: row.word }) : ""));
      }
      if (known) cells.push(row.quantiles ? html("td", { class: "strip" }, strip(row), html("span", { class: "muted small", text: ` ${row.percentile} %` })) : html("td"));
      body.append(html("tr", {}, ...cells));
    }
  }
  byId("table").append(html("table", { class: "params" }, html("thead", {}, html("tr", {}, ...columns.map((name) => html("th", { scope: "col", text: name })))), body));
}

/** A value beside the quantiles 5, 25, 50, 75 and 95 % of the published presets. */
function strip(row) {
  const q = row.quantiles, log = /^(Hz|ms)$/.test(row.unit) && q[0] > 0 && row.number > 0;
  const f = log ? Math.log : (v) => v;
  const low = f(Math.min(q[0], row.number)), high = f(Math.max(q[4], row.number));
  const X = (v) => 6 + (118 * (f(v) - low)) / (high - low || 1);
  const text = `${row.value} ${row.unit}; more than ${row.percentile} % of the published presets`;
  return svg("svg", { viewBox: "0 0 130 18", role: "img", "aria-label": text }, svg("title", {}, text), svg("line", { class: "whisker", x1: X(q[0]), x2: X(q[4]), y1: 9, y2: 9 }), svg("rect", { class: "box", x: X(q[1]), y: 4, width: Math.max(X(q[3]) - X(q[1]), 1), height: 10, rx: 2 }), svg("line", { class: "whisker", x1: X(q[2]), x2: X(q[2]), y1: 4, y2: 14 }), svg("circle", { class: "dot", cx: X(row.number), cy: 9, r: 5 }));
}

function recordings() {
  const box = byId("findings"), inputs = data.provenance.inputs ?? {};
  if (about) {
    box.append(facts(about.facts));
    return;
  }
  if (!data.findings.length) box.append(html("p", {}, html("span", { class: "chip good", text: "good pair" }), " The check of the pair found nothing to correct and nothing to warn of."));
  for (const f of data.findings)
    box.append(html("div", { class: "finding" }, html("span", { class: `chip ${{ note: "", warning: "warning" }[f.severity] ?? "bad"}`, text: f.severity }), html("div", {}, html("div", { text: f.text }), f.remedy ? html("div", { class: "muted small", text: f.remedy }) : "")));
  if (data.problem) box.append(html("p", {}, html("span", { class: "chip warning", text: "recordings" }), ` They could not be read for this report: ${data.problem}`));
  const shift = data.files.shift, level = data.files.lufs;
  box.append(facts([
    ["dry", inputs.dry?.file],
    ["wet", inputs.wet?.file],
    ["alignment", shift == null ? "" : shift ? `dry ${shift > 0 ? "delayed" : "advanced"} by ${Math.abs(shift)} samples` : "none needed"],
    ["level", level == null ? "as recorded" : `both brought to ${format(level, 1)} LUFS`],
    ["sample rate", `${data.files.sr} Hz`],
  ]));
}

function commands() {
  const box = byId("commands"), p = data.provenance;
  const block = (title, text) => box.append(html("h3", { text: title }), html("pre", { tabindex: 0 }, html("code", { text })));
  if (data.preset) {
    const href = URL.createObjectURL(new Blob([data.preset], { type: "application/json" }));
    box.append(html("p", { class: "row screen" }, html("a", { class: "button", id: "save", href, download: "preset.json", text: "Save preset.json" }), html("span", { class: "muted small", text: "The chain with all its values, for the commands below." })));
  }
  block(about ? "Repeat it" : "Fit again", data.repeat);
  block("Apply to another recording", "python scripts/render.py --preset preset.json in.wav out.wav");
  block("Take into another program", "python scripts/export.py preset.json --to jsfx --output voice.jsfx\npython scripts/export.py --help    # all formats");
  const versions = Object.entries(p.versions ?? {}).map(([name, version]) => `${name} ${version}`).join(", ");
  box.append(facts([["run", data.run], ["settings", data.settings], ["versions", versions], ["device", p.device], ["seed", p.seed == null ? "" : String(p.seed)], ["dry, SHA-256", p.inputs?.dry?.sha256], ["wet, SHA-256", p.inputs?.wet?.sha256], ["licence", data.licence]]));
  byId("foot").textContent = `Written ${data.written} by reknob ${data.version}. This file is complete: it loads nothing.`;
}

/** Gives dry, fitted and wet to the page of all songs, which lies beside this file or on the same server. */
addEventListener("message", (event) => {
  const known = location.protocol === "file:" ? /^(null|file:.*)$/.test(event.origin) : event.origin === location.origin;
  if (!known || event.data !== "recordings" || !data.tracks) return;
  const tracks = data.tracks.filter((t) => colours[t.key]).map(({ key, gain, own }) => ({ key, gain, own, audio: byId(`audio-${key}`).textContent }));
  event.source.postMessage({ seconds: data.excerpt.seconds, tracks }, "*");
});

head();
listen();
effects();
charts();
parameters();
recordings();
commands();
