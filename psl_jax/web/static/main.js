// The page: one file of the queue in sight, its settings, and what is done with its events.
import { record } from "./audio.js";
import { EventList } from "./event_list.js";
import { csvHeader, csvRows, save, saveAs, thresholds } from "./downloads.js";
import { frameAt, scoreOf, thresholdOf } from "./events.js";
import { answer, best, Queue, summary } from "./queue.js";
import { Settings } from "./settings.js";
import { chosen, dropped } from "./file_selection.js";
import { Timeline } from "./timeline.js";
import { $, about, clock, element, onceAFrame, post, say, tell } from "./util.js";

const ROWS = 12;
let current = null; // the file in sight
let shown = null; // its result, once it is on the page
let events = [];
let rows = [];
let count = ROWS;
let chosenClass = null;
let chosenEvent = null; // its id
let sound = ""; // address of what is played

const settings = new Settings(onceAFrame(update));
const queue = new Queue(changed);
const list = new EventList({ choose, change });
const timeline = new Timeline($("player"), { time: tick, select: choose, change });

// --- Files --------------------------------------------------------------------------------

function take(files) {
  const { files: wanted, note } = chosen(files);
  say(note);
  if (!wanted.length) return;
  $("drop").classList.add("compact");
  $("known").open = false;
  const [first] = queue.add(wanted);
  open(first);
}

function changed(item, asked = false) {
  const { items } = queue, busy = items.some((one) => ["waiting", "tagging"].includes(one.state));
  $("queue").hidden = !items.length;
  $("queue-title").textContent = items.length === 1 ? "1 file" : `${items.length} files`;
  $("cancel-all").hidden = !busy || items.length < 2;
  $("all-csv").hidden = queue.done.length < 2;
  if (asked) open(item);
  else if (item === current) show();
  if (!items.includes(item) && item === current) open(items.at(-1) ?? null);
}

function open(item) {
  current = item;
  shown = null;
  for (const one of queue.items) one.row.classList.toggle("chosen", one === item);
  $("result").hidden = !item;
  if (item) show();
}

