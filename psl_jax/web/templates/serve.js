"use strict";
const $ = (id) => document.getElementById(id);
const ROWS = 12;
const LISTED = 500; // events; all are in the CSV
const limits = { bytes: document.body.dataset.megabytes * 1e6, minutes: Number(document.body.dataset.minutes) };
let shown = null; // the result on the page
let request = null;
let objectUrls = [];

// --- Sending a file -----------------------------------------------------------------------

function say(text, kind = "") {
  $("status").hidden = !text;
  $("status").textContent = text;
  $("status").className = kind;
}

async function post(path, file, signal) {
  const response = await fetch(`${path}?name=${encodeURIComponent(file.name)}`, {
    method: "POST", body: file, signal, headers: { "Content-Type": "application/octet-stream" },
  });
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  throw Object.assign(new Error(answer.error), { kind: answer.kind });
}

async function send(file) {
  if (file.size > limits.bytes) {
    const size = (file.size / 1e6).toFixed(file.size < 1e7 ? 1 : 0);
    say(`${file.name} is too large: ${size} MB, and files of up to ${limits.bytes / 1e6} MB are tagged here. ` +
        "For others use python -m psl_jax.tag.", "error");
    return;
  }
  request?.abort();
  const mine = (request = new AbortController());
  say(`Listening to ${file.name} …`, "busy");
  try {
    let response;
    try {
      response = await post("/tag", file, mine.signal);
    } catch (error) {
      if (error.kind !== "undecodable") throw error;
      file = await converted(file, error); // what the server cannot decode the browser perhaps can: m4a, webm
      response = await post("/tag", file, mine.signal);
    }
    const result = await response.json();
    if (mine !== request) return;
    show(result, file);
    say("");
  } catch (error) {
    if (error.name === "AbortError") return;
    say(error instanceof TypeError ? "The server cannot be reached. Is it still running?" : error.message, "error");
  }
}

