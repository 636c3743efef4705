// Plays recordings of one length at the same place, and switches between them without a gap.

import { bytes, guarded, make, minutes } from "./api.js";

const FADE = 0.012; // s

let context = null;
let playing = null; // one player at a time

export class Player {
  // `choices` are [{ key, label, className, path }], loaded when they are first heard.
  constructor(choices) {
    this.choices = choices;
    this.tracks = new Map();
    this.current = choices[0].key;
    this.offset = 0;
    this.began = null;
    this.play = make("button", { type: "button", "aria-label": "Play", onclick: guarded(() => this.toggle()) }, "▶ Play");
    this.buttons = choices.map(({ key, label }) => make("button", { type: "button", "aria-pressed": String(key === this.current), onclick: guarded(() => this.choose(key)) }, label));
    this.place = make("input", { type: "range", min: 0, max: 1000, value: 0, className: "place", "aria-label": "Place in the recording" });
    this.place.addEventListener("input", () => this.seek((this.place.value / 1000) * this.seconds));
    this.clock = make("span", { className: "muted small" }, "0:00");
    const segments = make("span", { className: "segments", role: "group", "aria-label": "What is heard" }, ...this.buttons);
    this.element = make("div", { className: "player" }, this.play, segments, this.place, this.clock);
  }

  get seconds() {
    return Math.max(0, ...[...this.tracks.values()].map(({ buffer }) => buffer.duration));
  }

  get now() {
    return this.began === null ? this.offset : (context.currentTime - this.began) % (this.seconds || 1);
  }

  async fetch(key) {
    context ??= new AudioContext();
    const { content } = await bytes(this.choices.find((choice) => choice.key === key).path);
    return { buffer: await context.decodeAudioData(content), source: null, gain: null };
  }

  async load(key) {
    if (!this.tracks.has(key)) this.tracks.set(key, await this.fetch(key));
  }

  // Loads a recording again, which has changed.
  async renew(key) {
    const track = await this.fetch(key);
    const at = this.now;
    this.halt(); // also the old one, which is no longer known afterwards
    this.tracks.set(key, track);
    if (this.began !== null) this.startAt(at);
  }

  async choose(key) {
    await this.load(key);
    this.current = key;
    this.buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(this.choices[i].key === key)));
    if (this.began === null) return;
    if (!this.tracks.get(key).source) this.startAt(this.now);
    for (const [name, { gain }] of this.tracks) gain?.gain.setTargetAtTime(name === key ? 1 : 0, context.currentTime, FADE / 3);
  }

  async toggle() {
    if (this.began !== null) { this.pause(); return; }
    await this.load(this.current);
    await context.resume();
    if (this.began !== null) return; // pressed twice while it was loading
    if (playing && playing !== this) playing.pause();
    this.startAt(this.offset);
  }

  startAt(offset) {
    this.halt();
    playing = this;
    const when = context.currentTime + 0.02;
    for (const [key, track] of this.tracks) {
      track.gain = new GainNode(context, { gain: key === this.current ? 1 : 0 });
      track.source = new AudioBufferSourceNode(context, { buffer: track.buffer, loop: true });
      track.source.connect(track.gain).connect(context.destination);
      track.source.start(when, offset % track.buffer.duration);
    }
    this.began = when - offset;
    this.play.textContent = "❚❚ Pause";
    this.tick();
  }

  halt() {
    for (const track of this.tracks.values()) {
      track.source?.stop();
      track.source?.disconnect();
      track.source = track.gain = null;
    }
  }

  pause() {
    this.offset = this.now;
    this.halt();
    this.began = null;
    this.play.textContent = "▶ Play";
  }

  seek(seconds) {
    this.offset = seconds;
    if (this.began !== null) this.startAt(seconds);
  }

  tick() {
    if (this.began === null) return;
    if (!this.element.isConnected) { this.pause(); return; }
    if (document.activeElement !== this.place) this.place.value = (1000 * this.now) / (this.seconds || 1);
    this.clock.textContent = minutes(Math.max(0, this.now));
    requestAnimationFrame(() => this.tick());
  }
}
