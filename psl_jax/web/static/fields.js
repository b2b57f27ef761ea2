// Number boxes with a slider, which say what is wrong in what is typed.
import { $ } from "./util.js";

const PAUSE = 900; // ms after which an unfinished number is looked at: "0" may become "0.5"

// name: as it is called in sentences. stays(): what is in effect, in words. most(): the largest value;
// bound(value): it in words. optional: may be empty. take(value or null): a value was set. restore(): the box is left.
export function numberBox(id, { name, stays, most = () => 1, bound = String, optional = false, take, restore }) {
  const field = $(id), slider = $(`${id}-range`), wrong = $(`${id}-wrong`);
  let timer = 0, touched = false;
  const problem = () => {
    const { value, validity } = field, expected = `expected more than 0 and at most ${bound(most())}`;
    if (validity.badInput) return `${name} is no number, ${expected}`;
    if (value === "") return optional ? "" : `${name} is empty, ${expected}`;
    return Number(value) > 0 && Number(value) <= most() ? "" : `${name} is ${Number(value)}, ${expected}`;
  };
  const tell = (text) => {
    wrong.textContent = text && `${text}; ${stays()} in effect.`;
    wrong.hidden = !text;
    if (text) field.setAttribute("aria-invalid", "true"); else field.removeAttribute("aria-invalid");
  };
  const begun = () => !field.validity.badInput && Number(field.value) === 0;
  field.addEventListener("input", () => {
    const found = problem();
    clearTimeout(timer);
    touched = true;
    if (!found) {
      tell("");
      take(field.value === "" ? null : Number(field.value));
    } else if (begun()) timer = setTimeout(() => tell(problem()), PAUSE);
    else tell(found);
  });
  field.addEventListener("change", () => touched && tell(problem()));
  field.addEventListener("blur", () => { // the sentence stays to be read, the value is the old one
    clearTimeout(timer);
    if (touched && problem()) tell(problem());
    field.removeAttribute("aria-invalid");
    touched = false;
    restore();
  });
  slider.addEventListener("input", () => {
    tell("");
    take(optional && Number(slider.value) === 0 ? null : Math.min(Number(slider.value), most()));
  });
}
