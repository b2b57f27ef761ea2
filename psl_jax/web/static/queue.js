// The files: sent one after the other, with progress, Cancel, and errors in words.
import { unpack, Corrections } from "./events.js";
import { $, about, ask, clock, element, post, say } from "./util.js";

const LOOK_EVERY = 400; // ms: how far the server is

export class Queue {
  #active = null;
  #stored = Promise.resolve();

  // changed(item): what is known of a file has changed.
  constructor(changed) {
    this.items = [];
    this.changed = changed;
  }

  add(files) {
    const added = Array.from(files, (file) => ({
      name: file.path || file.webkitRelativePath || file.name, file, state: "waiting", progress: null,
    }));
    for (const item of added) item.corrections = new Corrections((lines) => this.#store(item, lines));
    this.items.push(...added);
    added.forEach((item) => this.#show(item));
    this.#next();
    return added;
  }

  // Once more, from the start.
  again(item) {
    item.request?.abort();
    Object.assign(item, { state: "waiting", error: "" });
    this.#told(item);
    this.#next();
  }

  cancel(item) {
    if (!["waiting", "tagging"].includes(item.state)) return;
    item.state = "cancelled";
    item.request?.abort();
    this.#told(item);
  }

  cancelAll() {
    this.items.forEach((item) => this.cancel(item));
  }

  remove(item) {
    this.cancel(item);
    item.row.remove();
    this.items = this.items.filter((one) => one !== item);
    this.changed(item);
  }

  // Sends what was corrected to the server's table, line after line.
  #store(item, lines) {
    if (!about.corrections) return;
    const { count } = item.corrections;
    for (const line of lines) this.#stored = this.#stored.then(() => post("/page/decide", { filename: item.name, ...line }));
    this.#stored = this.#stored.then(() => { if (!item.unstored) item.kept = count; }).catch((error) => {
      item.unstored = true;
      say(error.message, "error");
    });
  }

  get done() {
    return this.items.filter((item) => item.state === "done");
  }

  async #next() {
    const item = this.items.find((one) => one.state === "waiting");
    if (this.#active || !item) return;
    this.#active = item;
    item.request = new AbortController();
    item.state = "tagging";
    this.#told(item);
    try {
      item.result = await this.#tag(item);
      item.state = "done";
    } catch (error) {
      if (error.name !== "AbortError") Object.assign(item, { state: "failed", error: error.message });
    }
    this.#active = null;
    this.#told(item);
    this.#next();
  }

  async #tag(item) {
    const { file, request: { signal } } = item;
    if (file.size > about.megabytes * 1e6) {
      const size = (file.size / 1e6).toFixed(file.size < 1e7 ? 1 : 0);
      throw new Error(`${file.name} is too large: ${size} MB, and files of up to ${about.megabytes} MB are tagged here. ` +
                      "For others use psl-jax tag.");
    }
    const ticket = Array.from(crypto.getRandomValues(new Uint32Array(4)), (x) => x.toString(36)).join("");
    item.progress = null;
    const timer = setInterval(async () => {
      try {
        const found = await (await ask(`/page/progress?ticket=${ticket}`)).json();
        if (found.state !== "unknown" && item.state === "tagging") item.progress = found;
        this.#told(item);
      } catch { /* the request itself tells of it */ }
    }, LOOK_EVERY);
    try { // meanwhile the server is asked how far it is
      const answer = await post("/page/tag", { name: file.name, ticket }, file, signal);
      return unpack(await answer.arrayBuffer());
    } finally {
      clearInterval(timer);
    }
  }

  // --- The list -------------------------------------------------------------------------

  #show(item) {
    const row = (item.row = element("li"));
    const open = element("button", "", { type: "button", className: "file" });
    open.append(element("span", item.name, { className: "title" }), element("span", "", { className: "about" }));
    open.addEventListener("click", () => this.changed(item, true));
    const bar = element("progress", "", { max: 1, hidden: true });
    bar.setAttribute("aria-label", `Progress of ${item.name}`);
    const stop = element("button", "Cancel", { type: "button", className: "small" });
    stop.addEventListener("click", () => (["waiting", "tagging"].includes(item.state) ? this.cancel(item) : this.remove(item)));
    row.append(open, bar, stop);
    $("files").append(row);
    this.#told(item);
  }

  #told(item) {
    const { row, state } = item, [open, bar, stop] = row.children, busy = ["waiting", "tagging"].includes(state);
    row.className = state;
    open.querySelector(".about").textContent = summary(item);
    const { seconds, length } = item.progress ?? {};
    const share = state === "tagging" && length && seconds / length; // a header may not tell the length
    bar.hidden = state !== "tagging";
    if (share > 0) bar.value = Math.min(share, 1); else bar.removeAttribute("value");
    stop.textContent = busy ? "Cancel" : "Remove";
    stop.setAttribute("aria-label", `${stop.textContent} ${item.name}`);
    this.changed(item);
  }
}

export function summary(item) {
  const { state, progress, result } = item;
  if (state === "waiting") return "waits";
  if (state === "failed") return item.error;
  if (state === "cancelled") return "cancelled";
  if (state === "done") return best(result, 3) || "no class has a score of 0.1";
  if (progress?.ahead) return `sent; ${progress.ahead} before it`;
  if (progress?.seconds) return `listened to ${clock(progress.seconds, 0)}${progress.length ? ` of ${clock(progress.length, 0)}` : ""}`;
  return "listening …";
}

// "dog 0.93, rain 0.41": the best tags of a file.
export function best(result, most) {
  return answer(result, most).map(([label, score]) => `${label} ${score.toFixed(2)}`).join(", ");
}

export function answer(result, most) {
  return result.labels.map((label, i) => [label, result.scores[i]]).sort((a, b) => b[1] - a[1])
    .filter(([, score], k) => score >= 0.1 || k === 0).slice(0, most);
}
