"use strict";
// Thoughts through the lens, drawn as in the report: heat strips, and a table of the likeliest tokens.

function thoughtStrips(thoughts) {
  const rows = ["entropy", "norm", "distance"].map((name) => {
    const values = thoughts.map((thought) => (thought.nearest ? thought[name] : null));
    const finite = values.filter((value) => value !== null);
    const [low, high] = [Math.min(...finite), Math.max(...finite)];
    const cells = values.map((value, step) => {
      const strength = value === null || high === low ? 0.5 : (value - low) / (high - low);
      const cell = make("i", { class: value === null ? "none" : null, title: `thought ${step}: ${name} ${figure(value)}` });
      if (value !== null) cell.style.opacity = (0.08 + 0.92 * strength).toFixed(3);
      return cell;
    });
    const range = finite.length ? `${figure(low)}–${figure(high)}` : "not finite";
    return [make("span", null, name), make("span", { class: "cells", "aria-hidden": "true" }, cells), make("span", null, range)];
  });
  return make("div", { class: "strip" }, rows);
}

function thoughtTable(name, thoughts) {
  const head = ["step", "likeliest tokens", "entropy", "norm", "distance", "nearest"];
  const token = (text, share) => {
    const found = make("span", { class: "token", title: share === undefined ? null : `${(100 * share).toFixed(1)} %` }, text);
    if (share !== undefined) found.style.opacity = (0.65 + 0.35 * share).toFixed(2);
    return found;
  };
  const rows = thoughts.map((thought, step) => make("tr", null,
    make("th", { scope: "row" }, String(step)),
    make("td", null, (thought.tokens || []).map(([text, share]) => token(text, share))),
    ["entropy", "norm", "distance"].map((kind) => make("td", { class: "number" }, thought.nearest ? figure(thought[kind]) : "–")),
    make("td", null, thought.nearest ? token(thought.nearest) : "–")));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `thoughts of ${name}` },
    make("table", { class: "thoughts" },
      make("thead", null, make("tr", null, head.map((title, place) => make("th", { scope: "col", class: place > 1 && place < 5 ? "number" : null }, title)))),
      make("tbody", null, rows)));
}

function thoughtDetails(name, accent, thoughts, isOpen) {
  const first = thoughts.slice(0, 4).map((thought) => ((thought.tokens || [])[0] || ["–"])[0].trim() || "␣").join(" ");
  const holder = make("details", { open: isOpen }, make("summary", { class: accent }, make("i", { class: "agent-mark" }), name,
    make("small", null, `${counted(thoughts.length, "thought")}: ${first}${thoughts.length > 4 ? " …" : ""}`)));
  // Built when it is opened: hundreds of thoughts at once would make the page slow.
  const open = () => { if (holder.open && holder.children.length === 1) holder.append(thoughtStrips(thoughts), thoughtTable(name, thoughts)); };
  holder.addEventListener("toggle", open);
  open();
  return holder;
}
