// The page on which a person decides which classes sound in segments.
import WaveSurfer from "./wavesurfer/wavesurfer.esm.js";
import { colour } from "./drawing.js";
import { $, about, ask, clock, element, post, say } from "./util.js";

const OTHERS = "*", WAV_HEADER = 44;
const ANSWERS = { y: "yes", n: "no", u: "unsure" };
let segments = []; // that are to be decided; `now` is the one in sight
let now = null;
let marked = 0; // row
let wave = null;
let busy = Promise.resolve(); // requests go out one after the other, in the order of the keys
const sounds = new Map(); // place -> promise of {sound, picture}

// --- From and to the server ---------------------------------------------------------------

// Answers to a segment that is not in sight any more are dropped.
function attempt(work, place = now?.place) {
  busy = busy.then(() => (place === undefined || place === now?.place ? work() : null))
    .catch((error) => say(error.message, "error"));
}

async function more(first) {
  const answer = await (await ask(`/review/queue?first=${first}`)).json();
  segments.push(...answer.segments);
  progress(answer);
}

function progress({ decided, total, right, named }) {
  const random = named ? ` Of those drawn at random, the labels are right in ${right} of ${named} classes that they name.` : "";
  $("progress").textContent = `${decided.toLocaleString("en")} of ${total.toLocaleString("en")} segments decided.${random}`;
}

function load({ place }) {
  if (!sounds.has(place)) {
    const parts = ["sound", "picture"].map(async (kind) => (await ask(`/review/${kind}?place=${place}`)).blob());
    const both = Promise.all(parts).then(([sound, picture]) => ({ sound, picture }));
    both.catch(() => sounds.delete(place));
    sounds.set(place, both);
  }
  return sounds.get(place);
}

// --- What is in sight ---------------------------------------------------------------------

async function next() {
  const last = now?.place ?? -1;
  if (!segments.length) await more(last + 1);
  if (!segments.length && last >= 0) await more(0); // those that were skipped
  await show(segments[0] ?? null);
  segments.shift();
  if (segments.length) load(segments[0]).catch(() => {});
}

// Until its sound has come, answers are to the segment that is in sight.
async function show(segment) {
  const loaded = segment && (await load(segment));
  now = segment;
  marked = 0;
  $("segment").hidden = !segment;
  wave?.destroy();
  if (!segment) return say("All segments are decided. Give the table as config.corrections to train with it.");
  const { sound, picture } = loaded, { excerpt: [from, to], onset, offset, filename } = segment;
  sounds.delete(segment.place);
  $("where").replaceChildren(filename, " ", element("small", `${clock(onset)} to ${clock(offset)}`));
  for (const old of [$("picture").src, $("player").src]) URL.revokeObjectURL(old);
  $("picture").src = URL.createObjectURL(picture);
  const samples = new Int16Array(await sound.arrayBuffer(), WAV_HEADER), share = (time) => (time - from) / (to - from);
  Object.assign($("here").style, { left: `${100 * share(onset)}%`, width: `${100 * share(offset) - 100 * share(onset)}%` });
  wave = WaveSurfer.create({
    container: $("wave"), height: 64, media: $("player"), url: URL.createObjectURL(sound), peaks: [Float32Array.from(samples, (x) => x / 32768)],
    duration: to - from, normalize: true, cspNonce: document.body.dataset.nonce, cursorWidth: 2, ...colours(),
  });
  wave.on("ready", () => play());
  rows();
}

const colours = () => ({ waveColor: colour("--wave"), progressColor: colour("--played"), cursorColor: colour("--cursor") });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => wave?.setOptions(colours()));

// around: also what is before and after the segment.
function play(around = false) {
  const { excerpt: [from, to], onset, offset } = now;
  wave?.play(around ? 0 : onset - from, around ? to - from : offset - from).catch(() => {}); // no key was pressed yet
}

