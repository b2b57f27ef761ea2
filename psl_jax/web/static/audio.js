// Records the microphone.
import { $, about, clock, say } from "./util.js";

// A recording as a WAV file.
async function converted(file) {
  const context = new OfflineAudioContext(1, 1, 48000);
  const audio = await context.decodeAudioData(await file.arrayBuffer()).catch(() => { throw new Error("The recording is empty."); });
  return new File([wav(audio)], file.name, { type: "audio/wav" });
}

function wav(audio) {
  const channels = Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i));
  const view = new DataView(new ArrayBuffer(44 + 2 * audio.length));
  const text = (at, word) => [...word].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  const set = (at, value, bytes) => (bytes === 2 ? view.setUint16 : view.setUint32).call(view, at, value, true);
  text(0, "RIFF"); set(4, 36 + 2 * audio.length, 4); text(8, "WAVEfmt "); set(16, 16, 4); set(20, 1, 2); set(22, 1, 2);
  set(24, audio.sampleRate, 4); set(28, 2 * audio.sampleRate, 4); set(32, 2, 2); set(34, 16, 2);
  text(36, "data"); set(40, 2 * audio.length, 4);
  for (let i = 0; i < audio.length; i++) {
    let value = 0;
    for (const channel of channels) value += channel[i] / channels.length;
    view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(value * 32768))), true);
  }
  return view;
}

let recorder = null;

// Begins or ends a recording; `take(file)` is called with what was recorded.
export async function record(take) {
  if (recorder) return recorder.stop();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch (error) {
    return say(`The microphone cannot be used: ${error.message}`, "error");
  }
  const parts = [], start = performance.now(), button = $("record");
  const caption = () => { button.textContent = `Stop (${clock((performance.now() - start) / 1000, 0)})`; };
  const timer = setInterval(() => {
    caption();
    if (performance.now() - start > about.minutes * 60000 - 1000) recorder?.stop();
  }, 250);
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = async () => {
    clearInterval(timer);
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    button.textContent = "Record";
    button.classList.remove("on");
    const at = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    try {
      take(await converted(new File(parts, `recording ${at}.wav`)));
    } catch (error) {
      say(error.message, "error");
    }
  };
  button.classList.add("on");
  caption();
  recorder.start();
}
