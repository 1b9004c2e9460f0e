"use strict";
// Without this script the table is still a table; with it, each heading becomes a button that sorts.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const asGiven = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const follow = { ascending: "descending", descending: "none" };
  const compare = (a, b, numeric) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const order = follow[head.getAttribute("aria-sort")] ?? "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      if (order === "none") return body.append(...asGiven);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.key;
      const numeric = head.classList.contains("number");
      const valued = asGiven.filter((row) => key(row) !== undefined);
      const missing = asGiven.filter((row) => key(row) === undefined);
      valued.sort((a, b) => sign * compare(key(a), key(b), numeric));
      body.append(...valued, ...missing);
    });
  });
}
