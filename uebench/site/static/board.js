// Sorts and filters the tables and turns the theme. Without it, the pages show all the same.
"use strict";

const root = document.documentElement;
const memory = {
  // A page from disk, or one whose visitor forbids it, may have no storage.
  read() { try { return localStorage.getItem("theme"); } catch { return null; } },
  write(theme) { try { localStorage.setItem("theme", theme); } catch { /* the choice then holds for this page */ } },
};
const kept = memory.read();
if (kept === "dark" || kept === "light") root.dataset.theme = kept; // before anything is painted

function themes(button) {
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const say = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    memory.write(root.dataset.theme);
    say();
  });
  say();
}

// What a cell is sorted by: its first number, or its text; a dash, nothing known, comes last either way.
function value(row, column, asText) {
  const text = row.cells[column].textContent.trim();
  if (text === "–" || text === "") return null;
  const found = asText ? null : text.match(/^\(?(-?\d+(\.\d+)?)/);
  return found ? Number(found[1]) : text;
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  const both = typeof a === "number" && typeof b === "number";
  return sign * (both ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.ariaSort === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const asText = head.classList.contains("text");
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((row) => !row.classList.contains("class"));
        rows.sort((a, b) => compare(value(a, column, asText), value(b, column, asText), sign));
        body.append(...rows);
      }
    });
  });
}

// What the address says of a filter of a board; an empty value leaves it out.
const address = {
  read(name) { return new URLSearchParams(location.search).get(name) ?? ""; },
  write(values) {
    const query = new URLSearchParams(location.search);
    for (const [name, wanted] of values) if (wanted) query.set(name, wanted); else query.delete(name);
    const text = query.size ? `?${query}` : location.pathname;
    // Some browsers refuse another address for a page from disk: the filters then hold until it is left.
    try { history.replaceState(null, "", text + location.hash); } catch { /* nothing to do */ }
  },
};

function filters(form) {
  const board = form.closest(".board");
  const fields = [...form.querySelectorAll("[data-filter]")];
  const count = form.querySelector("output");
  const reset = form.querySelector(".reset");
  const marked = [...board.querySelectorAll("[data-name]")].filter((element) => element.dataset.status !== "reference");
  const fits = (element) => fields.every(({ dataset: { filter }, value: wanted }) => filter === "name"
    ? element.dataset.name.toLowerCase().includes(wanted.trim().toLowerCase())
    : wanted === "" || element.dataset[filter] === wanted);
  const named = (field) => `${board.id}.${field.dataset.filter}`;
  const apply = () => {
    for (const element of marked) element.toggleAttribute("hidden", !fits(element));
    for (const row of board.querySelectorAll("tr.class")) {
      row.hidden = ![...row.parentElement.rows].some((other) => other !== row && !other.hidden);
    }
    const rows = marked.filter((element) => element.closest(".ranked"));
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} noises`;
    reset.hidden = fields.every((field) => field.value === "");
  };
  const changed = () => {
    apply();
    address.write(fields.map((field) => [named(field), field.value.trim()]));
  };
  form.hidden = false;
  form.addEventListener("input", changed);
  reset.addEventListener("click", (event) => {
    event.preventDefault();
    for (const field of fields) field.value = "";
    changed();
    fields[0].focus();
  });
  for (const field of fields) {
    field.value = address.read(named(field));
    if (field.selectedIndex === -1) field.value = ""; // the board has no such value any more
  }
  if (fields.some((field) => field.value !== "")) apply();
}

document.addEventListener("DOMContentLoaded", () => {
  themes(document.getElementById("theme"));
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll(".filters").forEach(filters);
});
