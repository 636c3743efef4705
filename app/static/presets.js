// Presets: table, map, sliders, live audio.

import { by, bytes, call, exported, guarded, make, minutes, number, save, say, upload } from "./api.js";
import { Live } from "./live.js";
import { draw, map } from "./plots.js";

const STEPS = 1000; // of a slider
const REST = 120; // ms between two requests for curves: the sound needs the server as well
const SHOWN = ["comp.cmp_threshold", "comp.makeup", "sends.delay.delay", "sends.delay.gain", "sends.delay_to_reverb"];
const start = (row = 0) => ({ row, other: null, morph: 0, components: [], amount: 1, changes: {} });

export function setUpPresets(state) {
  const view = new PresetsView(state);
  return { open: (key) => view.open(key) };
}

class PresetsView {
  constructor(state) {
    this.limits = state.limits;
    this.sets = state.sets.filter(({ key }) => !key.startsWith("job-"));
    this.key = null;
    this.point = start();
    this.busy = this.again = false;
    this.sort = { name: "row", down: false };
    this.isDry = false;
    this.isPlaying = false;
    this.live = new Live((data) => this.progress(data), (error) => { this.ended(); say(error); });
    by("voice").append(...state.recordings.filter(({ key }) => key !== "demo-wet").map((one) => make("option", { value: one.key }, one.name)));
    by("set").addEventListener("change", guarded(() => this.load(by("set").value)));
    by("voice").addEventListener("change", guarded(() => this.isPlaying && this.play()));
    by("voice-file").addEventListener("change", guarded(() => this.addVoice()));
    by("play").addEventListener("click", guarded(() => (this.isPlaying ? this.pause() : this.play())));
    by("hear-processed").addEventListener("click", () => this.hear(false));
    by("hear-dry").addEventListener("click", () => this.hear(true));
    by("place").addEventListener("change", () => { this.live.jump((by("place").value / 1000) * (this.seconds || 0)); this.isSeeking = false; });
    by("place").addEventListener("input", () => { this.isSeeking = true; });
    by("filter").addEventListener("input", () => this.drawTable());
    by("reset").addEventListener("click", () => this.choose(this.point.row));
    by("save-document").addEventListener("click", guarded(() => this.export("json")));
    by("export").addEventListener("click", guarded(() => this.export(by("export-to").value)));
    by("save-audio").addEventListener("click", guarded(() => this.saveAudio()));
  }

  async open(key) {
    const wanted = key || this.key || this.sets[0]?.key;
    if (!wanted) throw new Error("there is no preset set: start reknob app with the folder of one");
    if (wanted !== this.key) await this.load(wanted);
  }

  async load(key) {
    this.set = await call(`/api/presets/${key}`);
    if (!this.sets.some((one) => one.key === key)) this.sets.push({ key, title: this.set.title });
    by("set").replaceChildren(...this.sets.map((one) => make("option", { value: one.key, selected: one.key === key }, one.title)));
    this.key = key;
    this.initial = null;
    const { rows, columns, map: places } = this.set;
    by("map-card").hidden = places.length < 2;
    by("table-card").hidden = rows.length < 1;
    document.querySelector(".browse").classList.toggle("single", rows.length < 1);
    this.columns = SHOWN.filter((name) => columns[name]);
    if (!this.columns.length) this.columns = Object.keys(columns).slice(0, 5);
    if (places.length > 1) {
      const { plot, mark } = map(places, rows.map(({ name }) => name), (row) => this.choose(row));
      by("map").replaceChildren(plot);
      this.mark = mark;
      const [first, second] = this.set.components;
      by("map-note").textContent = `principal components 1 (${Math.round(100 * first)} %) and 2 (${Math.round(100 * (second || 0))} %)`;
    } else {
      this.mark = () => {};
    }
    this.choose(0);
    if (this.isPlaying) await this.play();
  }

  name(row) {
    return this.set.rows[row]?.name ?? this.set.title;
  }

  async choose(row) {
    this.point = start(row);
    this.near = [];
    this.drawTable();
    by("preset-name").textContent = this.name(row);
    this.drawMoves();
    this.changed();
    this.mark(row, [], null);
    if (!this.set.rows.length) return;
    try {
      const { nearest } = await call(`/api/presets/${this.key}/nearest/${row}`);
      if (this.point.row !== row) return;
      this.near = nearest.map((one) => one.row);
      this.mark(row, this.near, this.point.other);
      by("nearest").replaceChildren(make("span", { className: "muted" }, "Most like it:"), ...nearest.slice(0, 5).map((one) => make("button", { type: "button", className: "nearest-name", onclick: () => this.choose(one.row) }, one.name)));
    } catch (error) {
      say(error);
    }
  }