function rows() {
  $("classes-asked").replaceChildren(...now.classes.map(([label, answer], row) => {
    const item = element("li", "", { className: row === marked ? "marked" : "" });
    if (row === marked) item.setAttribute("aria-current", "true");
    item.append(element("span", label, { title: label }));
    for (const [key, word] of Object.entries(ANSWERS)) {
      const button = element("button", word, { type: "button", className: "small" });
      button.append(" ", element("kbd", key.toUpperCase()));
      button.setAttribute("aria-pressed", answer === word);
      button.setAttribute("aria-label", `${label}: ${word}`);
      button.addEventListener("click", () => attempt(() => { marked = row; return decide(word); }));
      item.append(button);
    }
    return item;
  }));
  const label = now.classes[marked]?.[0];
  $("spoken").textContent = label ? `Does ${label} sound?` : "Anything else?";
}

// --- Answers ------------------------------------------------------------------------------

async function decide(decision) {
  const row = now.classes[marked];
  if (!row) return;
  progress(await (await post("/review/decide", { place: now.place, label: row[0], decision })).json());
  say("");
  row[1] = decision;
  marked += 1;
  if (now.chosen === "similar") await next(); else rows();
}

async function nothingElse() {
  progress(await (await post("/review/decide", { place: now.place, label: OTHERS, decision: "no" })).json());
  say("");
  await next();
}

async function addClass(text) {
  const known = about.labels.find((label) => label.toLowerCase() === text.toLowerCase());
  if (!known) return say(`The data have no class “${text}”.`, "error");
  const row = now.classes.findIndex(([label]) => label === known);
  marked = row >= 0 ? row : now.classes.push([known, ""]) - 1;
  await decide("yes");
}

async function undo() {
  const answer = await (await post("/review/undo", {})).json(), { segment, undone } = answer;
  progress(answer);
  if (!undone) return say("There is nothing to undo.");
  say(segment ? "" : "The last decision was on something else; it is taken back.");
  if (!segment) return;
  if (now?.place === segment.place) now.classes = segment.classes;
  else {
    const left = now;
    await show(segment);
    if (left) segments.unshift(left);
  }
  marked = Math.max(now.classes.findIndex(([label]) => label === undone), 0);
  rows();
}

function mark(by) {
  marked = Math.min(Math.max(marked + by, 0), now.classes.length - 1);
  rows();
}

// --- What is pressed ----------------------------------------------------------------------

const keys = {
  ...Object.fromEntries(Object.entries(ANSWERS).map(([key, word]) => [key, () => decide(word)])),
  Enter: nothingElse,
  ArrowRight: next,
  ArrowUp: () => mark(-1),
  ArrowDown: () => mark(1),
};
// Those that wait for no answer of the server: what is typed next goes to the field.
const quick = { " ": () => play(), a: () => play(true), o: () => $("other").focus() };
addEventListener("keydown", (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.tagName === "INPUT") return;
  if (event.target.tagName === "BUTTON" && (key === " " || key === "Enter")) return;
  const work = key === "z" ? undo : now && (quick[key] ?? keys[key]);
  if (!work) return;
  event.preventDefault();
  if (quick[key]) work();
  else attempt(work, key === "z" ? undefined : now?.place);
});
const pressed = { play: () => play(), around: () => play(true), undo, skip: next, nothing: nothingElse };
for (const [id, work] of Object.entries(pressed)) $(id).addEventListener("click", () => attempt(work));
// A button that was clicked does not keep the keys.
addEventListener("click", (event) => event.detail && event.target.closest("button")?.blur());
$("other").addEventListener("keydown", (event) => {
  if (event.key === "Escape" || (event.key === "Enter" && !event.target.value.trim())) event.target.blur();
  else if (event.key === "Enter") {
    const text = event.target.value.trim();
    attempt(() => addClass(text));
    event.target.value = "";
    event.target.blur();
  }
});
attempt(next);
