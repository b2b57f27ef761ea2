// What makes an event: thresholds, of all classes and of single ones, hysteresis, median filter.
import { thresholdOf } from "./events.js";
import { $, about, element } from "./util.js";

const LISTED = 12; // classes with thresholds of their own

export class Settings {
  #label = null; // the chosen class

  // changed(): a value has changed.
  constructor(changed) {
    const { threshold, thresholds, low_threshold, median_filter } = about.settings;
    this.values = { threshold, thresholds: { ...thresholds }, low_threshold, median_filter };
    const set = (work) => (event) => {
      const value = Number(event.target.value);
      if (!event.target.validity.valid || (event.target.value === "" && !event.target.id.startsWith("low"))) return;
      work(value, event.target.value === "");
      this.#fields();
      changed();
    };
    const pair = (id, work) => [id, `${id}-range`].forEach((one) => $(one).addEventListener("input", set(work)));
    pair("threshold", (value) => { this.values.threshold = value; });
    pair("own", (value) => { this.values.thresholds[this.#label] = value; });
    pair("low", (value, none) => { this.values.low_threshold = none || !value ? null : value; });
    $("median").addEventListener("change", set((value) => { this.values.median_filter = value; }));
    this.changed = changed;
    if (![...$("median").options].some((option) => Number(option.value) === median_filter)) {
      $("median").append(element("option", `${median_filter} frames`, { value: median_filter }));
    }
    this.#fields();
  }

  get hop() {
    return $("hop") ? $("hop").value : null;
  }

  show(result, label) {
    this.#label = label;
    this.#fields();
  }

  #fields() {
    const { threshold, thresholds, low_threshold, median_filter } = this.values, label = this.#label;
    fill("threshold", threshold);
    fill("low", low_threshold);
    $("median").value = median_filter;
    for (const id of ["own", "own-range"]) $(id).disabled = !label;
    if (label) {
      $("own-title").textContent = `Threshold of “${label}”`;
      fill("own", thresholdOf(this.values, label));
    }
    const own = Object.keys(thresholds);
    const chips = own.slice(0, LISTED).map((one) => this.#chip(`${one} ${thresholds[one]}`, `Drop the own threshold of ${one}`, [one]));
    const all = own.length > 1 ? [this.#chip(`all ${own.length}`, "Drop all own thresholds", own)] : [];
    $("owns").replaceChildren(...(own.length ? ["Of their own: ", ...chips, ...all] : []));
  }

  #chip(text, title, labels) {
    const chip = element("button", `${text} ×`, { type: "button", className: "small", title });
    chip.addEventListener("click", () => {
      for (const label of labels) delete this.values.thresholds[label];
      this.#fields();
      this.changed();
    });
    return chip;
  }
}

// A number field and its slider, but not the one that is being typed into.
function fill(id, value) {
  const text = value === null ? "" : String(Number(value.toFixed(4)));
  for (const one of [id, `${id}-range`]) {
    if (document.activeElement !== $(one) || $(one).type === "range") $(one).value = text === "" && one !== id ? 0 : text;
  }
}
