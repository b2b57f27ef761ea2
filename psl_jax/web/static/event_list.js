// The events as a table, and the fields of the one that is chosen.
import { $, clock, element, tell } from "./util.js";

const LISTED = 300; // at a time

export class EventList {
  #order = { key: "onset", sign: 1 };
  #listed = LISTED;
  #events = [];
  #selected = null;
  #searchedAway = 0;

  // on: {choose(event), change(event, {label, onset, offset} or null)}
  constructor(on) {
    this.on = on;
    for (const head of $("heads").querySelectorAll("button")) {
      head.addEventListener("click", () => {
        const { key, sign } = this.#order, mine = head.dataset.key;
        this.#order = { key: mine, sign: key === mine ? -sign : mine === "score" ? -1 : 1 };
        this.#list();
      });
    }
    // read(text): the change, or what is wrong in words.
    const changed = (id, read) => $(id).addEventListener("change", () => {
      const next = this.#selected && read($(id).value.trim()), wrong = typeof next === "string";
      if (next && !wrong) on.change(this.#selected, next);
      else this.#fields();
      tell("event-wrong", wrong ? `${next}; ${$(id).value} stays.` : "");
    });
    changed("event-label", (text) => {
      const label = this.result.labels.find((one) => one.toLowerCase() === text.toLowerCase());
      return label ? { label } : `The model has no class “${text}”`;
    });
    for (const name of ["onset", "offset"]) {
      changed(`event-${name}`, (text) => (text === "" ? `The ${name} is no number of seconds` : { [name]: Number(text) }));
    }
    $("event-delete").addEventListener("click", () => on.change(this.#selected, null));
  }

  // searchedAway: how many events the search leaves out.
  show(events, selected, result, searchedAway) {
    if (selected?.id !== this.#selected?.id) tell("event-wrong", "");
    [this.#events, this.#selected, this.result, this.#searchedAway] = [events, selected, result, searchedAway];
    this.#list();
    this.#fields();
  }

  // Marks what is heard at a time.
  now(seconds) {
    for (const row of $("events").rows) {
      row.classList.toggle("now", Boolean(row.event) && row.event.onset <= seconds && seconds < row.event.offset);
    }
  }

  #fields() {
    const event = this.#selected;
    $("inspector").hidden = !event;
    if (!event) return;
    $("event-label").value = event.label;
    $("event-onset").value = event.onset.toFixed(2);
    $("event-offset").value = event.offset.toFixed(2);
    for (const id of ["event-onset", "event-offset"]) $(id).max = this.result.seconds;
  }

  #list() {
    const { key, sign } = this.#order, compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    const events = [...this.#events].sort((a, b) => sign * compare(a[key], b[key]) || a.onset - b.onset);
    for (const head of $("heads").cells) {
      const mine = head.firstChild.dataset.key === key;
      if (mine) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending"); else head.removeAttribute("aria-sort");
    }
    $("events-title").textContent = events.length === 1 ? "1 event" : `${events.length} events`;
    const rows = events.slice(0, this.#listed).map((event) => this.#row(event));
    const left = events.length - rows.length;
    if (left || !rows.length) rows.push(this.#rest(left));
    const focused = document.activeElement?.closest("#events tr")?.event?.id;
    $("events").replaceChildren(...rows);
    if (focused) rows.find((row) => row.event?.id === focused)?.querySelector("button").focus();
  }

  #row(event) {
    const row = element("tr"), first = element("td"), label = element("td", event.label);
    row.event = event;
    const open = element("button", clock(event.onset, 2), { type: "button" });
    open.setAttribute("aria-label", `Choose ${event.label} from ${clock(event.onset, 2)}`);
    first.append(open);
    if (event.corrected) label.append(element("span", "yours", { className: "own" }));
    row.append(first, element("td", clock(event.offset, 2)), label, element("td", event.score.toFixed(2), { className: "number" }));
    row.classList.toggle("chosen", event.id === this.#selected?.id);
    row.addEventListener("click", () => this.on.choose(event));
    return row;
  }

  #rest(left) {
    const away = this.#searchedAway, row = element("tr"), cell = element("td", "", { colSpan: 4 });
    if (!left) cell.textContent = away ? `No event of a class with such a name; ${away} of others.` : "None: no score is as high.";
    if (left) {
      const more = element("button", `Show the other ${left}`, { type: "button" });
      more.addEventListener("click", () => { this.#listed = Infinity; this.#list(); });
      cell.append(more);
    }
    row.append(cell);
    return row;
  }
}