function show() {
  const { name, state, result, error } = current, done = state === "done";
  for (const one of queue.items) one.row.classList.toggle("chosen", one === current);
  $("name").replaceChildren(name, ...(done ? [" ", element("small", clock(result.seconds))] : []));
  $("busy").hidden = !["waiting", "tagging"].includes(state);
  $("busy").textContent = state === "waiting" ? "Waits for the files before it." : `${capital(summary(current))}`;
  tell("problem", state === "failed" ? error : "");
  $("again").hidden = !["cancelled", "failed"].includes(state);
  $("answer").hidden = $("answer-title").hidden = $("view").hidden = !done;
  if (!done) {
    shown = null;
    $("player").pause();
    timeline.hide();
    if (state === "cancelled") $("spoken").textContent = `${name}: cancelled`;
  } else if (shown !== result) showResult();
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

function showResult() {
  const { name, result } = current;
  shown = result;
  chosenEvent = null;
  count = ROWS;
  $("spoken").textContent = `${name}: ${best(result, 3)}`;
  $("answer").replaceChildren(...answer(result, 6).flatMap(([label, score], i) => {
    const tag = element("span", `${label} `, { title: "Mean score over the whole file" });
    tag.append(element("b", score.toFixed(2)));
    return i ? [element("i", ", ", { className: "unseen" }), tag] : [tag];
  }));
  $("classes").replaceChildren(...result.labels.map((label) => element("option", "", { value: label })));
  chosenClass = result.labels[result.peaks.indexOf(Math.max(...result.peaks))];
  URL.revokeObjectURL(sound);
  sound = URL.createObjectURL(current.file);
  play(current.file);
  timeline.show(result, sound);
  $("zoom").value = 0;
  update();
}

function play(file) {
  const player = $("player"), mine = shown;
  let again = true;
  $("mute").hidden = true;
  player.onerror = async () => {
    if (!player.getAttribute("src") || mine !== shown) return;
    try {
      if (!again) throw new Error();
      again = false;
      const decoded = await (await post("/page/wav", { name: file.name }, file)).blob(); // what the browser cannot play
      if (mine === shown) player.src = sound = URL.createObjectURL(decoded);
    } catch {
      $("mute").hidden = false;
    }
  };
}

// --- What is shown of a file --------------------------------------------------------------

function update() {
  if (!shown) return;
  events = current.corrections.applied(shown, settings.values);
  if (chosenEvent && !events.some((event) => event.id === chosenEvent)) chosenEvent = null;
  chooseRows();
  const selected = events.find((event) => event.id === chosenEvent) ?? null;
  timeline.update({ rows: rows.slice(0, count), top: scale(), events, selected });
  const inSearch = events.filter((event) => matches(event.label));
  list.show(inSearch, selected, shown, events.length - inSearch.length);
  settings.show(chosenClass);
  $("undo").disabled = !current.corrections.count;
  showLabels();
  tick(timeline.time);
}

const matches = (label) => label.toLowerCase().includes($("search").value.trim().toLowerCase());

function chooseRows() {
  const { labels, peaks, scores } = shown;
  const by = {
    peak: (a, b) => peaks[b] - peaks[a],
    score: (a, b) => scores[b] - scores[a],
    name: (a, b) => labels[a].localeCompare(labels[b]),
  }[$("order").value];
  rows = labels.map((_, i) => i).filter((i) => matches(labels[i])).sort(by);
}

function scale() {
  const top = Math.max(...rows.slice(0, count).map((i) => shown.peaks[i]), 0);
  return [0.1, 0.2, 0.5].find((limit) => top <= limit) ?? 1;
}

function showLabels() {
  const inSight = rows.slice(0, count).map((i) => shown.labels[i]), now = [...$("labels").children].map((x) => x.dataset.label);
  if (inSight.join("\n") !== now.join("\n")) {
    $("labels").replaceChildren(...inSight.map((label) => {
      const item = element("li"), button = element("button", "", { type: "button", title: label });
      item.dataset.label = label;
      button.append(element("span", label));
      button.addEventListener("click", () => { chosenClass = label; update(); });
      item.append(button, element("b", "", { title: "Score at the cursor" }));
      return item;
    }));
  }
  for (const item of $("labels").children) item.firstChild.setAttribute("aria-pressed", item.dataset.label === chosenClass);
  $("more").hidden = rows.length <= count;
  $("legend").textContent = rows.length ? `Full colour: a score of ${scale()}. Framed: events.` : "No class has such a name.";
}

function tick(seconds) {
  if (!shown) return;
  const frame = frameAt(shown, seconds), { values } = settings;
  $("clock").textContent = `${clock(seconds)} / ${clock(shown.seconds)}`;
  $("at").textContent = `score at ${clock(seconds)}`;
  [...$("labels").children].forEach((item, k) => {
    const score = scoreOf(shown, frame, rows[k]);
    item.lastChild.textContent = score.toFixed(2);
    item.classList.toggle("on", score >= thresholdOf(values, item.dataset.label));
  });
  list.now(seconds);
}

// --- Events -------------------------------------------------------------------------------

function choose(event) {
  [chosenEvent, chosenClass] = [event.id, event.label];
  timeline.seek(event.onset);
  timeline.reveal(event.onset);
  update();
}

function change(event, next) {
  chosenEvent = next ? current.corrections.change(shown, event, next) : (current.corrections.remove(event), null);
  update();
}

const selected = () => events.find((event) => event.id === chosenEvent);

function add() {
  const onset = Math.min(timeline.time, Math.max(shown.seconds - 0.1, 0)), offset = Math.min(onset + 1, shown.seconds);
  chosenEvent = current.corrections.add(shown, { label: chosenClass, onset, offset });
  update();
  $("event-label").focus();
}

function undo() {
  current.corrections.undo();
  update();
}

function step(by) {
  const inSight = events.filter((event) => matches(event.label)), at = inSight.findIndex((event) => event.id === chosenEvent);
  const near = inSight.findIndex((event) => event.onset >= timeline.time);
  const next = at >= 0 ? at + by : by > 0 ? near : (near < 0 ? inSight.length : near) - 1;
  if (inSight[next]) choose(inSight[next]);
}

function loop() {
  timeline.loop = !timeline.loop;
  $("loop").setAttribute("aria-pressed", timeline.loop);
}

// Name and events of a file to save, also those that are searched away. Its corrections are then kept.
function saved(item) {
  item.kept = item.corrections.count;
  return { ...item, events: item.corrections.applied(item.result, settings.values) };
}

// --- What is pressed ----------------------------------------------------------------------

for (const id of ["file", "folder"]) {
  $(id).addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // the same file can be chosen again
  });
}
$("record").addEventListener("click", () => record((file) => take([file])));
if (!navigator.mediaDevices || !window.MediaRecorder) {
  Object.assign($("record"), { disabled: true, title: "This browser gives no microphone to this address." });
}
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
addEventListener("drop", async (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  take(await dropped(event.dataTransfer));
});

