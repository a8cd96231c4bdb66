"use strict";
// Tables that sort, and nothing else. A link may ask for an order: #sort=latency_s, or #sort=-latency_s.
(function () {
  function compare(a, b) {
    return typeof a === "string" && typeof b === "string" ? (a < b ? -1 : a > b ? 1 : 0) : a - b;
  }

  // Rows without a value stay last in either direction: a failure is not a small number.
  function sort(table, key, descending) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => ({ row, value: JSON.parse(row.dataset.sort)[key] ?? null }));
    const known = rows.filter((r) => r.value !== null);
    known.sort((a, b) => (descending ? compare(b.value, a.value) : compare(a.value, b.value)));
    body.append(...known.map((r) => r.row), ...rows.filter((r) => r.value === null).map((r) => r.row));
    let title = key;
    for (const button of table.tHead.querySelectorAll("button")) {
      const heading = button.closest("th");
      heading.removeAttribute("aria-sort");
      if (button.dataset.key === key) {
        heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
        title = button.textContent.trim();
      }
    }
    const said = table.closest("section").querySelector("[aria-live]");
    said.textContent = `Sorted by ${title}, ${descending ? "largest" : "smallest"} first.`;
  }

  const tables = Array.from(document.querySelectorAll("table[data-sortable]"));
  for (const table of tables) {
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const key = button.dataset.key;
      const descending = button.closest("th").getAttribute("aria-sort") === "ascending";
      sort(table, key, descending);
      history.replaceState(null, "", `#sort=${descending ? "-" : ""}${key}`);
    });
  }

  function fromAddress() {
    const asked = /^#sort=(-?)(\w+)$/.exec(location.hash);
    if (!asked) return;
    for (const table of tables) {
      if (table.tHead.querySelector(`button[data-key="${asked[2]}"]`)) sort(table, asked[2], asked[1] === "-");
    }
  }
  fromAddress();
  window.addEventListener("hashchange", fromAddress);
  // Paper has nothing to click: open what is folded.
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