  // Values and curves at the point, and its sound; while one request is under way, only the newest place waits.
  async changed() {
    if (this.isPlaying) this.live.move(this.point);
    if (this.busy) { this.again = true; return; }
    this.busy = true;
    try {
      do {
        this.again = false;
        const point = this.point, key = this.key;
        const state = await call(`/api/presets/${key}/state`, point);
        if (key === this.key) this.show(state);
        await new Promise((done) => setTimeout(done, REST));
      } while (this.again);
    } catch (error) {
      say(error);
    } finally {
      this.busy = false;
    }
  }

  show(state) {
    const isPlain = !this.point.morph && !this.point.components.some(Boolean) && this.point.amount === 1 && !Object.keys(this.point.changes).length;
    if (isPlain) this.initial = state.curves;
    draw(by("preset-curves"), state.curves, isPlain ? [] : this.initial || []);
    this.drawValues(state.values);
  }

  drawMoves() {
    const lines = [this.line("Amount", 0, 2, this.point.amount, 1, (v) => { this.point.amount = v; })];
    if (this.set.rows.length > 1) {
      const choice = make("select", { "aria-label": "Preset to go to" }, make("option", { value: "" }, "another preset …"), ...this.set.rows.map(({ row, name }) => make("option", { value: row }, name)));
      choice.addEventListener("change", () => {
        morph.querySelectorAll("input").forEach((input) => { input.disabled = choice.value === ""; });
        this.point.other = choice.value === "" ? null : Number(choice.value);
        this.mark(this.point.row, this.near, this.point.other);
        this.changed();
      });
      const morph = this.line("Morph", 0, 1, 0, 0, (v) => { this.point.morph = v; });
      morph.querySelectorAll("input").forEach((input) => { input.disabled = true; });
      lines.push(make("label", { className: "small other" }, "Morph to ", choice), morph);
    }
    if (this.set.components.length) {
      const group = make("details", { className: "group" }, make("summary", {}, "Principal components ", make("span", { className: "muted small" }, "in standard deviations of the set")));
      this.set.components.forEach((share, i) => group.append(this.line(`${i + 1} (${Math.round(100 * share)} %)`, -3, 3, 0, 0, (v) => {
        while (this.point.components.length <= i) this.point.components.push(0);
        this.point.components[i] = v;
      })));
      group.open = true;
      lines.push(group);
    }
    by("moves").replaceChildren(...lines);
  }

  // A slider with a number beside it.
  line(label, lo, hi, value, neutral, set, { log = false, unit = "", name = label } = {}) {
    const to = (v) => STEPS * (log ? Math.log(v / lo) / Math.log(hi / lo) : (v - lo) / (hi - lo));
    const from = (u) => (log ? lo * (hi / lo) ** (u / STEPS) : lo + ((hi - lo) * u) / STEPS);
    const range = make("input", { type: "range", min: 0, max: STEPS, step: "any", value: to(value), "aria-label": `${name}${unit && `, ${unit}`}` });
    const exact = make("input", { type: "number", step: "any", value: number(value), "aria-label": `${name}, exactly` });
    const row = make("div", { className: "slider" }, make("span", {}, label), range, exact, make("span", { className: "unit" }, unit));
    const moved = (v) => {
      set(v);
      row.classList.toggle("changed", v !== neutral);
      this.changed();
    };
    range.addEventListener("input", () => { const v = from(Number(range.value)); exact.value = number(v); moved(v); });
    exact.addEventListener("change", () => {
      const v = Number(exact.value);
      if (exact.value === "" || !Number.isFinite(v)) return;
      range.value = to(Math.min(hi, Math.max(lo, v)));
      moved(v);
    });
    row.place = (v) => {
      if (document.activeElement !== range) range.value = to(Math.min(hi, Math.max(lo, v)));
      if (document.activeElement !== exact && document.activeElement !== range) exact.value = number(v);
    };
    return row;
  }

  drawValues(values) {
    const box = by("values"), names = values.map((v) => `${v.name} ${v.lo} ${v.hi}`).join();
    if (box.dataset.names === `${this.key} ${this.point.row} ${names}`) {
      for (const v of values) this.sliders[v.name].place(v.value);
    } else {
      const open = new Set([...box.querySelectorAll("details[open]")].map((d) => d.dataset.group));
      const groups = new Map();
      this.sliders = {};
      for (const v of values) {
        if (!groups.has(v.group)) groups.set(v.group, []);
        const row = this.line(v.label, v.lo, v.hi, v.value, NaN, (x) => { this.point.changes[v.name] = x; }, { log: v.log, unit: v.unit, name: v.name });
        this.sliders[v.name] = row;
        const known = v.certainty;
        if (known && known.low !== null) row.append(make("span", { className: "interval-note muted" }, `${[number(known.low), "to", number(known.high), v.unit].filter(Boolean).join(" ")}, ${known.word}`));
        else if (known) row.append(make("span", { className: "interval-note muted" }, known.word));
        groups.get(v.group).push(row);
      }
      box.replaceChildren(...[...groups].map(([group, rows], i) => {
        const details = make("details", { className: "group" }, make("summary", {}, group || this.set.title), ...rows);
        details.dataset.group = group;
        details.open = open.size ? open.has(group) : i === 0 || group === "comp";
        return details;
      }));
      box.dataset.names = `${this.key} ${this.point.row} ${names}`;
    }
    for (const v of values) this.sliders[v.name].classList.toggle("changed", v.name in this.point.changes);
  }

