// The buttons of a player, whose recordings are loaded when they are first heard; what plays them is /player.js, which
// reports have as well.
/* global Player */

import { bytes, guarded, make, minutes } from "./api.js";

let context = null;
let playing = null; // one player at a time

export class PlayerView {
  // `choices` are [{ key, label, path }], recordings of one length.
  constructor(choices) {
    this.choices = choices;
    this.loaded = new Set();
    this.current = choices[0].key;
    this.player = null;
    this.play = make("button", { type: "button", "aria-label": "Play", onclick: guarded(() => this.toggle()) }, "▶ Play");
    this.buttons = choices.map(({ key, label }) => make("button", { type: "button", "aria-pressed": String(key === this.current), onclick: guarded(() => this.choose(key)) }, label));
    this.place = make("input", { type: "range", min: 0, max: 1000, value: 0, className: "place", "aria-label": "Place in the recording" });
    this.place.addEventListener("input", () => this.player?.seek((this.place.value / 1000) * this.player.seconds));
    this.clock = make("span", { className: "muted small" }, "0:00");
    const segments = make("span", { className: "segments", role: "group", "aria-label": "What is heard" }, ...this.buttons);
    this.element = make("div", { className: "player" }, this.play, segments, this.place, this.clock);
  }

  get isPlaying() {
    return Boolean(this.player?.playing);
  }

  // Loads a recording, also again, where it has changed.
  async renew(key) {
    context ??= new AudioContext();
    const { content } = await bytes(this.choices.find((choice) => choice.key === key).path);
    const buffer = await context.decodeAudioData(content);
    this.player ??= new Player(context, this.choices.map((choice) => ({ key: choice.key, gain: 1, own: 1 })), buffer.duration);
    this.player.select(this.current);
    this.player.add(key, buffer);
    this.loaded.add(key);
  }

  async load(key) {
    if (!this.loaded.has(key)) await this.renew(key);
  }

  async choose(key) {
    await this.load(key);
    this.current = key;
    this.buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(this.choices[i].key === key)));
    this.player.select(key);
  }

  async toggle() {
    if (this.isPlaying) { this.pause(); return; }
    this.play.textContent = "Loading …";
    try {
      await this.load(this.current);
    } catch (error) {
      this.pause();
      throw error;
    }
    await context.resume();
    if (this.isPlaying) return; // pressed twice while it was loading
    if (playing !== this) playing?.pause();
    playing = this;
    this.player.play();
    this.play.textContent = "❚❚ Pause";
    this.tick();
  }

  pause() {
    if (this.isPlaying) this.player.pause();
    this.play.textContent = "▶ Play";
  }

  tick() {
    if (!this.isPlaying) return;
    if (!this.element.isConnected) { this.pause(); return; }
    const at = this.player.position();
    if (document.activeElement !== this.place) this.place.value = (1000 * at) / this.player.seconds;
    this.clock.textContent = minutes(at);
    requestAnimationFrame(() => this.tick());
  }
}
