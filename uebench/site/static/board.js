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

function filters(form) {
  const board = form.closest(".board");
  const fields = [...form.querySelectorAll("[data-filter]")];
  const count = form.querySelector("output");
  const noises = [...board.querySelectorAll("[data-name]")].filter((one) => one.dataset.status !== "reference");
  const fits = (one) => fields.every(({ dataset: { filter }, value: wanted }) => filter === "name"
    ? one.dataset.name.toLowerCase().includes(wanted.trim().toLowerCase())
    : wanted === "" || one.dataset[filter] === wanted);
  form.hidden = false;
  form.addEventListener("input", () => {
    for (const one of noises) one.toggleAttribute("hidden", !fits(one));
    for (const row of board.querySelectorAll("tr.class")) {
      row.hidden = ![...row.parentElement.rows].some((other) => other !== row && !other.hidden);
    }
    const rows = noises.filter((one) => one.closest(".ranked"));
    count.textContent = `${rows.filter((one) => !one.hidden).length} of ${rows.length} noises`;
  });
}

document.addEventListener("DOMContentLoaded", () => {
  themes(document.getElementById("theme"));
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll(".filters").forEach(filters);
});
