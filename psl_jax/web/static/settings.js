// What makes an event: thresholds, of all classes and of single ones, hysteresis, median filter.
import { thresholdOf } from "./events.js";
import { $, about, element } from "./util.js";

const LISTED = 12; // classes with thresholds of their own

export class Settings {
  #label = null; // the chosen class
  #model = about.settings.thresholds; // of single classes, as the server has them
  #mine = {}; // and as they were set here
  #asModel = true;

  // changed(): a value has changed.
  constructor(changed) {
    const { threshold, thresholds, low_threshold, median_filter } = about.settings;
    this.values = { threshold, thresholds, low_threshold, median_filter };
    const set = (work) => (event) => {
      const value = Number(event.target.value);
      if (!event.target.validity.valid || (event.target.value === "" && !event.target.id.startsWith("low"))) return;
      work(value, event.target.value === "");
      this.#fields();
      changed();
    };
    const pair = (id, work) => [id, `${id}-range`].forEach((one) => $(one).addEventListener("input", set(work)));
    pair("threshold", (value) => { // whoever sets one for all classes means all of them
      this.values.threshold = value;
      this.#own(this.#mine, false);
    });
    pair("own", (value) => this.#own({ ...this.#mine, [this.#label]: value }));
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
    const mine = Object.keys(this.#mine), count = Object.keys(this.#model).length;
    const without = (one) => Object.fromEntries(Object.entries(this.#mine).filter(([name]) => name !== one));
    const chips = mine.slice(0, LISTED).map((one) => this.#chip(`${one} ${thresholds[one]} ×`, () => this.#own(without(one))));
    if (mine.length > 1) chips.push(this.#chip(`all ${mine.length} ×`, () => this.#own({})));
    if (count && this.#asModel) chips.push(this.#chip(`the model’s for ${count} ×`, () => this.#own(this.#mine, false)));
    if (count && !this.#asModel) chips.push(this.#chip("Use the model’s", () => this.#own(this.#mine, true)));
    $("owns").replaceChildren(...(chips.length ? ["Of their own: ", ...chips] : []));
  }

  #own(mine, asModel = this.#asModel) {
    this.#mine = mine;
    this.#asModel = asModel;
    this.values.thresholds = { ...(asModel ? this.#model : {}), ...mine };
  }

  #chip(text, work) {
    const chip = element("button", text, { type: "button", className: "small" });
    chip.addEventListener("click", () => {
      work();
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
