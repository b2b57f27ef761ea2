// The microphone, tagged while it records: every so often what was heard last goes to the server.
import { thresholdOf } from "./events.js";
import { $, about, ask, element, post } from "./util.js";

const RATE = 16000; // Hz, the network's
const EVERY = 0.2; // seconds of new sound until the server is asked again
const LISTED = 8;

export class Live {
  #running = true;
  #parts = []; // of what was heard, a segment's length of it
  #heard = 0; // samples in all
  #smoothed = null;

  constructor(stream, thresholds) {
    this.thresholds = thresholds;
    this.#run(stream).catch((error) => { $("live-late").textContent = error.message; });
  }

  stop() {
    this.#running = false;
    this.context?.close();
    $("live").hidden = true;
  }

  async #run(stream) {
    $("live-list").replaceChildren();
    $("live-late").textContent = "Listening …";
    $("live").hidden = false;
    this.labels = (await (await ask("/api/v1/labels")).json()).labels.map((one) => one.label);
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("/static/live_worklet.js");
    const node = new AudioWorkletNode(this.context, "listen", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    let wake = null, asked = 0;
    node.port.onmessage = ({ data }) => {
      this.#keep(data);
      if (this.#heard - asked >= EVERY * this.context.sampleRate) wake?.();
    };
    this.context.createMediaStreamSource(stream).connect(node);
    while (this.#running) {
      await new Promise((resolve) => { wake = resolve; });
      asked = this.#heard;
      const begun = performance.now();
      try {
        const answer = await (await post("/page/live", {}, await this.#window())).json();
        if (this.#running) this.#show(answer.scores, (performance.now() - begun) / 1000);
      } catch (error) {
        if (error.kind !== "busy" && this.#running) throw error;
      }
    }
  }

  #keep(samples) {
    this.#parts.push(samples);
    this.#heard += samples.length;
    let size = this.#parts.reduce((sum, part) => sum + part.length, 0);
    while (size - this.#parts[0].length > about.live * this.context.sampleRate) size -= this.#parts.shift().length;
  }

  // What was heard last, as 16-bit samples at the network's rate.
  async #window() {
    const rate = this.context.sampleRate, size = this.#parts.reduce((sum, part) => sum + part.length, 0);
    const length = Math.min(Math.floor((size * RATE) / rate), Math.floor(about.live * RATE));
    const offline = new OfflineAudioContext(1, length, RATE), buffer = offline.createBuffer(1, size, rate);
    let at = 0;
    for (const part of this.#parts) {
      buffer.copyToChannel(part, 0, at);
      at += part.length;
    }
    const source = offline.createBufferSource();
    source.buffer = buffer;
    source.connect(offline.destination);
    source.start(0, Math.max(size / rate - length / RATE, 0));
    const resampled = (await offline.startRendering()).getChannelData(0);
    return Int16Array.from(resampled, (x) => Math.max(-32768, Math.min(32767, Math.round(x * 32768))));
  }

  #show(scores, seconds) {
    const before = this.#smoothed ?? scores;
    this.#smoothed = scores.map((score, i) => Math.max(score, 0.6 * before[i])); // falls slowly, to be read
    const order = scores.map((_, i) => i).sort((a, b) => this.#smoothed[b] - this.#smoothed[a]).slice(0, LISTED);
    $("live-list").replaceChildren(...order.map((i) => {
      const item = element("li"), meter = element("meter", "", { max: 1, value: this.#smoothed[i] });
      meter.setAttribute("aria-label", this.labels[i]);
      item.append(element("span", this.labels[i]), meter, element("b", this.#smoothed[i].toFixed(2)));
      item.classList.toggle("on", scores[i] >= thresholdOf(this.thresholds, this.labels[i]));
      return item;
    }));
    const late = Math.max(seconds, EVERY) + seconds; // of what was heard just after the one before was asked for
    $("live-late").textContent = `at most ${late.toFixed(2)} s behind`;
  }
}
