// Pictures of a stretch of time, [from, to] in seconds, as wide as the screen shows it.

const MAGMA = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100],
               [251, 135, 97], [254, 194, 135], [252, 253, 191]];
export const MEL_TICKS = [500, 1000, 2000, 4000, 8000]; // Hz

function mix(stops, x) {
  const at = Math.min(Math.max(x, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
  return stops[i].map((value, k) => Math.round(value + (stops[i + 1][k] - value) * (at - i)));
}

// 256 colours as the bytes of ImageData, in one number each.
function table(stops) {
  const bytes = new Uint8ClampedArray(1024);
  for (let i = 0; i < 256; i++) bytes.set([...mix(stops, i / 255), 255], 4 * i);
  return new Uint32Array(bytes.buffer);
}

const magma = table(MAGMA);

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

// Sizes a canvas to `width` x `height` and lets `work` draw in those units.
export function paint(canvas, width, height, work) {
  const ratio = window.devicePixelRatio || 1;
  const size = [Math.max(Math.round(width * ratio), 1), Math.max(Math.round(height * ratio), 1)];
  if (canvas.width !== size[0]) canvas.width = size[0];
  if (canvas.height !== size[1]) canvas.height = size[1];
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  work(context);
}

function stretch(context, pixels, columns, rows, width, height) {
  const small = document.createElement("canvas");
  [small.width, small.height] = [columns, rows];
  small.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), columns, rows), 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, width, height);
}

// Where a frequency lies: 0 at the bottom of the spectrogram, 1 at its top.
export const melPlace = (hertz) => Math.log10(1 + hertz / 700) / Math.log10(1 + 8000 / 700);

// First and last of `count` steps that a column of the screen covers, each `step` seconds long.
function covered(time, width, step, count, shift = 0) {
  const first = Math.min(Math.max(Math.floor((time + shift) / step), 0), count - 1);
  return [first, Math.min(Math.max(Math.ceil((time + width + shift) / step) - 1, first), count - 1)];
}

export function drawMel(canvas, mel, from, to, width, height) {
  const columns = Math.max(Math.round(width), 1), each = (to - from) / columns;
  const pixels = new Uint32Array(columns * mel.bands);
  for (let x = 0; x < columns; x++) {
    const [first, last] = covered(from + x * each, each, mel.step, mel.columns);
    for (let k = 0; k < mel.bands; k++) {
      let value = 0;
      for (let i = first; i <= last; i++) value = Math.max(value, mel.data[i * mel.bands + k]);
      pixels[(mel.bands - 1 - k) * columns + x] = magma[value];
    }
  }
  paint(canvas, width, height, (context) => {
    stretch(context, pixels, columns, mel.bands, width, height);
    context.fillStyle = "rgba(255, 255, 255, .55)";
    for (const hertz of MEL_TICKS.slice(0, -1)) context.fillRect(0, (1 - melPlace(hertz)) * height, 6, 1);
  });
}

// rows: numbers of classes; top: the score of the full colour.
export function drawHeat(canvas, result, rows, top, from, to, width, size) {
  const colours = table(["--cold", "--warm", "--hot"].map(colour).map(rgb));
  const columns = Math.max(Math.round(width), 1), each = (to - from) / columns;
  const pixels = new Uint32Array(columns * Math.max(rows.length, 1));
  for (let x = 0; x < columns; x++) {
    const [first, last] = covered(from + x * each, each, result.frame, result.frames, result.frame / 2);
    rows.forEach((label, k) => {
      let value = 0;
      for (let i = first; i <= last; i++) value = Math.max(value, result.data[i * result.labels.length + label]);
      pixels[k * columns + x] = colours[Math.min(Math.round((255 * value) / 65535 / top), 255)];
    });
  }
  paint(canvas, width, rows.length * size, (context) => {
    if (!rows.length) return;
    stretch(context, pixels, columns, rows.length, width, rows.length * size);
    context.fillStyle = colour("--page");
    rows.forEach((_, k) => context.fillRect(0, (k + 1) * size - 2, width, 2));
  });
}

const STEPS = [0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600];

export function drawTicks(canvas, from, to, seconds, width, height, clock) {
  const step = STEPS.find((s) => ((to - from) / s) * 72 < width) ?? 7200;
  paint(canvas, width, height, (context) => {
    context.fillStyle = colour("--soft");
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "top";
    for (let i = Math.ceil(from / step); i * step <= to + 1e-9; i++) {
      const x = ((i * step - from) / (to - from)) * width, text = clock(i * step, step < 0.1 ? 2 : step < 1 ? 1 : 0);
      const half = context.measureText(text).width / 2;
      context.fillRect(Math.min(x, width - 1), 0, 1, 4);
      context.fillText(text, Math.min(Math.max(x - half, 0), width - 2 * half), 6);
    }
  });
}