  drawTable() {
    const { rows, columns } = this.set, wanted = by("filter").value.toLowerCase();
    const value = (row, name) => (name === "row" ? row : name === "name" ? rows[row].name : columns[name].values[row]);
    const order = rows.map(({ row }) => row).filter((row) => rows[row].name.toLowerCase().includes(wanted));
    order.sort((a, b) => {
      const [x, y] = [value(a, this.sort.name), value(b, this.sort.name)];
      return (x < y ? -1 : x > y ? 1 : 0) * (this.sort.down ? -1 : 1);
    });
    const heads = ["row", "name", ...this.columns].map((name) => {
      const isSorted = this.sort.name === name;
      const text = columns[name] ? `${name.split(".").slice(/\.(gain|freq|Q|pan)$/.test(name) ? -2 : -1).join(" ").replaceAll("_", " ")}${columns[name].unit && ` ${columns[name].unit}`}` : name;
      const button = make("button", { type: "button", onclick: () => { this.sort = { name, down: isSorted && !this.sort.down }; this.drawTable(); } }, `${text}${isSorted ? (this.sort.down ? " ↓" : " ↑") : ""}`);
      return make("th", { className: columns[name] ? "number" : "", "aria-sort": isSorted ? (this.sort.down ? "descending" : "ascending") : "none", title: name }, button);
    });
    const body = order.map((row) => {
      const name = make("button", { type: "button", title: rows[row].name }, rows[row].name);
      const line = make("tr", { "aria-selected": String(row === this.point.row), onclick: () => this.choose(row) }, make("td", { className: "number" }, String(row)), make("td", {}, name), ...this.columns.map((column) => make("td", { className: "number" }, number(columns[column].values[row]))));
      return line;
    });
    by("table").replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body));
  }

  async play() {
    this.isPlaying = true;
    by("play").textContent = "■ Stop";
    by("play").setAttribute("aria-pressed", "true");
    by("health").textContent = "beginning …";
    try {
      await this.live.start(this.key, by("voice").value, this.point, !this.isDry);
    } catch (error) {
      this.ended();
      throw error;
    }
  }

  pause() {
    this.live.stop();
    this.ended();
  }

  ended() {
    this.isPlaying = false;
    by("play").textContent = "▶ Play";
    by("play").setAttribute("aria-pressed", "false");
    by("health").textContent = "";
  }

  hear(isDry) {
    this.isDry = isDry;
    by("hear-dry").setAttribute("aria-pressed", String(isDry));
    by("hear-processed").setAttribute("aria-pressed", String(!isDry));
    this.live.hear(!isDry);
  }

  progress({ place, seconds, held, gaps, first, delay }) {
    this.seconds = seconds;
    if (!this.isSeeking) by("place").value = (1000 * (place % seconds)) / seconds;
    by("clock").textContent = minutes(place % seconds);
    const parts = [`first sound after ${first.toFixed(2)} s`, `${Math.round(1000 * held)} ms ahead`];
    if (delay) parts.push(`changes heard after ${delay.toFixed(2)} s`);
    parts.push(gaps ? `${gaps} ${gaps > 1 ? "gaps" : "gap"}` : "no gap");
    const health = by("health");
    // Not at every block: the text would flicker, and be read out.
    if (!this.healthAt || performance.now() - this.healthAt > 1000) {
      health.textContent = parts.join(" · ");
      this.healthAt = performance.now();
    }
  }

  async addVoice() {
    const input = by("voice-file"), [file] = input.files;
    input.value = "";
    if (!file) return;
    const record = await upload(file, this.limits);
    by("voice").append(make("option", { value: record.key, selected: true }, record.name));
    if (this.isPlaying) await this.play();
  }

  async export(to) {
    by("lacking").textContent = (await exported(this.key, this.point, to)).map((line) => `not in this format: ${line}`).join("; ");
  }

  async saveAudio() {
    const button = by("save-audio");
    button.disabled = true;
    try {
      const { content } = await bytes(`/api/presets/${this.key}/render`, { point: this.point, voice: by("voice").value });
      save(content, `${this.name(this.point.row)}.wav`, "audio/wav");
    } finally {
      button.disabled = false;
    }
  }
}
