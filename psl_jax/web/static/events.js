// Events from scores over time, as psl_jax/tagging/events.py finds them, and their correction.

// The server's answer: `scores` etc. of the file and, behind its text, arrays.
export function unpack(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  const result = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const rest = result.mel.columns * result.mel.bands + 2 * result.wave.columns;
  const values = (buffer.byteLength - 4 - size - rest) / 2, classes = result.labels.length;
  let at = 4 + size;
  result.frames = values / classes;
  result.data = new Uint16Array(buffer, at, values); // [frames, classes]
  at += 2 * values;
  result.mel.data = new Uint8Array(buffer, at, result.mel.columns * result.mel.bands); // [columns, bands]
  at += result.mel.data.length;
  const wave = [0, 1].map((k) => new Uint8Array(buffer, at + k * result.wave.columns, result.wave.columns));
  result.wave.peaks = wave.map((side) => Float32Array.from(side, (value) => value / 255));
  return result;
}

export const scoreOf = (result, frame, label) => result.data[frame * result.labels.length + label] / 65535;

export function frameAt(result, seconds) {
  return Math.min(Math.max(Math.round(seconds / result.frame), 0), result.frames - 1);
}

export function thresholdOf(settings, label) {
  return settings.thresholds[label] ?? settings.threshold;
}

// The scores of a class over time, median-filtered over `size` frames.
function column(result, label, size) {
  const classes = result.labels.length, frames = result.frames, half = (size - 1) / 2;
  const plain = Uint16Array.from({ length: frames }, (_, i) => result.data[i * classes + label]);
  if (!half) return plain;
  const window = new Uint16Array(size), filtered = new Uint16Array(frames);
  for (let i = 0; i < frames; i++) {
    for (let k = -half; k <= half; k++) window[k + half] = plain[Math.min(Math.max(i + k, 0), frames - 1)];
    filtered[i] = window.sort()[half];
  }
  return filtered;
}

// [{label, onset, offset, score}] by onset.
export function findEvents(result, settings) {
  const found = [], { frame, frames, seconds } = result;
  result.labels.forEach((label, number) => {
    const threshold = thresholdOf(settings, label);
    if (result.peaks[number] < threshold - 1e-3) return; // peaks are rounded
    const scores = column(result, number, settings.median_filter);
    let start = -1, peak = 0;
    for (let i = 0; i <= frames; i++) {
      const score = i < frames ? scores[i] / 65535 : -1;
      if (score >= threshold) {
        if (start < 0) [start, peak] = [i, 0];
        peak = Math.max(peak, score);
      } else if (start >= 0) {
        const onset = Math.max((start - 0.5) * frame, 0);
        const offset = i === frames ? seconds : Math.min((i - 0.5) * frame, seconds);
        found.push({ label, onset, offset, score: peak });
        start = -1;
      }
    }
  });
  return found.sort(byOnset);
}

export function byOnset(a, b) {
  return a.onset - b.onset || a.offset - b.offset || (a.label < b.label ? -1 : a.label > b.label ? 1 : 0);
}

function highest(result, { label, onset, offset }) {
  const number = result.labels.indexOf(label);
  let best = 0;
  for (let i = frameAt(result, onset); i <= frameAt(result, offset - 1e-6); i++) {
    best = Math.max(best, scoreOf(result, i, number));
  }
  return best;
}

// What a listener changed in the events of a file. It outlives new thresholds: a found event that
// overlaps one that was corrected or deleted stays away.
export class Corrections {
  #list = [];
  #number = 0;

  // store([{onset, offset, label, decision}]): keeps what a change says, as lines of the server's table.
  constructor(store = () => {}) {
    this.store = store;
  }

  get count() {
    return this.#list.length;
  }

  // The events of a file, found ones and corrected ones, each with an `id`.
  applied(result, settings) {
    const sources = this.#list.map((one) => one.source).filter(Boolean);
    const hidden = (event) => sources.some((source) => source.label === event.label &&
      Math.min(source.offset, event.offset) - Math.max(source.onset, event.onset) >
        Math.min(source.offset - source.onset, event.offset - event.onset) / 2);
    const found = findEvents(result, settings).filter((event) => !hidden(event))
      .map((event) => ({ ...event, id: `${event.label} ${event.onset.toFixed(2)}` }));
    const own = this.#list.filter((one) => one.event).map((one) => ({ ...one.event, corrected: true }));
    return [...found, ...own].sort(byOnset);
  }

  change(result, event, change) {
    const { onset, offset, label } = { ...event, ...change };
    const next = { label, onset: Math.max(0, Math.min(onset, offset)), offset: Math.min(result.seconds, Math.max(onset, offset)) };
    next.offset = Math.max(next.offset, Math.min(next.onset + 0.01, result.seconds));
    next.score = highest(result, next);
    return this.#put(event, next);
  }

  add(result, event) {
    return this.#put(null, { ...event, score: highest(result, event) });
  }

  remove(event) {
    this.#put(event, null);
  }

  undo() {
    const last = this.#list.pop();
    if (last?.before) this.#list.push(last.before);
    if (last) this.store([...takenBack(last), ...decisions(last.before)]);
  }

  #put(old, event) {
    const at = this.#list.findIndex((one) => one.event && one.event.id === old?.id);
    const before = at >= 0 ? this.#list.splice(at, 1)[0] : null;
    const source = before ? before.source : old && { label: old.label, onset: old.onset, offset: old.offset };
    const id = before?.event.id ?? `own ${(this.#number += 1)}`;
    const own = event && { label: event.label, onset: event.onset, offset: event.offset, score: event.score, id };
    this.#list.push({ source, event: own, before });
    this.store([...takenBack(before), ...decisions(this.#list.at(-1))]);
    return own?.id;
  }
}

// What a corrected event says: yes to it, and no to what is left of the one that was found.
function decisions(one) {
  if (!one) return [];
  const { source, event } = one, said = event ? [{ ...span(event), decision: "yes" }] : [];
  if (!source) return said;
  const same = event?.label === source.label;
  const left = same ? [[source.onset, Math.min(source.offset, event.onset)], [Math.max(source.onset, event.offset), source.offset]]
    : [[source.onset, source.offset]];
  return [...said, ...left.filter(([onset, offset]) => offset - onset >= 0.1)
    .map(([onset, offset]) => ({ label: source.label, onset, offset, decision: "no" }))];
}

const span = ({ label, onset, offset }) => ({ label, onset, offset });

const takenBack = (one) => decisions(one).map((each) => ({ ...each, decision: "undo" }));
