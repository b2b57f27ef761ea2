for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  table.tHead.addEventListener("click", (event) => {
    const header = event.target.closest("th");
    if (!header || !event.target.closest("button")) return;
    const numeric = header.classList.contains("number");
    const before = header.getAttribute("aria-sort");
    const descending = before ? before === "ascending" : numeric;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const order = (a, b) => {
      const [x, y] = [value(a, header.cellIndex), value(b, header.cellIndex)];
      if (!numeric) return (descending ? -1 : 1) * x.localeCompare(y, undefined, { numeric: true });
      if (x === "" || y === "") return (x === "") - (y === "");
      return (descending ? -1 : 1) * (Number(x) - Number(y));
    };
    body.append(...[...body.rows].sort(order));
  });
  const input = document.querySelector(`input[data-table="${table.id}"]`);
  const shown = document.querySelector(`[data-shown="${table.id}"]`);
  input?.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    let rows = 0;
    for (const row of body.rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      rows += !row.hidden;
    }
    shown.textContent = `${rows} of ${body.rows.length} classes`;
  });
}
for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;
for (const clip of document.querySelectorAll(".clip")) {
  const audio = clip.querySelector("audio"), times = clip.querySelector(".times");
  const picture = clip.querySelector(".mel");
  const cursor = document.createElement("i");
  cursor.className = "cursor";
  cursor.hidden = true;
  times.append(cursor);
  const follow = () => {
    cursor.hidden = false;
    const done = audio.currentTime / (audio.duration || 1);
    cursor.style.left = `${picture.offsetLeft + done * picture.offsetWidth}px`;
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", follow);
  audio.addEventListener("seeked", follow);
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    const seek = () => {
      audio.currentTime = (event.clientX - box.left) / box.width * audio.duration;
      audio.play();
    };
    if (audio.readyState) seek();
    else {
      audio.addEventListener("loadedmetadata", seek, { once: true });
      audio.load();
    }
  });
}