async function converted(file, original) {
  const context = new OfflineAudioContext(1, 1, 48000);
  const audio = await context.decodeAudioData(await file.arrayBuffer()).catch(() => { throw original; });
  if (audio.duration > limits.minutes * 60) {
    throw new Error(`${file.name} is too long. Files of up to ${limits.minutes} minutes are tagged here.`);
  }
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

// --- Recording ----------------------------------------------------------------------------

let recorder = null;

async function record() {
  if (recorder) return recorder.stop();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch (error) {
    say(`The microphone cannot be used: ${error.message}`, "error");
    return;
  }
  const parts = [], start = performance.now();
  const caption = () => { $("record").textContent = `Stop (${clock((performance.now() - start) / 1000, 0)})`; };
  const timer = setInterval(() => {
    caption();
    if (performance.now() - start > limits.minutes * 60000 - 1000) recorder?.stop();
  }, 250);
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = async () => {
    clearInterval(timer);
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    $("record").textContent = "Record";
    $("record").classList.remove("on");
    const raw = new File(parts, "recording", { type: parts[0]?.type ?? "" });
    try {
      send(await converted(raw, new Error("The recording is empty.")));
    } catch (error) {
      say(error.message, "error");
    }
  };
  $("record").classList.add("on");
  caption();
  recorder.start();
}

// --- Showing a result ---------------------------------------------------------------------

function clock(seconds, decimals = 1) {
  const total = Math.round(seconds * 10 ** decimals) / 10 ** decimals;
  const rest = (total % 60).toFixed(decimals).padStart(decimals ? 3 + decimals : 2, "0");
  const minutes = Math.floor(total / 60);
  if (minutes < 60) return `${minutes}:${rest}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

function show(result, file) {
  const heat = new Uint16Array(bytes(result.heat.data).buffer); // [steps, classes]
  shown = { ...result, heat: { ...result.heat, data: heat, steps: heat.length / result.labels.length },
            mel: { ...result.mel, data: bytes(result.mel.data) } };
  objectUrls.forEach(URL.revokeObjectURL);
  objectUrls = [];
  $("result").hidden = false;
  $("drop").classList.add("compact");
  $("name").replaceChildren(result.name, " ", element("small", clock(result.seconds)));
  $("filter").value = "";
  play(file);
  choose();
  list();
  link("events-csv", result.csv, "events");
  link("scores-csv", scoresCsv(), "scores");
}

function element(kind, text, more = {}) {
  return Object.assign(document.createElement(kind), { textContent: text }, more);
}

function url(blob) {
  objectUrls.push(URL.createObjectURL(blob));
  return objectUrls.at(-1);
}

function link(id, text, what) {
  $(id).href = url(new Blob([text], { type: "text/csv" }));
  $(id).download = `${shown.name.replace(/\.[^.]*$/, "")}.${what}.csv`;
}

function play(file) {
  const player = $("player");
  let again = true;
  player.hidden = false;
  $("mute").hidden = true;
  player.onerror = async () => {
    const mine = shown;
    try {
      if (!again) throw new Error();
      again = false;
      const decoded = await (await post("/wav", file)).blob(); // a format that the browser cannot play
      if (mine === shown) player.src = url(decoded);
    } catch {
      player.hidden = true;
      $("mute").hidden = false;
    }
  };
  player.src = url(file);
}

function scoresCsv() {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const { labels, heat } = shown, lines = [["time", ...labels.map(quoted)].join(",")];
  for (let i = 0; i < heat.steps; i++) {
    const row = heat.data.subarray(i * labels.length, (i + 1) * labels.length);
    lines.push([(i * heat.step).toFixed(2), ...Array.from(row, (v) => (v / 65535).toFixed(4))].join(","));
  }
  return lines.join("\n") + "\n";
}

// The labels that are drawn: those with the highest scores, of the ones searched for.
function choose() {
  const wanted = $("filter").value.trim().toLowerCase();
  shown.rows = shown.labels.map((label, i) => [label, i])
    .filter(([label]) => label.toLowerCase().includes(wanted))
    .sort((a, b) => shown.peaks[b[1]] - shown.peaks[a[1]]).slice(0, ROWS).map(([, i]) => i);
  $("labels").replaceChildren(...shown.rows.map((i) => {
    const item = element("li", "", { title: shown.labels[i] });
    item.append(element("span", shown.labels[i]), element("b", ""));
    return item;
  }));
  const top = Math.max(...shown.rows.map((i) => shown.peaks[i]), 0);
  shown.limit = [0.1, 0.2, 0.5].find((limit) => top <= limit) ?? 1;
  const pooled = Math.round(shown.heat.step / shown.heat.frame);
  $("legend").textContent = `Full colour: a score of ${shown.limit}. Underlined: events.` +
    (pooled > 1 ? ` Each step of ${shown.heat.step.toFixed(2)} s shows the highest of ${pooled} scores.` : "");
  draw();
}

function list() {
  $("events-title").textContent = `Events (a score of ${shown.threshold} or more)`;
  const left = shown.events.length - LISTED;
  $("events").replaceChildren(...shown.events.slice(0, LISTED).map((event) => {
    const row = element("tr", ""), cell = element("td", "");
    cell.append(element("button", clock(event.onset), { type: "button", onclick: () => seek(event.onset) }));
    row.append(cell, element("td", clock(event.offset)), element("td", event.label),
               element("td", event.score.toFixed(2), { className: "number" }));
    return row;
  }));
  if (left > 0 || !shown.events.length) {
    const row = element("tr", ""), text = left > 0 ? `and ${left} more in the CSV` : "None: no score is as high.";
    row.append(element("td", text, { colSpan: 4 }));
    $("events").append(row);
  }
}

// --- Drawing ------------------------------------------------------------------------------

const MAGMA = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100],
               [251, 135, 97], [254, 194, 135], [252, 253, 191]];

function mix(stops, x) {
  const at = Math.min(Math.max(x, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
  return stops[i].map((value, k) => Math.round(value + (stops[i + 1][k] - value) * (at - i)));
}

function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function draw() {
  if (!shown) return;
  drawMel();
  drawHeat();
  const width = $("plot").clientWidth;
  const step = [0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200].find((s) => (shown.seconds / s) * 70 < width) ?? 3600;
  const ticks = [];
  for (let i = 0; i * step < shown.seconds - step / 2; i++) {
    const tick = element("span", clock(i * step, step < 0.1 ? 2 : step < 1 ? 1 : 0));
    tick.style.left = `${(100 * i * step) / shown.seconds}%`;
    ticks.push(tick);
  }
  const end = element("span", clock(shown.seconds));
  end.style.left = "100%";
  $("ticks").replaceChildren(...ticks, end);
  update();
}

function drawMel() {
  const { data, bands, step } = shown.mel, columns = data.length / bands;
  const colours = Array.from({ length: 256 }, (_, i) => mix(MAGMA, i / 255));
  const picture = new ImageData(columns, bands);
  for (let i = 0; i < columns; i++) {
    for (let k = 0; k < bands; k++) {
      picture.data.set([...colours[data[i * bands + k]], 255], 4 * ((bands - 1 - k) * columns + i));
    }
  }
  paint($("mel"), $("mel").clientHeight, (context, width, height) => {
    stretch(context, picture, (columns * step / shown.seconds) * width, height);
  });
}

function stretch(context, picture, width, height, left = 0) {
  const small = document.createElement("canvas");
  [small.width, small.height] = [picture.width, picture.height];
  small.getContext("2d").putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, left, 0, width, height);
}

function paint(canvas, height, work) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth;
  [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  work(context, width, height);
}

function drawHeat() {
  const { heat, rows, labels, seconds } = shown, size = 26;
  const stops = ["--cold", "--warm", "--hot"].map(colour), gap = `rgb(${colour("--page")})`;
  const picture = new ImageData(heat.steps + 1, Math.max(rows.length, 1));
  rows.forEach((label, k) => {
    for (let i = 0; i <= heat.steps; i++) { // the last step reaches to the end
      const value = heat.data[Math.min(i, heat.steps - 1) * labels.length + label] / 65535 / shown.limit;
      picture.data.set([...mix(stops, value), 255], 4 * (k * picture.width + i));
    }
  });
  $("heat").style.height = `${rows.length * size}px`;
  paint($("heat"), rows.length * size, (context, width, height) => {
    const scale = width / seconds;
    stretch(context, picture, picture.width * heat.step * scale, height, (-heat.frame / 2) * scale);
    context.fillStyle = gap;
    rows.forEach((_, k) => context.fillRect(0, (k + 1) * size - 2, width, 2));
    context.fillStyle = `rgb(${colour("--event")})`;
    for (const { label, onset, offset } of shown.events) {
      const k = rows.indexOf(shown.labels.indexOf(label));
      if (k >= 0) context.fillRect(onset * scale, (k + 1) * size - 5, Math.max((offset - onset) * scale, 1), 3);
    }
  });
}

// --- The cursor ---------------------------------------------------------------------------

function scoreAt(seconds, label) {
  const { heat, labels } = shown;
  const step = Math.floor((seconds + heat.frame / 2) / heat.step);
  return heat.data[Math.min(Math.max(step, 0), heat.steps - 1) * labels.length + label] / 65535;
}

let frame = 0;

function update() {
  if (!shown) return;
  const time = $("player").currentTime || 0;
  $("cursor").style.left = `${(100 * Math.min(time / shown.seconds, 1)).toFixed(3)}%`;
  $("plot").setAttribute("aria-valuemax", shown.seconds.toFixed(1));
  $("plot").setAttribute("aria-valuenow", time.toFixed(1));
  $("plot").setAttribute("aria-valuetext", clock(time));
  [...$("labels").children].forEach((item, k) => {
    const score = scoreAt(time, shown.rows[k]);
    item.lastChild.textContent = score.toFixed(2);
    item.classList.toggle("on", score >= shown.threshold);
  });
  [...$("events").rows].forEach((row, i) => {
    const event = shown.events[i];
    row.classList.toggle("on", Boolean(event) && event.onset <= time && time < event.offset);
  });
  cancelAnimationFrame(frame);
  if (!$("player").paused) frame = requestAnimationFrame(update);
}

function seek(seconds) {
  $("player").currentTime = Math.min(Math.max(seconds, 0), shown.seconds);
  update();
}

function timeOf(event) {
  const box = $("plot").getBoundingClientRect();
  return (shown.seconds * (event.clientX - box.left)) / box.width;
}

function hover(event) {
  const box = $("heat").getBoundingClientRect(), plot = $("plot").getBoundingClientRect();
  const k = Math.floor((event.clientY - box.top) / 26), time = timeOf(event), tip = $("hover");
  tip.hidden = !(k < shown.rows.length && event.clientY <= box.bottom);
  if (tip.hidden) return;
  const label = shown.rows[k];
  tip.textContent = clock(time) + (k >= 0 ? `  ${shown.labels[label]} ${scoreAt(time, label).toFixed(2)}` : "");
  const half = tip.offsetWidth / 2;
  tip.style.left = `${Math.min(Math.max(event.clientX - plot.left, half), plot.width - half)}px`;
  tip.style.top = `${event.clientY - plot.top}px`;
}

// --- Events -------------------------------------------------------------------------------

$("file").addEventListener("change", (event) => {
  if (event.target.files[0]) send(event.target.files[0]);
  event.target.value = ""; // the same file can be chosen again
});
$("record").addEventListener("click", record);
if (!navigator.mediaDevices || !window.MediaRecorder) {
  Object.assign($("record"), { disabled: true, title: "This browser gives no microphone to this address." });
}
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
});
$("filter").addEventListener("input", choose);
$("plot").addEventListener("click", (event) => seek(timeOf(event)));
$("plot").addEventListener("mousemove", hover);
$("plot").addEventListener("mouseleave", () => { $("hover").hidden = true; });
$("plot").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) seek($("player").currentTime + step * Math.max(0.32, shown.seconds / 200));
  else if (event.key === " ") $("player").paused ? $("player").play() : $("player").pause();
  else return;
  event.preventDefault();
});
for (const name of ["play", "seeked", "pause", "loadedmetadata"]) $("player").addEventListener(name, update);
new ResizeObserver(draw).observe($("plot"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
