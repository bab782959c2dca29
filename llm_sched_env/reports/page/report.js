"use strict";

// Legends: a pressed entry shows its series in the charts of its section.
for (const button of document.querySelectorAll("[data-toggles]")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    const series = button.closest("section").querySelectorAll(`[data-series="${button.dataset.toggles}"]`);
    for (const part of series) part.classList.toggle("off", !shown);
  });
}

// Sorting: a press of a column's name, again for the other way; what is unknown comes last.
const head = document.querySelector("thead");
const body = document.querySelector("tbody");
const compared = (a, b, asNumbers) => asNumbers ? Number(a) - Number(b) : a.localeCompare(b, "en", {numeric: true});
head.addEventListener("click", (event) => {
  const column = event.target.closest("th");
  if (!column) return;
  const numbers = column.classList.contains("number");
  const before = column.getAttribute("aria-sort");
  const descending = before === "none" ? numbers : before === "ascending";
  for (const other of head.querySelectorAll("th")) other.setAttribute("aria-sort", "none");
  column.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const key = (row) => row.cells[column.cellIndex].dataset.key;
  const rows = Array.from(body.rows).sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return compared(a, b, numbers) * (descending ? -1 : 1);
  });
  body.append(...rows);
});

// Filters: a row must have the text somewhere, and what is chosen in its column.
const filters = document.querySelector(".filters");
const count = filters.querySelector("[data-count]");
const show = () => {
  const wanted = Array.from(filters.querySelectorAll("[data-filter]"), (field) => [field.dataset.filter, field.value.trim()]);
  let shown = 0;
  for (const row of body.rows) {
    row.hidden = !wanted.every(([where, value]) => {
      if (value === "") return true;
      if (where !== "any") return row.cells[Number(where)].textContent === value;
      return row.textContent.toLowerCase().includes(value.toLowerCase());
    });
    shown += !row.hidden;
  }
  count.textContent = `${shown} of ${body.rows.length} rows`;
};
filters.addEventListener("input", show);
filters.addEventListener("submit", (event) => event.preventDefault());
show();
