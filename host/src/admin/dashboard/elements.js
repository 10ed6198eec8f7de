// Elements of the page. What comes from the server is put in as text and never as HTML.

/** An element with attributes (`on…` are listeners) and children, of which texts are text. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

export const card = (title, ...children) => h("section", { class: "card" }, h("h2", {}, title), ...children);

export const pill = (text, kind = "") => h("span", { class: `pill ${kind}` }, text);

/** A table; a column is [title, is a number]. Cells are texts or elements. */
export function table(caption, columns, rows) {
  const of = (isNumber) => ({ class: isNumber ? "number" : null });
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("thead", {}, h("tr", {}, columns.map(([title, isNumber]) => h("th", { scope: "col", ...of(isNumber) }, title)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => cell instanceof HTMLTableCellElement
        ? cell : h("td", of(columns[i][1]), cell)))))));
}

export const facts = (pairs) => h("dl", { class: "facts" }, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

export const number = (value, digits = 0) => Number(value).toLocaleString("en", { maximumFractionDigits: digits });

export const percent = (part, whole) => (whole > 0 ? `${number((100 * part) / whole, 1)} %` : "–");

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${number(value, value < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

export function span(ms) {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString();

export const seconds = (value) => (value == null ? "–" : value >= 1 ? `${number(value, 1)} s` : `${number(value * 1000, 1)} ms`);
