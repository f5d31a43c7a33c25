"use strict";
// Makes every table of data sortable and filterable. Without it the page shows everything all the same.
(() => {
  const LONG = 8;
  const element = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

  function sortable(table, rows) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const numeric = head.classList.contains("number");
      const button = element("button", { type: "button", textContent: head.textContent });
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        // Numbers begin with the largest, words with the first.
        const first = numeric ? "descending" : "ascending";
        const other = numeric ? "ascending" : "descending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        heads.forEach((each) => each.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const keyed = rows.map((row, index) => {
          const cell = row.cells[column];
          return { row, index, key: numeric ? parseFloat(cell.dataset.v) : cell.textContent };
        });
        keyed.sort((a, b) => {
          if (!numeric) return sign * collator.compare(a.key, b.key) || a.index - b.index;
          const missing = Number.isNaN(a.key) - Number.isNaN(b.key);
          return missing || sign * (a.key - b.key) || a.index - b.index;
        });
        table.tBodies[0].append(...keyed.map(({ row }) => row));
      });
    });
  }

  function filterable(holder, table, rows) {
    const count = element("output", { className: "small" });
    const tell = (shown) => {
      count.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
    };
    const input = element("input", { type: "search", id: `${holder.id}-filter`, autocomplete: "off" });
    const label = element("label", { htmlFor: input.id, textContent: "Filter" });
    const texts = rows.map((row) => row.textContent.toLowerCase());
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, index) => {
        row.hidden = !words.every((word) => texts[index].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      tell(shown);
    });
    tell(rows.length);
    const bar = element("div", { className: "bar" });
    bar.append(label, input, count);
    holder.querySelector("h3").after(bar);
  }

  const collator = new Intl.Collator(undefined, { numeric: true });
  for (const holder of document.querySelectorAll(".data")) {
    const table = holder.querySelector("table");
    const rows = [...table.tBodies[0].rows];
    if (rows.length > 1) sortable(table, rows);
    if (rows.length > LONG) filterable(holder, table, rows);
  }

  // Paper has nothing to click on.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((details) => { details.open = true; });
  });
  window.addEventListener("afterprint", () => closed.forEach((details) => { details.open = false; }));
})();
