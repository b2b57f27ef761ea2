// The timeline: waveform, spectrogram, heat map and events, which zoom and scroll as one.
import WaveSurfer from "./wavesurfer/wavesurfer.esm.js";
import Regions from "./wavesurfer/regions.esm.js";
import { colour, drawHeat, drawMel, drawTicks, MEL_TICKS, melPlace } from "./drawing.js";
import { $, clock, element, onceAFrame } from "./util.js";

export const WAVE = 64, GAP = 6, MEL = 132, TICKS = 22; // px
const FINGER = matchMedia("(pointer: coarse)").matches;
const ROW = FINGER ? 40 : 26; // px: --row of page.css
const MOST = 400; // regions at a time, of the events in sight
const CLOSEST = 400; // px a second

export class Timeline {
  // on: {time(seconds), select(event), change(event, {onset, offset})}
  constructor(player, on) {
    this.player = player;
    this.on = on;
    this.rows = [];
    this.events = [];
    this.top = 1;
    this.selected = null;
    this.loop = false;
    this.redraw = onceAFrame(() => this.#draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#recolour());
    new ResizeObserver(() => this.redraw()).observe($("wave"));
    this.#gestures();
    this.#axis();
  }

  show(result, url) {
    this.wave?.destroy();
    this.shown = new Map(); // id of an event -> its region
    this.result = result;
    this.regions = Regions.create();
    this.wave = WaveSurfer.create({
      container: $("wave"), height: WAVE, media: this.player, peaks: result.wave.peaks, duration: result.seconds,
      url, plugins: [this.regions], cspNonce: document.body.dataset.nonce, dragToSeek: false, normalize: true,
      minPxPerSec: 0, ...this.#colours(),
    });
    this.scale = 0; // px a second; 0: all of it in sight
    const below = this.#below();
    this.wave.getWrapper().append(below);
    const scroller = this.wave.getWrapper().parentElement; // the keys of the page work where it is in focus
    scroller.tabIndex = 0;
    scroller.setAttribute("role", "group");
    scroller.setAttribute("aria-label", `Timeline of ${clock(result.seconds)}; keys are listed below`);
    for (const name of ["scroll", "zoom", "redraw", "resize", "ready"]) this.wave.on(name, this.redraw);
    for (const name of ["timeupdate", "seeking", "ready"]) this.wave.on(name, () => this.#timed());
    this.regions.on("region-clicked", (region, event) => {
      event.stopPropagation();
      this.on.select(region.event);
    });
    this.regions.on("region-double-clicked", (region) => this.playEvent(region.event));
    this.regions.on("region-updated", (region) => this.on.change(region.event, { onset: region.start, offset: region.end }));
    this.redraw();
  }

  hide() {
    this.wave?.destroy();
    this.wave = null;
  }

  update({ rows, top, events, selected }) {
    Object.assign(this, { rows, top, events, selected });
    this.redraw();
  }

  // --- Time -----------------------------------------------------------------------------

  get time() {
    return Math.min(this.player.currentTime || 0, this.result?.seconds ?? 0);
  }

  seek(seconds) {
    if (this.wave) this.wave.setTime(Math.min(Math.max(seconds, 0), this.result.seconds));
    this.#timed();
  }

  toggle() {
    if (this.player.paused) this.player.play().catch(() => {});
    else this.player.pause();
  }

  playEvent(event) {
    this.seek(event.onset);
    this.wave?.play(event.onset, this.loop ? undefined : event.offset).catch(() => {});
  }

  #timed() {
    if (!this.wave) return;
    const event = this.selected;
    if (this.loop && event && !this.player.paused && this.time >= event.offset) this.wave.setTime(event.onset);
    this.on.time(this.time);
  }

  // --- Zoom -----------------------------------------------------------------------------

  // px a second with which all is in sight, a second or three are, and now.
  get #scales() {
    const fitting = this.wave.getWidth() / this.result.seconds;
    return { fitting, closest: Math.max(CLOSEST, fitting * 4), now: Math.max(this.scale, fitting) };
  }

  // level: 0 shows all, 1 a second or three.
  zoomTo(level) {
    const { fitting, closest, now } = this.#scales;
    this.zoomBy(fitting * (closest / fitting) ** level / now);
  }

  // What is at `x` (px from the left) stays there.
  zoomBy(factor, x = this.#middle()) {
    const { fitting, closest, now } = this.#scales, time = (this.wave.getScroll() + x) / now;
    const scale = Math.min(Math.max(now * factor, fitting), closest);
    this.scale = scale <= fitting * 1.001 ? 0 : scale;
    this.wave.zoom(this.scale);
    this.wave.setScroll(Math.max(time * scale - x, 0));
    this.redraw();
  }

