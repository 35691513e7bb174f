// Sort a table by a click on its head; show or hide outlines; open all parts for print.
document.querySelectorAll("table.list th button").forEach((button) => {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const column = [...head.parentNode.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "ascending";
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    };
    [...body.rows].sort(compare).forEach((row) => body.append(row));
    head.parentNode.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  });
});
document.querySelectorAll(".switch input").forEach((box) => {
  box.addEventListener("change", () => {
    document.body.classList.toggle("plain", !box.checked);
    document.querySelectorAll(".switch input").forEach((other) => { other.checked = box.checked; });
  });
});
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
});