const pressed = {
  "cancel-all": () => queue.cancelAll(),
  "all-csv": () => {
    save(new Blob([csvHeader + queue.done.map((item) => csvRows(saved(item))).join("")], { type: "text/csv" }), "events.csv");
  },
  again: () => queue.again(current),
  play: () => timeline.toggle(),
  loop,
  in: () => timeline.zoomBy(1.6),
  out: () => timeline.zoomBy(1 / 1.6),
  fit: () => timeline.zoomTo(0),
  more: () => { count += ROWS; update(); },
  add,
  undo,
  "event-play": () => timeline.playEvent(selected()),
  thresholds: () => save(new Blob([thresholds(about.labels, settings.values)], { type: "text/csv" }), "thresholds.csv"),
};
for (const [id, work] of Object.entries(pressed)) $(id).addEventListener("click", work);
for (const button of $("saves").querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => saveAs(button.dataset.format, saved(current)));
}
addEventListener("beforeunload", (event) => { // corrections that are nowhere but here
  if (queue.items.some((item) => item.corrections.count > 0 && item.corrections.count !== item.kept)) event.preventDefault();
});
$("zoom").addEventListener("input", () => timeline.zoomTo(Number($("zoom").value)));
$("search").addEventListener("input", update);
$("order").addEventListener("change", update);
for (const name of ["play", "pause", "ended"]) {
  $("player").addEventListener(name, () => { $("play").textContent = $("player").paused ? "Play" : "Pause"; });
}

const keys = {
  " ": () => timeline.toggle(),
  ArrowLeft: (event) => timeline.seek(timeline.time - stride(event)),
  ArrowRight: (event) => timeline.seek(timeline.time + stride(event)),
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
  Enter: () => selected() && timeline.playEvent(selected()),
  "+": () => timeline.zoomBy(1.6),
  "=": () => timeline.zoomBy(1.6),
  "-": () => timeline.zoomBy(1 / 1.6),
  0: () => timeline.zoomTo(0),
  l: loop,
  "[": () => selected() && change(selected(), { onset: timeline.time }),
  "]": () => selected() && change(selected(), { offset: timeline.time }),
  Delete: () => selected() && change(selected(), null),
  z: undo,
};

function stride({ shiftKey }) {
  const [from, to] = timeline.range();
  return shiftKey ? (to - from) / 4 : Math.max(0.32, (to - from) / 200);
}

$("wave").addEventListener("keydown", (event) => {
  const work = keys[event.key] ?? keys[event.key.toLowerCase()];
  if (!shown || !work || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  work(event);
  timeline.reveal(timeline.time);
});
