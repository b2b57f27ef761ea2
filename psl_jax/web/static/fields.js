// Number boxes with a slider, which say what is wrong in what is typed.
import { $ } from "./util.js";

const PAUSE = 900; // ms after which an unfinished number is looked at: "0" may become "0.5"

const EXPECTED = "expected more than 0 and at most 1";

// name: as it is called in sentences. stays(): what is in effect, in words. take(value): a value was set; begin(): what
// undoes that, up to now. restore(): the box is left.
export function numberBox(id, { name, stays, take, begin, restore }) {
  const field = $(id), slider = $(`${id}-range`), wrong = $(`${id}-wrong`);
  let timer = 0, undo = null; // while it is typed into
  const problem = () => {
    const { value, validity } = field;
    if (validity.badInput) return `${name} is no number, ${EXPECTED}`;
    if (value === "") return `${name} is empty, ${EXPECTED}`;
    return Number(value) > 0 && Number(value) <= 1 ? "" : `${name} is ${Number(value)}, ${EXPECTED}`;
  };
  const tell = (text) => {
    if (text) undo?.(); // of "15", "1" was taken
    wrong.textContent = text && `${text}; ${stays()} in effect.`;
    wrong.hidden = !text;
    if (text) field.setAttribute("aria-invalid", "true"); else field.removeAttribute("aria-invalid");
  };
  const unfinished = () => !field.validity.badInput && Number(field.value) === 0;
  field.addEventListener("input", () => {
    const found = problem();
    clearTimeout(timer);
    undo ??= begin();
    if (!found) {
      tell("");
      take(Number(field.value));
    } else if (unfinished()) timer = setTimeout(() => tell(problem()), PAUSE);
    else tell(found);
  });
  field.addEventListener("change", () => {
    if (!undo) return;
    tell(problem());
    if (!problem()) undo = null;
  });
  field.addEventListener("blur", () => { // the sentence stays to be read, the value is the old one
    clearTimeout(timer);
    if (undo && problem()) tell(problem());
    field.removeAttribute("aria-invalid");
    undo = null;
    restore();
  });
  slider.addEventListener("input", () => {
    tell("");
    undo = null;
    take(Number(slider.value));
  });
}
