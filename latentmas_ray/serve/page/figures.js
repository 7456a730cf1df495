"use strict";
// Elements and numbers. Texts of users and models only become text nodes, so they are never parsed as HTML.
const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return element;
}

const make = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const at = (id) => document.getElementById(id);

function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value > 0 && value < 0.001 ? "<0.001" : Number(value.toPrecision(3)).toString();
}

function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  return value < 0.0005 ? Math.round(value * 1e6) + " µs" : value < 1 ? Math.round(value * 1e3) + " ms" : figure(value) + " s";
}

function bytes(value) {
  const units = ["B", "KB", "MB", "GB"];
  let place = 0;
  while (value >= 999.5 && place < 3) { value /= 1000; place += 1; }
  return figure(value) + " " + units[place];
}

const counted = (count, one, many = one + "s") => `${count} ${count === 1 ? one : many}`;
