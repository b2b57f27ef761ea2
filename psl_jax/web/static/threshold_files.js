// Thresholds of classes as a CSV file, class,threshold, which psl-jax tag --thresholds reads as well.
import { line } from "./downloads.js";
import { thresholdOf } from "./events.js";
import { post } from "./util.js";

export function written(labels, values) {
  const rows = labels.map((label) => line([label, Number(thresholdOf(values, label).toFixed(6))]));
  return line(["class", "threshold"]) + rows.join("");
}

// {class: threshold} of a file, as the command reads it. Errors say the line, and what was expected.
export async function read(file) {
  return (await post("/page/thresholds", { name: file.name }, file)).json();
}
