"use strict";
// Texts come from the wire: they are set as text, never as HTML.
const $ = id => document.getElementById(id);
// What is called with each snapshot, by the parts of the page.
const shows = [];
// What is called with what is new of the last hour: see HistoryPart in process/history.py.
const learns = [];
const FAILED = ["failed", "timed_out", "rejected", "undecodable"];
const sum = (counts, names) => names.reduce((all, name) => all + (counts[name] || 0), 0);
const count = number => number == null ? "" : number.toLocaleString("en");
const span = seconds => seconds == null ? "" : seconds < 100 ? seconds.toFixed(1) + " s"
  : seconds < 6000 ? Math.round(seconds / 60) + " min" : Math.round(seconds / 3600) + " h";
const percent = (part, all) => all ? (100 * part / all).toFixed(part > 0.1 * all ? 0 : 1) + " %" : "";
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
// Their roles in a table: as blocks, on a small screen, some browsers would take them for none.
const ROLES = {thead: "rowgroup", tbody: "rowgroup", tr: "row", td: "cell"};
function part(name, text, kind) {
  const made = element(name, text, kind);
  made.setAttribute("role", ROLES[name]);
  return made;
}
// A table whose rows stay the same elements while their texts change: the focus and a selection of text outlive that.
// A column: {name, value(row) -> text, kind: "number" or "long", bad(row)}. The first one names the row, and is a button
// that opens `details(row)`: [[name, text], ...]. `key(row)`: what the row is known again by.
function table(id, columns, rows, key, details) {
  const place = $(id), known = place.rowsByKey || new Map(), now = new Map();
  if (!place.tHead) place.append(head(columns));
  place.setAttribute("role", "table");
  for (const row of rows) {
    const line = known.get(key(row)) || newLine(columns, details);
    now.set(key(row), line);
    fill(line, columns, row, details);
  }
  place.rowsByKey = now;
  const wanted = [...now.values()].map(line => line.body);
  if (!wanted.length) wanted.push(place.none ||= noLine(columns));
  const there = [...place.tBodies];
  if (wanted.length !== there.length || wanted.some((body, at) => body !== there[at])) order(place, wanted);
}
function order(place, wanted) {
  for (const body of [...place.tBodies]) if (!wanted.includes(body)) body.remove();
  wanted.forEach((body, at) => { if (place.tBodies[at] !== body) place.insertBefore(body, place.tBodies[at] || null); });
}
function head(columns) {
  const made = part("thead", ""), line = part("tr", "");
  for (const {name, kind} of columns) {
    const cell = element("th", name, kind === "number" ? kind : "");
    cell.scope = "col";
    cell.setAttribute("role", "columnheader");
    line.append(cell);
  }
  made.append(line);
  return made;
}
function noLine(columns) {
  const body = part("tbody", ""), line = part("tr", ""), cell = part("td", "none", "soft");
  cell.colSpan = columns.length;
  line.append(cell);
  body.append(line);
  return body;
}
function newLine(columns, details) {
  const body = part("tbody", ""), tr = part("tr", "");
  const cells = columns.map(({name}, at) => {
    const cell = at ? part("td", "") : element("th", "");
    if (!at) {
      cell.scope = "row";
      cell.setAttribute("role", "rowheader");
    }
    cell.dataset.name = name;
    tr.append(cell);
    return cell;
  });
  body.append(tr);
  const line = {body, cells, row: null, more: null};
  if (details) {
    const button = element("button", "", "more");
    button.type = "button";
    button.ariaExpanded = "false";
    button.addEventListener("click", () => toggle(line, columns, details));
    cells[0].append(button);
    cells[0] = button;
  }
  return line;
}
function toggle(line, columns, details) {
  const isOpen = line.cells[0].ariaExpanded === "true";
  line.cells[0].ariaExpanded = String(!isOpen);
  if (isOpen) {
    line.more.remove();
    line.more = null;
    return;
  }
  line.more = part("tr", "", "details");
  const cell = part("td", "");
  cell.colSpan = columns.length;
  cell.append(element("dl", ""));
  line.more.append(cell);
  line.body.append(line.more);
  fill(line, columns, line.row, details);
}
function fill(line, columns, row, details) {
  line.row = row;
  columns.forEach(({value, kind, bad}, at) => {
    const cell = line.cells[at], text = String(value(row));
    put(cell, text);
    if (at) cell.className = (kind || "") + (bad && bad(row) ? " bad" : "");
    if (kind === "long") cell.title = text;
  });
  if (line.more) fillDetails(line.more.querySelector("dl"), details(row).filter(([, text]) => text !== "" && text != null));
}
function fillDetails(list, pairs) {
  while (list.children.length > pairs.length) list.lastChild.remove();
  while (list.children.length < pairs.length) {
    const box = element("div", "");
    box.append(element("dt", ""), element("dd", ""));
    list.append(box);
  }
  pairs.forEach(([name, text], at) => {
    put(list.children[at].children[0], name);
    put(list.children[at].children[1], String(text));
  });
}
