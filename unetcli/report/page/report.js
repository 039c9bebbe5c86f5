// All of the page can be read without this: it sorts tables and enlarges pictures.
for (const hint of document.querySelectorAll(".with-script")) hint.hidden = false;

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const keyOf = (row, column) => {
    const {textContent, dataset} = row.cells[column];
    if (column === 0) return textContent;
    return dataset.value === "" ? NaN : Number(dataset.value);  // undefined
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.better === "lower" ? "descending" : "ascending";  // the worst on top
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      const compareNames = (a, b) => sign * a.localeCompare(b, undefined, {numeric: true});
      const compareNumbers = (a, b) => isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) : sign * (a - b);
      const keyed = [...body.rows].map(row => [keyOf(row, column), row]);
      keyed.sort(([a], [b]) => column ? compareNumbers(a, b) : compareNames(a, b));
      body.append(...keyed.map(([, row]) => row));
      heads.forEach(each => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
    });
  });
}

for (const image of document.querySelectorAll(".pictures img")) {
  const turn = () => image.setAttribute("aria-expanded", image.parentElement.classList.toggle("large"));
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  image.setAttribute("aria-expanded", "false");
  image.addEventListener("click", turn);
  image.addEventListener("keydown", event => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    turn();
  });
}