  // Where the cursor is, or the middle where it is out of sight.
  #middle() {
    const [from, to] = this.range(), share = (this.time - from) / (to - from);
    return this.wave.getWidth() * (share >= 0 && share <= 1 ? share : 0.5);
  }

  // Scrolls so that a time is in sight.
  reveal(seconds) {
    const [from, to] = this.range();
    if (seconds < from || seconds > to) this.wave.setScrollTime(Math.max(seconds - (to - from) / 3, 0));
    this.redraw();
  }

  range() {
    const { now } = this.#scales, from = this.wave.getScroll() / now;
    return [from, Math.min(from + this.wave.getWidth() / now, this.result.seconds)];
  }

  #gestures() {
    const box = $("wave");
    box.addEventListener("wheel", (event) => {
      if (!this.wave || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 200), event.clientX - box.getBoundingClientRect().left);
    }, { passive: false });
  }

  // --- Pictures -------------------------------------------------------------------------

  #colours() {
    return {
      waveColor: colour("--wave"), progressColor: colour("--played"), cursorColor: colour("--cursor"), cursorWidth: 2,
    };
  }

  #recolour() {
    this.wave?.setOptions(this.#colours());
    this.redraw();
  }

  // What is below the waveform, in the element that scrolls; it is as wide as the screen and stays in sight.
  #below() {
    const below = document.createElement("div");
    Object.assign(below.style, { position: "relative", width: "100%" });
    this.canvases = ["mel", "heat", "ticks"].map((name) => {
      const canvas = element("canvas");
      canvas.dataset.name = name;
      Object.assign(canvas.style, { position: "sticky", left: "0", top: "auto", display: "block", marginTop: `${name === "ticks" ? 0 : GAP}px` });
      below.append(canvas);
      return canvas;
    });
    return below;
  }

  #axis() {
    $("axis").replaceChildren(...MEL_TICKS.map((hertz) => {
      const tick = element("span", hertz < 1000 ? `${hertz}` : `${hertz / 1000} k`);
      tick.style.top = `${(1 - melPlace(hertz)) * 100}%`;
      return tick;
    }));
  }

  #draw() {
    if (!this.wave || !this.result) return;
    const [from, to] = this.range(), width = this.wave.getWidth(), [mel, heat, ticks] = this.canvases;
    if (!(width > 0 && to > from)) return;
    drawMel(mel, this.result.mel, from, to, width, MEL);
    drawHeat(heat, this.result, this.rows, this.top, from, to, width, ROW);
    drawTicks(ticks, from, to, this.result.seconds, width, TICKS, clock);
    this.#place(from, to);
    const { fitting, closest, now } = this.#scales;
    $("zoom").value = Math.log(now / fitting) / Math.log(closest / fitting);
  }

  // Regions for the events in sight: there may be thousands in all.
  #place(from, to) {
    const margin = (to - from) / 2, wanted = new Map();
    for (const event of this.events) {
      const row = this.rows.indexOf(this.result.labels.indexOf(event.label));
      if (row < 0 || event.offset < from - margin || event.onset > to + margin || wanted.size >= MOST) continue;
      wanted.set(event.id, [event, row]);
    }
    for (const [id, region] of this.shown) {
      const [event] = wanted.get(id) ?? [];
      if (event && event.onset === region.event.onset && event.offset === region.event.offset) continue;
      region.remove();
      this.shown.delete(id);
    }
    for (const [id, [event, row]] of wanted) {
      const region = this.shown.get(id) ?? this.#region(event);
      region.event = event;
      this.shown.set(id, region);
      this.#style(region, row, event.id === this.selected?.id);
    }
  }

  #region(event) {
    return this.regions.addRegion({
      id: event.id, start: event.onset, end: event.offset, drag: false, resize: true, minLength: 0.01, color: "transparent",
    });
  }

  #style(region, row, selected) {
    if (!region.element) return;
    const line = colour("--event");
    Object.assign(region.element.style, {
      top: `${WAVE + MEL + 2 * GAP + row * ROW}px`, height: `${ROW - 2}px`, cursor: "pointer", borderRadius: "4px", zIndex: selected ? 3 : 2,
      border: `${selected ? 3 : 2}px solid ${line}`, boxShadow: selected ? `0 0 0 2px ${colour("--page")}, 0 0 0 4px ${line}` : "none",
      backgroundColor: region.event.corrected ? colour("--corrected") : "transparent",
    });
    region.element.dataset.label = region.event.label;
    for (const handle of region.element.querySelectorAll('[part*="handle"]')) {
      handle.style.border = "0";
      handle.style.width = FINGER ? "14px" : "7px";
    }
  }
}
