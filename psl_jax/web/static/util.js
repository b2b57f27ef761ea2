// Small things that the page's modules share.

export const $ = (id) => document.getElementById(id);
export const about = JSON.parse(document.body.dataset.about ?? "{}");

export function element(kind, text = "", more = {}) {
  return Object.assign(document.createElement(kind), { textContent: text }, more);
}

// 0:03.2, 12:00.0 or 1:02:03.4.
export function clock(seconds, decimals = 1) {
  const total = Math.round(seconds * 10 ** decimals) / 10 ** decimals;
  const rest = (total % 60).toFixed(decimals).padStart(decimals ? 3 + decimals : 2, "0");
  const minutes = Math.floor(total / 60);
  if (minutes < 60) return `${minutes}:${rest}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

export const stem = (name) => name.replace(/\.[^.]*$/, "");

// A text in the element `id`, which is hidden while there is none.
export function tell(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

export function say(text, kind = "") {
  tell("status", text);
  $("status").className = kind;
}

// At most one call a frame of the screen, however often it is asked for.
export function onceAFrame(work) {
  let asked = 0;
  return () => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(work);
  };
}

// --- Requests -----------------------------------------------------------------------------

const secret = new URLSearchParams(location.hash.slice(1)).get("token");
if (secret) {
  sessionStorage.setItem("token", secret);
  history.replaceState(null, "", location.pathname); // not to be seen in the address
}
addEventListener("hashchange", () => location.reload()); // another token

// Errors have the server's words as their message, its `kind` and the status.
export async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("The server cannot be reached. If it has ended, start it again: this page goes on."), { kind: "gone" });
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  throw Object.assign(new Error(answer.error), { kind: answer.kind, status: response.status });
}

export function post(path, query, body, signal) {
  const headers = { "Content-Type": "application/octet-stream" };
  return ask(`${path}?${new URLSearchParams(query)}`, { method: "POST", body, signal, headers });
}
