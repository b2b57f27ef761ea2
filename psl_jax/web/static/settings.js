// What makes an event: thresholds, of all classes and of single ones, and a median filter.
import { thresholdOf } from "./events.js";
import { $, about, element, tell } from "./util.js";

const GIVEN = about.settings;
const WHOSE = about.tuned ? "the model’s" : "the server’s";

export class Settings {
  #label = ""; // the chosen class
  #common = null; // the threshold of all classes; null: as given, where each class may have its own
  #own = {}; // of single classes, as they were set here
  #median = GIVEN.median_filter;

  // changed(): a value has changed.
  constructor(changed) {
    this.changed = changed;
    this.#listen("threshold", (value) => { this.#common = value; });
    this.#listen("own", (value) => { this.#own[this.#label] = value; });
    $("median").addEventListener("change", () => this.#set(() => { this.#median = Number($("median").value); }));
    $("back").addEventListener("click", () => {
      this.#set(() => { [this.#common, this.#own] = [null, {}]; });
      $("threshold-range").focus(); // the button is gone
    });
    if (![...$("median").options].some((option) => Number(option.value) === this.#median)) {
      $("median").append(element("option", `${this.#median} frames`, { value: this.#median }));
    }
    this.#show();
  }

  get values() {
    const thresholds = { ...(this.#common === null ? GIVEN.thresholds : {}), ...this.#own };
    return { threshold: this.#common ?? GIVEN.threshold, thresholds, median_filter: this.#median };
  }

  show(label) {
    this.#label = label;
    this.#show();
  }

  // A number box and its slider; take(value): a value was set.
  #listen(id, take) {
    const set = ({ target: { value } }) => {
      const isThreshold = Number(value) > 0 && Number(value) <= 1;
      tell(`${id}-wrong`, isThreshold ? "" : "Expected more than 0 and at most 1; the threshold stays as it was.");
      if (isThreshold) this.#set(() => take(Number(value))); else this.#show();
    };
    $(id).addEventListener("change", set);
    $(`${id}-range`).addEventListener("input", set);
  }

  #set(work) {
    work();
    this.#show();
    this.changed();
  }

  #show() {
    const { threshold, median_filter } = this.values, own = Object.entries(this.#own);
    // While each class has its own threshold, there is none of all of them to show.
    const isEach = this.#common === null && Object.keys(GIVEN.thresholds).length > 0;
    fill("threshold", threshold);
    if (isEach) $("threshold").value = "";
    $("threshold-range").classList.toggle("idle", isEach);
    $("threshold-note").textContent = isEach ? `Each class its own (${WHOSE}). Moving this sets one for all.` : "";
    $("back").hidden = this.#common === null && !own.length;
    $("back").textContent = `Back to ${WHOSE}`;
    $("median").value = median_filter;
    for (const id of ["own", "own-range"]) $(id).disabled = !this.#label;
    $("own-title").textContent = this.#label ? `Threshold of “${this.#label}”` : "Choose a class for a threshold of its own";
    if (this.#label) fill("own", thresholdOf(this.values, this.#label));
    $("owns").textContent = own.length ? `Set by you: ${own.map(([label, value]) => `${label} ${short(value)}`).join(", ")}` : "";
  }
}

const short = (value) => String(Number(value.toFixed(4)));

function fill(id, value) {
  for (const field of [id, `${id}-range`]) $(field).value = short(value);
}
