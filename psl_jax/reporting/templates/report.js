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
