// Live audio of a preset: the server renders blocks on request, a worker fetches them, an audio worklet plays them.

import { call } from "./api.js";

export class Live {
  constructor(onPlace, onError) {
    this.onPlace = onPlace;
    this.onError = onError;
    this.turn = 0;
  }

  async start(source, voice, point, wet) {
    this.stop();
    const turn = ++this.turn, began = performance.now();
    const { key, sr, seconds } = await call("/api/streams", { source, voice, point });
    if (turn !== this.turn) return;
    if (this.context?.sampleRate !== sr) {
      await this.context?.close();
      this.context = new AudioContext({ sampleRate: sr, latencyHint: "interactive" });
      await this.context.audioWorklet.addModule("/static/worklet.js");
    }
    if (turn !== this.turn) return; // stopped in between
    const { port1, port2 } = new MessageChannel();
    this.node = new AudioWorkletNode(this.context, "blocks", { numberOfInputs: 0, outputChannelCount: [2] });
    this.worker = new Worker("/static/blocks.js", { type: "module" });
    let first = null, delay = null; // s from play, and from a moved slider, to the sound
    this.node.port.onmessage = ({ data }) => {
      first ??= (performance.now() - began) / 1000;
      this.onPlace({ ...data, seconds, first, delay });
    };
    this.worker.onmessage = ({ data }) => {
      if (data.delay) delay = data.delay;
      if (data.error) { this.stop(); this.onError(new Error(data.error)); }
    };
    this.worker.postMessage({ key, port: port2 }, [port2]);
    this.node.port.postMessage({ source: port1, target: wet ? 1 : 0 }, [port1]);
    this.node.connect(this.context.destination);
    await this.context.resume();
  }

  move(point) {
    this.worker?.postMessage({ point, when: Date.now() });
  }

  jump(seconds) {
    this.worker?.postMessage({ at: seconds });
  }

  hear(wet) {
    this.node?.port.postMessage({ target: wet ? 1 : 0 });
  }

  stop() {
    this.turn++;
    this.worker?.terminate();
    if (this.node) {
      this.node.port.onmessage = null;
      this.node.port.postMessage({ end: true });
      this.node.disconnect();
    }
    this.worker = this.node = null;
  }
}
