// Plays blocks of three channels, dry, left and right, and asks for the next one when few samples are left.

class Blocks extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = [];
    this.read = 0; // samples of the first block that were played
    this.held = 0; // samples that are left in all
    this.isFilling = true; // until enough is there to begin with
    this.ahead = 0.35 * sampleRate;
    this.asked = false;
    this.wet = 1; // 1 processed, 0 dry
    this.target = 1;
    this.gaps = 0;
    this.count = 0;
    this.hasEnded = false;
    this.source = null; // the port that blocks come from
    this.port.onmessage = ({ data }) => this.take(data);
  }

  take(data) {
    if (data.source) {
      this.source = data.source;
      this.source.onmessage = (message) => this.take(message.data);
    }
    if (data.clear) {
      this.queue = [];
      this.read = this.held = 0;
      this.isFilling = true;
    }
    if (data.block) {
      const samples = new Float32Array(data.block);
      this.queue.push({ samples, n: samples.length / 3, place: data.place });
      this.held += samples.length / 3;
      this.asked = false;
      if (this.held >= this.ahead / 2) this.isFilling = false;
    }
    if (data.end) this.hasEnded = true;
    if (data.target !== undefined) this.target = data.target;
  }

  process(_, [[left, right]]) {
    const step = 1 / (0.01 * sampleRate);
    for (let i = 0; i < left.length && !this.isFilling; i++) {
      const block = this.queue[0];
      if (!block) {
        // A gap: keep more blocks ahead from now on, as the machine has other work.
        this.gaps++;
        this.ahead = Math.min(1.5 * sampleRate, 1.5 * this.ahead);
        this.isFilling = true;
        break;
      }
      this.wet += Math.max(-step, Math.min(step, this.target - this.wet));
      const { samples, n } = block, at = this.read, dry = samples[at] * (1 - this.wet);
      left[i] = dry + samples[n + at] * this.wet;
      right[i] = dry + samples[2 * n + at] * this.wet;
      this.held--;
      if (++this.read >= n) {
        this.queue.shift();
        this.read = 0;
      }
    }
    if (this.held < this.ahead && !this.asked && this.source) {
      this.asked = true;
      this.source.postMessage({ held: this.held / sampleRate });
    }
    if (this.count++ % 16 === 0 && !this.isFilling && this.queue[0]) {
      const place = this.queue[0].place + this.read / sampleRate;
      this.port.postMessage({ place, held: this.held / sampleRate, gaps: this.gaps });
    }
    return !this.hasEnded;
  }
}

registerProcessor("blocks", Blocks);
