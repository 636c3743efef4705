"use strict";
/* A player of several recordings of one length: all run at once, in step to the sample, and only their gains change. */

class Player {
  /**
   * context: an AudioContext, or an OfflineAudioContext to measure with. tracks: [{key, gain, own}], `gain` with matched
   * levels, `own` without. seconds: their length. fade: of a switch, in s; the sum of both gains stays 1 meanwhile.
   */
  constructor(context, tracks, seconds, fade = 0.006) {
    this.context = context;
    this.seconds = seconds;
    this.fade = fade;
    this.region = null; // [from, to] in s, which is repeated; null: to the end
    this.repeats = true; // the whole, where there is no region
    this.matched = true;
    this.selected = tracks[0].key;
    this.playing = false;
    this.started = 0; // time of the context at which the sources began
    this.offset = 0; // position at that time, or where it is paused
    this.onstop = () => {};
    this.output = context.createGain();
    this.output.connect(context.destination);
    this.tracks = new Map(tracks.map((track) => [track.key, { ...track, node: null, buffer: null, source: null, level: 0 }]));
    for (const track of this.tracks.values()) {
      track.node = context.createGain();
      track.node.gain.value = track.level = track.key === this.selected ? track.gain : 0;
      track.node.connect(this.output);
    }
  }

  /** Gives a track its decoded audio; during playback it joins in step, or replaces what the track had. */
  add(key, buffer) {
    const track = this.tracks.get(key), before = track.source;
    track.buffer = buffer;
    if (!this.playing) return;
    const when = this.context.currentTime + 0.02;
    this.begin(track, when);
    before?.stop(when);
  }

  /** The position in s at a time of the context. */
  position(time = this.context.currentTime) {
    if (!this.playing) return this.offset;
    const [from, to] = this.region ?? [0, this.seconds];
    const at = this.offset + Math.max(time - this.started, 0);
    if (at < to || !(this.region || this.repeats)) return Math.min(at, this.seconds);
    return from + ((at - to) % (to - from));
  }

  begin(track, when) {
    const source = this.context.createBufferSource();
    source.buffer = track.buffer;
    [source.loopStart, source.loopEnd] = this.region ?? [0, this.seconds];
    source.loop = Boolean(this.region) || this.repeats;
    source.connect(track.node);
    source.onended = () => { if (track.source === source && !source.loop) this.ended(); };
    source.start(when, this.position(when));
    track.source = source;
  }

  /** Begins at a position; every source gets the same start time. */
  play(from = this.offset, when = this.context.currentTime + 0.03) {
    this.stopSources();
    if (this.region && (from < this.region[0] || from >= this.region[1])) from = this.region[0];
    this.offset = from >= this.seconds - 0.02 ? 0 : from;
    this.started = when;
    this.playing = true;
    for (const track of this.tracks.values()) if (track.buffer) this.begin(track, when);
  }

  pause() {
    this.offset = this.position();
    this.playing = false;
    this.stopSources();
  }

  ended() {
    this.playing = false;
    this.offset = 0;
    this.stopSources();
    this.onstop();
  }

  stopSources() {
    for (const track of this.tracks.values()) {
      if (track.source) { track.source.onended = null; track.source.stop(); track.source.disconnect(); }
      track.source = null;
    }
  }

  seek(position) {
    const at = Math.min(Math.max(position, 0), this.seconds);
    if (this.playing) this.play(at);
    else this.offset = at;
  }

  /** Repeats a part, from and to in s; null for none. */
  loop(region) {
    const at = this.position();
    this.region = region;
    if (this.playing) this.play(at);
    else if (region && (at < region[0] || at >= region[1])) this.offset = region[0];
  }

  repeat(repeats) {
    const at = this.position();
    this.repeats = repeats;
    if (this.playing) this.play(at);
  }

  /** Switches to a track: a linear crossfade, as the tracks are versions of one sound. */
  select(key, at = this.context.currentTime) {
    this.selected = key;
    for (const track of this.tracks.values()) {
      const target = track.key === key ? (this.matched ? track.gain : track.own) : 0;
      if (target === track.level) continue;
      track.node.gain.cancelScheduledValues(at);
      track.node.gain.setValueAtTime(track.level, at);
      track.node.gain.linearRampToValueAtTime(target, at + this.fade);
      track.level = target;
    }
  }

  match(matched) {
    this.matched = matched;
    this.select(this.selected);
  }
}

/** The bytes of base64 text. */
function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes.buffer;
}

/** The probability that guessing gives at least so many right answers. */
function guessing(right, asked) {
  let sum = 0, ways = 1;
  for (let k = asked; k >= right; k--) {
    sum += ways / 2 ** asked;
    ways = (ways * k) / (asked - k + 1);
  }
  return sum;
}

/** The controls of a player in one row, with a switch for each track; `started` is called before it plays. Its button. */
function controls(player, box, started = () => {}) {
  const play = html("button", { class: "primary", text: "Play" });
  const time = html("input", { type: "range", min: 0, max: player.seconds, step: 0.01, value: 0, "aria-label": "Position" });
  const clockText = html("span", { class: "muted small" });
  const select = (key) => {
    player.select(key);
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.sound === key)));
  };
  const buttons = [...player.tracks.values()].map(({ key, label }) => html("button", { "data-sound": key, text: label ?? key, onclick: () => select(key) }));
  const tick = () => {
    time.value = player.position();
    clockText.textContent = `${clock(player.position())} / ${clock(player.seconds)}`;
    play.textContent = player.playing ? "Pause" : "Play";
    if (player.playing && box.isConnected) requestAnimationFrame(tick);
  };
  play.addEventListener("click", async () => {
    await player.context.resume();
    if (!player.playing) started();
    player.playing ? player.pause() : player.play();
    tick();
  });
  time.addEventListener("input", () => { player.seek(Number(time.value)); tick(); });
  box.replaceChildren(play, ...buttons, time, clockText, html("span", { class: "muted small", text: "Levels are matched." }));
  select("fitted");
  tick();
  return play;
}
