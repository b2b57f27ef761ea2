// Thresholds of classes as a CSV file, class,threshold, which psl-jax tag --thresholds reads as well.
import { line } from "./downloads.js";
import { thresholdOf } from "./events.js";

export function written(labels, values) {
  const rows = labels.map((label) => line([label, Number(thresholdOf(values, label).toFixed(6))]));
  return line(["class", "threshold"]) + rows.join("");
}

// {class: threshold} of a file's text: of those classes that there are. Errors say the line, and what was expected.
export function read(text, name, labels) {
  const [head, ...rows] = table(text.replace(/^\uFEFF/, "")), columns = head?.cells ?? [];
  const [at, value] = ["class", "threshold"].map((column) => columns.indexOf(column));
  if (at < 0 || value < 0) throw new Error(`${name}: expected a CSV file with the columns class and threshold`);
  const found = new Map(), known = new Set(labels);
  for (const { cells, number } of rows) {
    const given = cells[value] ?? "", threshold = given.trim() === "" ? NaN : Number(given);
    if (!(threshold > 0 && threshold <= 1)) {
      throw new Error(`${name}, line ${number}: the threshold of “${cells[at] ?? ""}” is “${given.slice(0, 40)}”, ` +
                      "expected more than 0 and at most 1");
    }
    found.set(cells[at], threshold);
  }
  const own = [...found].filter(([label]) => known.has(label));
  if (!own.length) throw new Error(`${name}: none of its ${found.size} classes is one of the model’s`);
  return { thresholds: Object.fromEntries(own), unknown: found.size - own.length };
}

// [{cells, number}] of CSV; number: the line where the row begins. Empty lines are passed over.
function table(text) {
  const rows = [];
  let cells = [], cell = "", quoted = false, number = 1, first = 1;
  const close = () => {
    cells.push(cell);
    if (cells.some((one) => one !== "")) rows.push({ cells, number: first });
    [cells, cell] = [[], ""];
  };
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === "\n") number += 1;
    if (quoted) {
      if (c !== '"') cell += c;
      else if (text[i + 1] === '"') cell += text[++i];
      else quoted = false;
    } else if (c === '"' && cell === "") quoted = true;
    else if (c === ",") { cells.push(cell); cell = ""; }
    else if (c === "\n") { close(); first = number; }
    else if (c !== "\r") cell += c;
  }
  close();
  return rows;
}
