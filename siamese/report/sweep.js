// Click a heading to sort its table; hover over a row, or click in a legend, to highlight a configuration's lines.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.tHead.addEventListener("click", event => {
    const button = event.target.closest("button");
    if (!button) return;
    const heading = button.closest("th");
    const column = heading.cellIndex;
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    const absent = text => text === "" || text === "nan" || text === "None" || text === "–";
    const compare = (a, b) => {
      if (absent(a) || absent(b)) return absent(a) - absent(b);
      const order = isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b;
      return ascending ? order : -order;
    };
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  });
}
const show = group => {
  document.body.classList.toggle("one", group !== null);
  for (const line of document.querySelectorAll("svg .front")) line.classList.remove("front");
  if (group === null) return;
  for (const line of document.querySelectorAll(`svg [id^="g${group}-"]`)) {
    line.classList.add("front");
    line.parentNode.append(line);
  }
};
let kept = null;
for (const row of document.querySelectorAll("[data-group]")) {
  row.addEventListener("mouseenter", () => show(row.dataset.group));
  row.addEventListener("mouseleave", () => show(kept));
}
for (const button of document.querySelectorAll("button[data-group]")) {
  button.addEventListener("click", () => {
    kept = kept === button.dataset.group ? null : button.dataset.group;
    for (const other of document.querySelectorAll("button[data-group]"))
      other.setAttribute("aria-pressed", String(other.dataset.group === kept));
    show(kept);
  });
}
