"use strict";
// Tables that sort; and of the main table a filter, a choice of columns, rows that fold by architecture, and the link of
// a row with its mark in the picture. A link may ask for an order: #sort=latency_s, or #sort=-latency_s.
(function () {
  function compare(a, b) {
    return typeof a === "string" && typeof b === "string" ? (a < b ? -1 : a > b ? 1 : 0) : a - b;
  }

  // Rows without a value stay last in either direction: what is not known is not a small number.
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
    const said = table.closest("section").querySelector("[aria-live].vh");
    if (said) said.textContent = `Sorted by ${title}, ${descending ? "largest" : "smallest"} first.`;
    table.dispatchEvent(new Event("sorted"));
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

  // Which rows are shown: those that the filter finds, else the first of each architecture and those that are kept.
  function rowsOf(box, table) {
    const rows = () => Array.from(table.tBodies[0].rows);
    const filter = box.querySelector("input[type=search]");
    const fold = box.querySelector("input[data-fold]");
    const said = box.querySelector(".shown");
    const opened = new Set();
    const words = (row) => `${row.cells[0].textContent} ${row.dataset.family} ${row.dataset.words}`.toLowerCase();
    const text = new Map(rows().map((row) => [row, words(row)]));
    const several = new Map();
    for (const row of rows()) several.set(row.dataset.family, (several.get(row.dataset.family) ?? 0) + 1);

    function more(row, family, hidden) {
      let button = row.cells[0].querySelector("button.more");
      if (!hidden && !opened.has(family)) return button && button.remove();
      if (!button) {
        button = document.createElement("button");
        button.type = "button";
        button.className = "more";
        row.cells[0].append(button);
        button.addEventListener("click", (event) => {
          event.stopPropagation();
          if (!opened.delete(family)) opened.add(family);
          show();
          const again = row.cells[0].querySelector("button.more");
          if (again) again.focus();
        });
      }
      button.setAttribute("aria-expanded", String(opened.has(family)));
      const name = family.split(/[:.]/).pop();
      button.textContent = opened.has(family) ? `fewer ${name}` : `${hidden} more ${name}`;
    }

    function show() {
      const asked = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      const folding = fold && fold.checked && !asked.length;
      const heads = new Map();
      const hidden = new Map();
      for (const row of rows()) {
        const family = row.dataset.family;
        const old = row.cells[0].querySelector("button.more");
        if (old && (heads.has(family) || !folding)) old.remove();
        if (!heads.has(family)) heads.set(family, row);
        const folded = folding && heads.get(family) !== row && !("kept" in row.dataset) && !opened.has(family);
        row.hidden = folded || !asked.every((word) => text.get(row).includes(word));
        if (folded) hidden.set(family, (hidden.get(family) ?? 0) + 1);
      }
      if (folding) for (const [family, row] of heads) if (several.get(family) > 1) more(row, family, hidden.get(family) ?? 0);
      const n = rows().filter((row) => !row.hidden).length;
      const left = box.dataset.more && asked.length ? `; ${box.dataset.more}, where this filter does not look` : "";
      said.textContent = n < rows().length ? `${n} of ${rows().length} rows${left}` : left.slice(2);
    }
    filter.addEventListener("input", show);
    if (fold) fold.addEventListener("change", show);
    table.addEventListener("sorted", show);
    box.addEventListener("submit", (event) => event.preventDefault());
    show();
  }

  function columnsOf(box, table) {
    for (const input of box.querySelectorAll(".columns input")) {
      const apply = () => {
        for (const cell of table.querySelectorAll(`[data-col="${input.value}"]`)) cell.hidden = !input.checked;
      };
      input.addEventListener("change", apply);
      apply();
    }
  }

  // A row and its mark: pointing at either, or a focus, marks both; a click, Enter or the space bar keeps them marked.
  function link(table, figure) {
    const svg = figure.querySelector("svg");
    const picked = figure.querySelector(".picked");
    let kept = null;
    const title = (row) => {
      const cell = (key) => row.querySelector(`td[data-col="${key}"]`);
      const said = [row.cells[0].firstChild.data];
      const path = row.querySelector(".path");
      if (path) said.push(path.textContent);
      for (const heading of table.tHead.rows[0].cells) {
        const at = heading.dataset.col && !heading.hidden && cell(heading.dataset.col);
        if (at && said.length < 5) said.push(`${heading.querySelector("button").textContent} ${at.firstElementChild.textContent}`);
      }
      return said.join(", ");
    };
    function mark(row) {
      for (const on of svg.querySelectorAll(".on")) on.classList.remove("on");
      for (const on of table.querySelectorAll("tr.on")) on.classList.remove("on");
      const point = row && document.getElementById(row.dataset.mark);
      svg.classList.toggle("linked", Boolean(point));
      if (row) row.classList.add("on");
      if (point) point.classList.add("on");
      picked.hidden = !row;
      picked.textContent = row ? title(row) + (point ? "" : "; it has no mark") : "";
    }
    function keep(row) {
      if (kept) kept.removeAttribute("aria-selected");
      kept = kept === row ? null : row;
      if (kept) kept.setAttribute("aria-selected", "true");
      mark(kept);
    }
    for (const row of table.tBodies[0].rows) {
      row.tabIndex = 0;
      row.addEventListener("mouseenter", () => mark(row));
      row.addEventListener("mouseleave", () => mark(kept));
      row.addEventListener("focusin", () => mark(row));
      row.addEventListener("focusout", () => mark(kept));
      row.addEventListener("click", (event) => {
        if (!event.target.closest("button") && !String(getSelection())) keep(row);
      });
      row.addEventListener("keydown", (event) => {
        if (event.target === row && (event.key === "Enter" || event.key === " ")) {
          event.preventDefault();
          keep(row);
        }
      });
      const point = row.dataset.mark && document.getElementById(row.dataset.mark);
      if (!point) continue;
      point.addEventListener("mouseenter", () => mark(row));
      point.addEventListener("mouseleave", () => mark(kept));
      point.addEventListener("click", () => {
        if (row.hidden) row.hidden = false;
        keep(row);
      });
    }
  }

  for (const table of document.querySelectorAll("table[data-main]")) {
    const part = table.closest(".beside");
    const box = part.querySelector(".tools");
    box.hidden = false;
    rowsOf(box, table);
    columnsOf(box, table);
    const figure = part.querySelector("figure.picture");
    if (figure) link(table, figure);
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
  // Paper has nothing to click: what is folded is open while it is printed.
  const opened = [];
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not(.columns):not([open])")) {
      details.open = true;
      opened.push(details);
    }
  });
  window.addEventListener("afterprint", () => {
    for (const details of opened.splice(0)) details.open = false;
  });
})();
