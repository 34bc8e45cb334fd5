"use strict";
// tables are whole without this: it lets a reader sort them by a column and filter their rows
for (const figure of document.querySelectorAll("figure.table")) {
  const table = figure.querySelector("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  if (rows.length < 2) continue;
  const heads = Array.from(table.tHead.rows[0].cells);
  const number = (cell) => (cell.dataset.value === undefined ? NaN : Number(cell.dataset.value));
  const sorted = (column, sign) => rows.slice().sort((one, other) => {
    const [a, b] = [one.cells[column], other.cells[column]];
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // what has no figure stands last
    return sign * (Number.isNaN(x) ? a.textContent.localeCompare(b.textContent, undefined, {numeric: true}) : x - y);
  });
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const next = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", next);
      body.append(...sorted(column, next === "ascending" ? 1 : -1));
    });
  });
}
const filter = document.querySelector("#filter");
filter.hidden = false;
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/);
  for (const row of document.querySelectorAll("figure.table tbody tr")) {
    const name = row.cells[0].textContent.toLowerCase();
    row.hidden = !words.every((word) => name.includes(word));
  }
});
