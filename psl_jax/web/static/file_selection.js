// What is chosen or dropped: of folders the audio files, by their names, in the order of their paths.
import { about } from "./util.js";

const path = (file) => file.path || file.webkitRelativePath || file.name;

const inFolder = (file) => path(file) !== file.name;

// {files, note}: a file that was chosen itself is taken whatever its name, as the command does. But macOS keeps what
// some disks cannot beside each file, as ._NAME, which has no sound.
export function chosen(files) {
  const shown = Array.from(files).filter((file) => !file.name.startsWith(inFolder(file) ? "." : "._"));
  const passed = shown.filter((file) => inFolder(file) && !about.suffixes.includes(suffix(file)));
  const taken = shown.filter((file) => !passed.includes(file)).sort(byPath);
  const count = passed.length === 1 ? "1 file" : `${passed.length} files`;
  const note = passed.length ? `Passed over ${count} whose names are not those of audio, such as ${path(passed[0])}.` : "";
  return { files: taken, note: taken.length ? note : `There are no audio files in what was chosen. ${note}` };
}

function suffix({ name }) {
  return name.includes(".") ? name.slice(name.lastIndexOf(".")).toLowerCase() : "";
}

// Folder by folder.
function byPath(a, b) {
  const [left, right] = [a, b].map((file) => path(file).split("/"));
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    if (left[i] !== right[i]) return left[i] < right[i] ? -1 : 1;
  }
  return left.length - right.length;
}

// The files of what was dropped, each with its path.
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  return entries.length ? (await Promise.all(entries.map(filesOf))).flat() : transfer.files;
}

async function filesOf(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [Object.assign(file, { path: entry.fullPath.slice(1) })];
  }
  const reader = entry.createReader(), found = [];
  for (;;) { // a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return (await Promise.all(found.map(filesOf))).flat();
    found.push(...some);
  }
}
