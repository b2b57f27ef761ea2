// Files to save: events in the formats of the command line, and thresholds.
import { thresholdOf } from "./events.js";
import { stem } from "./util.js";

const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const line = (values) => values.map((value) => quoted(String(value))).join(",") + "\n";
const plain = (label) => label.split(/\s+/).filter(Boolean).join(" ");

export const formats = {
  csv: { ending: ".csv", kind: "text/csv", render: (file) => csvHeader + csvRows(file) },
  audacity: { ending: ".txt", kind: "text/plain", render: audacity },
  raven: { ending: ".Table.1.selections.txt", kind: "text/plain", render: raven },
};

export const csvHeader = line(["file", "onset", "offset", "label", "score"]);

export function csvRows({ name, events }) {
  return events.map((e) => line([name, e.onset.toFixed(2), e.offset.toFixed(2), e.label, e.score.toFixed(4)])).join("");
}

function audacity({ events }) {
  return events.map((e) => `${e.onset.toFixed(6)}\t${e.offset.toFixed(6)}\t${plain(e.label)} ${e.score.toFixed(2)}\n`).join("");
}

function raven({ result, events }) {
  const columns = ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)",
                   "Annotation", "Score"];
  const rows = events.map((e, i) => [i + 1, "Spectrogram 1", 1, e.onset.toFixed(6), e.offset.toFixed(6), 0, result.high_hertz,
                                     plain(e.label), e.score.toFixed(4)]);
  return [columns, ...rows].map((row) => row.join("\t") + "\n").join("");
}

// Thresholds of classes as psl-jax tag --thresholds reads them: class,threshold.
export function thresholds(labels, values) {
  const rows = labels.map((label) => line([label, Number(thresholdOf(values, label).toFixed(6))]));
  return line(["class", "threshold"]) + rows.join("");
}

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

// A file: {name, result, events}.
export function saveAs(format, file) {
  const { ending, kind, render } = formats[format];
  save(new Blob([render(file)], { type: kind }), stem(file.name) + ending);
}
