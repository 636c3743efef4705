// Live audio of a preset: blocks that the server renders on request, so that new values are heard with the next one.

import { bytes, call } from "./api.js";

export class Live {
  constructor(onPlace, onError) {
    this.onPlace = onPlace;
    this.onError = onError;
    this.stream = null;
    this.point = null; // that the next block takes over
    this.at = null; // that the next block begins at
    this.sentAt = null;
    this.delay = null; // s from a moved slider to the block that has it, and to its sound
    this.turn = 0;
  }

  get isOn() {
    return this.stream !== null;
  }

  async start(source, voice, point, wet) {
    const turn = ++this.turn;
    const began = performance.now();
    this.stop(false);
    const stream = await call("/api/streams", { source, voice, point });
    if (turn !== this.turn) return;
    if (!this.context || this.context.sampleRate !== stream.sr) {
      if (this.context) await this.context.close();
      this.context = new AudioContext({ sampleRate: stream.sr, latencyHint: "interactive" });
      await this.context.audioWorklet.addModule("/static/worklet.js");
    }
    this.node = new AudioWorkletNode(this.context, "blocks", { numberOfInputs: 0, outputChannelCount: [2] });
    this.node.port.onmessage = ({ data }) => (data.need ? this.fetch(turn) : this.heard(data, began));
    this.node.connect(this.context.destination);
    this.stream = stream;
    this.first = null;
    this.hear(wet);
    await this.context.resume();
  }

  heard(data, began) {
    if (this.first === null) this.first = (performance.now() - began) / 1000;
    if (this.stream) this.onPlace({ ...data, seconds: this.stream.seconds, first: this.first, delay: this.delay });
    this.held = data.held;
  }

  async fetch(turn) {
    if (!this.stream || turn !== this.turn) return;
    const { key } = this.stream, body = {};
    const moved = this.movedAt;
    if (this.point) { body.point = this.point; this.point = null; }
    if (this.at !== null) { body.at = this.at; this.at = null; }
    try {
      const { content, headers } = await bytes(`/api/streams/${key}`, body);
      if (turn !== this.turn || !this.stream) return;
      if (body.at !== undefined) this.node.port.postMessage({ clear: true });
      this.node.port.postMessage({ block: content, place: Number(headers.get("x-place")) }, [content]);
      if (body.point && moved) this.delay = (performance.now() - moved) / 1000 + (this.held || 0);
    } catch (error) {
      this.stop();
      this.onError(error);
    }
  }

  move(point) {
    this.point = point;
    this.movedAt = performance.now();
  }

  jump(seconds) {
    this.at = seconds;
  }

  hear(wet) {
    this.node?.port.postMessage({ target: wet ? 1 : 0 });
  }

  stop(forget = true) {
    if (forget) this.turn++;
    this.node?.disconnect();
    if (this.node) this.node.port.onmessage = null;
    this.node = null;
    this.stream = null;
    this.point = this.at = null;
  }
}
