// What makes an event: thresholds, of all classes and of single ones, and a median filter.
import { thresholdOf } from "./events.js";
import { numberBox } from "./fields.js";
import { $, about, element } from "./util.js";

const LISTED = 12; // classes with thresholds of their own
const GIVEN = {
  of: about.tuned ? "the model’s" : "the server’s", thresholds: about.settings.thresholds, rest: about.settings.threshold,
};
const differ = Object.keys(GIVEN.thresholds).length > 0;

export class Settings {
  #label = null; // the chosen class
  #each = differ ? GIVEN : null; // thresholds of each class that are in use; null: one for all of them
  #mine = {}; // of single classes, as they were set here

  // changed(): a value has changed.
  constructor(changed) {
    const { threshold, thresholds, median_filter } = about.settings;
    this.values = { threshold, thresholds, median_filter };
    this.changed = changed;
    this.#boxes();
    $("median").addEventListener("change", () => this.#set(() => { this.values.median_filter = Number($("median").value); }));
    $("back").addEventListener("click", () => {
      this.#set(() => this.#use(GIVEN, GIVEN.rest));
      $("threshold-range").focus(); // the button is gone
    });
    if (![...$("median").options].some((option) => Number(option.value) === median_filter)) {
      $("median").append(element("option", `${median_filter} frames`, { value: median_filter }));
    }
    this.#fields();
  }

  #boxes() {
    const begin = () => this.#undo(), restore = () => this.#fields();
    numberBox("threshold", {
      name: "threshold",
      stays: () => (this.#each ? `${this.#each.of} stay` : `${short(this.values.threshold)} stays`),
      take: (value) => this.#set(() => this.#use(null, value)),
      begin, restore,
    });
    numberBox("own", {
      name: "threshold",
      stays: () => `${short(thresholdOf(this.values, this.#label))} stays`,
      take: (value) => this.#set(() => this.#own({ ...this.#mine, [this.#label]: value })),
      begin, restore,
    });
  }

  // Brings back what is set now.
  #undo() {
    const [each, mine, values] = [this.#each, this.#mine, { ...this.values }];
    return () => this.#set(() => {
      [this.#each, this.#mine] = [each, mine];
      Object.assign(this.values, values);
    });
  }

  #set(work) {
    work();
    this.#fields();
    this.changed();
  }

  show(result, label) {
    this.#label = label;
    this.#fields();
  }

  #fields() {
    const { threshold, thresholds, median_filter } = this.values, label = this.#label;
    this.#common(threshold);
    $("median").value = median_filter;
    for (const id of ["own", "own-range"]) $(id).disabled = !label;
    if (label) {
      $("own-title").textContent = `Threshold of “${label}”`;
      fill("own", thresholdOf(this.values, label));
    }
    const mine = Object.keys(this.#mine);
    const without = (one) => Object.fromEntries(Object.entries(this.#mine).filter(([name]) => name !== one));
    const chips = mine.slice(0, LISTED).map((one) => this.#chip(`${one} ${short(thresholds[one])}`, () => this.#own(without(one))));
    if (mine.length > 1) chips.push(this.#chip(`all ${mine.length}`, () => this.#own({})));
    $("owns").replaceChildren(...(chips.length ? ["Set by you: ", ...chips] : []));
  }

  // While each class has its own threshold, the control for all of them has no value to show.
  #common(threshold) {
    const each = this.#each;
    fill("threshold", each ? null : threshold, threshold);
    $("threshold").placeholder = each ? "each" : "";
    $("threshold-range").classList.toggle("idle", Boolean(each));
    const told = each ? `Each class its own (${each.of}). Moving this sets one for all.` : "";
    if (each) $("threshold-range").setAttribute("aria-valuetext", told); else $("threshold-range").removeAttribute("aria-valuetext");
    const isReplaced = differ && !each;
    $("threshold-note").textContent = isReplaced ? `Takes the place of each class’s own (${GIVEN.of}).` : told;
    $("back").hidden = !isReplaced;
    $("back").textContent = isReplaced ? `Back to ${GIVEN.of}` : "";
  }

  #use(each, threshold) {
    this.#each = each;
    this.values.threshold = threshold;
    this.#own(this.#mine);
  }

  #own(mine) {
    this.#mine = mine;
    this.values.thresholds = { ...this.#each?.thresholds, ...mine };
  }

  #chip(text, work) {
    const chip = element("button", `${text} ×`, { type: "button", className: "small" });
    chip.setAttribute("aria-label", `Drop ${text}`);
    chip.addEventListener("click", () => this.#set(work));
    return chip;
  }
}

const short = (value) => String(Number(value.toFixed(4)));

// A number field and its slider, but not the one that is being typed into. `place`: of a slider without a value.
function fill(id, value, place = 0) {
  const text = value === null ? "" : short(value);
  for (const one of [id, `${id}-range`]) {
    if (document.activeElement !== $(one) || $(one).type === "range") $(one).value = text === "" && one !== id ? place : text;
  }
}
