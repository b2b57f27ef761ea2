// Tags audio with model.onnx: `npm install onnxruntime-web`, then `node tag.mjs a.wav`.
// In a browser import `tag`, and decode audio with `new AudioContext({ sampleRate: 16000 })`, or the
// sampling_rate of preprocessor_config.json.
import * as ort from "onnxruntime-web";

// Returns [label, probability] of each class, the highest first, of a Float32Array at that rate.
export async function tag(waveform) {
  const session = await ort.InferenceSession.create(await read("model.onnx"));
  const input = new ort.Tensor("float32", waveform, [1, waveform.length]);
  const { clip_probabilities: clip } = await session.run({ waveform: input });
  const labels = JSON.parse(new TextDecoder().decode(await read("config.json"))).id2label;
  return Array.from(clip.data, (p, i) => [labels[i], p]).sort((a, b) => b[1] - a[1]);
}

async function read(name) {
  const url = new URL(name, import.meta.url); // a file beside this one
  if (url.protocol !== "file:") return new Uint8Array(await (await fetch(url)).arrayBuffer());
  return new Uint8Array(await (await import("node:fs/promises")).readFile(url));
}

if (typeof process !== "undefined" && process.argv[2]) {
  const wav = await (await import("node:fs/promises")).readFile(process.argv[2]);
  const rate = JSON.parse(new TextDecoder().decode(await read("preprocessor_config.json"))).sampling_rate;
  if (wav.readUInt16LE(22) !== 1 || wav.readUInt32LE(24) !== rate || wav.readUInt16LE(34) !== 16)
    throw new Error(`expected a WAV file: ${rate} Hz, mono, 16 bits`);
  let start = 12; // of a chunk: its name, its size, and its bytes, an even number of them
  while (wav.toString("latin1", start, start + 4) !== "data") {
    const size = wav.readUInt32LE(start + 4);
    start += 8 + size + (size % 2);
  }
  const audio = wav.subarray(start + 8, start + 8 + wav.readUInt32LE(start + 4));
  const samples = { length: audio.length >> 1 };
  const waveform = Float32Array.from(samples, (_, i) => audio.readInt16LE(2 * i) / 32768);
  for (const [label, p] of (await tag(waveform)).slice(0, 5)) console.log(p.toFixed(5), label);
}
