// Hands on what the microphone hears, some hundredths of a second at a time.
registerProcessor("listen", class extends AudioWorkletProcessor {
  #held = new Float32Array(1024);
  #size = 0;

  process([[samples]]) {
    if (!samples) return true;
    this.#held.set(samples, this.#size);
    this.#size += samples.length;
    if (this.#size === this.#held.length) {
      this.port.postMessage(this.#held, [this.#held.buffer]);
      this.#held = new Float32Array(1024);
      this.#size = 0;
    }
    return true;
  }
});
