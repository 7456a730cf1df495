"use strict";
(() => {
  const PAGE_SIZE = 50;
  const MARKS = { 1: ["●", "right"], 0: ["○", "wrong"], "-": ["–", "none"], f: ["×", "failed"], x: ["·", "none"] };
  const WORDS = { 1: "right", 0: "wrong", "-": "not graded", f: "failed", x: "not asked" };
  const parsed = {};

  // Texts of models only become text nodes, so they are never parsed as HTML.
  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
    return element;
  }

  function data(name) {
    if (!(name in parsed)) {
      const block = document.getElementById("data-" + name);
      parsed[name] = block ? JSON.parse(block.textContent) : null;
    }
    return parsed[name];
  }

  function figure(value) {
    if (value === null || value === undefined) return "not finite";
    return value > 0 && value < 0.001 ? "<0.001" : Number(value.toPrecision(3)).toString();
  }

  function seconds(value) {
    return value < 0.0005 ? Math.round(value * 1e6) + " µs" : value < 1 ? Math.round(value * 1e3) + " ms" : figure(value) + " s";
  }

  function bytes(value) {
    const units = ["B", "KB", "MB", "GB"];
    let place = 0;
    while (value >= 999.5 && place < 3) { value /= 1000; place += 1; }
    return figure(value) + " " + units[place];
  }

  /* light and dark */
  const theme = document.getElementById("theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
  function nameTheme() { theme.textContent = isDark() ? "light" : "dark"; }
  theme.hidden = false;
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  prefersDark.addEventListener("change", nameTheme);
  nameTheme();

  /* the pictures of thoughts */
  function draw(picture, question) {
    const paths = (data("paths-" + picture.dataset.run) || {})[question];
    if (!paths) return;
    picture.querySelector(".shown-question").textContent = question;
    picture.querySelector("select").value = question;
    for (const column of picture.querySelectorAll(".column")) {
      const parts = paths[column.dataset.agent] || {};
      for (const path of column.querySelectorAll("[data-part]")) path.setAttribute("d", parts[path.dataset.part] || "");
    }
  }
  const pictures = [...document.querySelectorAll(".thinking")];
  for (const picture of pictures) {
    const choice = picture.querySelector("select");
    picture.querySelector(".needs-script").hidden = false;
    choice.addEventListener("change", () => draw(picture, choice.value));
  }

  /* the list of questions */
  const index = data("index");
  const at = (id) => document.getElementById(id);
  const state = { group: 0, filter: "all", search: "", runs: new Set(), start: 0, found: [], question: null };

  function details(group, row) {
    const size = index.groups[group].piece_size;
    return data(`questions-${group}-${Math.floor(row / size)}`)[row % size];
  }

  function matches(row, number) {
    const [id, title, outcomes, flags] = row;
    const group = index.groups[state.group];
    const shown = [...outcomes].filter((outcome, place) => state.runs.has(group.runs[place]));
    const graded = shown.filter((outcome) => outcome === "1" || outcome === "0");
    const keep = {
      all: true,
      disagree: graded.includes("1") && graded.includes("0"),
      right: graded.length > 0 && !graded.includes("0"),
      wrong: graded.length > 0 && !graded.includes("1"),
      failed: shown.includes("f") || shown.includes("-"),
      traced: flags.includes("t"),
      alarm: flags.includes("a"),
    }[state.filter];
    if (!keep || !state.search) return keep;
    const wanted = state.search.toLowerCase();
    if (id.toLowerCase().includes(wanted) || title.toLowerCase().includes(wanted)) return true;
    const all = details(state.group, number);
    const texts = [all.question, all.gold, ...Object.values(all.runs).map((run) => run.answer)];
    return texts.some((text) => text && text.toLowerCase().includes(wanted));
  }

  function search() {
    state.found = [];
    index.groups[state.group].rows.forEach((row, number) => { if (matches(row, number)) state.found.push(number); });
    state.start = 0;
    list();
  }

  function marks(outcomes) {
    const runs = index.groups[state.group].runs;
    return [...outcomes].map((outcome, place) =>
      state.runs.has(runs[place])
        ? make("span", { class: MARKS[outcome][1], title: `${index.runs[runs[place]].label}: ${WORDS[outcome]}` }, MARKS[outcome][0])
        : null);
  }

  function list() {
    const rows = index.groups[state.group].rows;
    const end = Math.min(state.start + PAGE_SIZE, state.found.length);
    at("range").textContent = state.found.length ? `${state.start + 1}–${end} of ${state.found.length}` : "none";
    at("back").disabled = state.start === 0;
    at("on").disabled = end === state.found.length;
    at("list").replaceChildren(...state.found.slice(state.start, end).map((number) => {
      const [id, title, outcomes, flags] = rows[number];
      const button = make("button", { type: "button", "aria-current": String(number === state.question) },
        make("span", { class: "top" }, make("span", { class: "id", dir: "auto" }, id),
          flags.includes("a") ? make("span", { class: "flag" }, "alarm") : null,
          make("span", { class: "outcomes" }, marks(outcomes))),
        make("span", { class: "title" }, title));
      button.addEventListener("click", () => show(number));
      return make("li", null, button);
    }));
  }

  function show(number) {
    state.question = number;
    const [id, , outcomes] = index.groups[state.group].rows[number];
    const all = details(state.group, number);
    const runs = index.groups[state.group].runs;
    const shown = runs.map((key, place) => (state.runs.has(key) && all.runs[key] ? answer(key, outcomes[place], all.runs[key]) : null));
    at("question").replaceChildren(
      make("h3", { dir: "auto" }, id),
      make("p", { class: "words" }, all.question),
      ...(all.gold === null ? [] : [make("p", { class: "caption" }, "gold: ", make("bdi", { class: "gold" }, all.gold))]),
      make("div", { class: "answers" }, shown));
    for (const picture of pictures) if (runs.includes(picture.dataset.run)) draw(picture, id);
    list();
  }

  function answer(key, outcome, run) {
    const { label, accent } = index.runs[key];
    const head = make("h4", null, label, make("span", { class: MARKS[outcome][1] }, MARKS[outcome][0] + " " + WORDS[outcome]));
    if (run.error) return make("div", { class: "answer " + accent }, head, make("p", { class: "words" }, run.error));
    const [prompt, latent, output] = run.tokens;
    const read = run.prediction === null ? "no answer" : run.prediction;
    const facts = [`${prompt} prompt tokens`,
      ...(latent ? [`${latent} latent steps`] : []), `${output} output tokens`, seconds(run.seconds)];
    return make("div", { class: "answer " + accent }, head,
      make("pre", null, run.answer || "(nothing)"),
      make("p", { class: "facts" }, "read as ", make("bdi", null, read), " · " + facts.join(" · ")),
      run.agents.map(agent));
  }

  function agent(found) {
    const [prompt, latent, output] = found.tokens;
    const alarms = found.alarms;
    const parts = [`${prompt} prompt`, ...(latent ? [`${latent} latent`] : []), ...(output ? [`${output} output`] : [])];
    const summary = make("summary", null, make("b", null, found.name), make("small", null, parts.join(", ")),
      alarms.length ? make("span", { class: "flag" }, ` ${alarms.length} ${alarms.length === 1 ? "alarm" : "alarms"}`) : null,
      found.cut_off ? make("span", { class: "flag" }, " " + found.cut_off) : null);
    const holder = make("details", null, summary);
    // Built when it is opened: hundreds of thoughts at once would make the page slow.
    holder.addEventListener("toggle", () => { if (holder.open && holder.children.length === 1) holder.append(...inside(found)); });
    return holder;
  }

  function inside(found) {
    const alarms = found.alarms;
    const spent = Object.entries(found.seconds).map(([phase, value]) => `${phase} ${seconds(value)}`);
    return [
      spent.length ? make("p", { class: "facts" }, spent.join(" · "), found.own_seconds ? " (its share of the agent's steps)" : " (its batch)") : null,
      alarms.length ? make("ul", { class: "alarms" }, alarms.map((alarm) => make("li", null, alarm.text))) : null,
      found.notes.length ? make("ul", { class: "notes" }, found.notes.map((text) => make("li", null, text))) : null,
      ...(found.prompt === undefined ? [] : [make("h5", null, "prompt"), make("pre", null, found.prompt)]),
      ...reads(found),
      ...(found.thoughts ? [make("h5", null, "thoughts through the lens"), strip(found.thoughts, alarms), table(found.thoughts, alarms)] : []),
      ...(found.text === undefined ? [] : [make("h5", null, "wrote"), make("pre", null, found.text)]),
    ].filter((element) => element !== null);
  }

  function reads(found) {
    const effects = found.reads || [];
    const lines = [];
    if (effects.length) {
      const most = Math.max(...effects.map(([, effect]) => effect || 0), 1e-12);
      lines.push(make("h5", null, "read, and what leaving it out changes (nats)"));
      lines.push(...effects.map(([source, effect]) => make("div", { class: "effect" }, make("span", null, source),
        make("span", null, make("i", { style: `width:${(100 * (effect || 0)) / most}%` })),
        make("span", null, effect === null ? "–" : figure(effect)))));
    }
    if (found.read.length) {
      lines.push(make("p", { class: "facts" }, "memory: ", found.read.map(([source, size, taken, exposed]) =>
        `${source} ${bytes(size)} in ${seconds(taken)}, ${seconds(exposed)} of them exposed`).join("; ")));
    }
    return lines;
  }

  function strip(thoughts, alarms) {
    const flagged = new Set(alarms.map((alarm) => alarm.step));
    const rows = [["entropy", 1], ["norm", 2], ["distance", 3]].map(([name, place]) => {
      const values = thoughts.map((thought) => thought[place]);
      const finite = values.filter((value) => value !== null);
      const [low, high] = [Math.min(...finite), Math.max(...finite)];
      const cells = values.map((value, step) => {
        const strength = value === null || high === low ? 0.5 : (value - low) / (high - low);
        return make("i", {
          class: (flagged.has(step) ? "alarm " : "") + (value === null ? "none" : ""),
          style: `opacity:${(0.08 + 0.92 * strength).toFixed(3)}`, title: `thought ${step}: ${name} ${figure(value)}` });
      });
      const range = finite.length ? `${figure(low)}–${figure(high)}` : "not finite";
      return [make("span", null, name), make("span", { class: "cells" }, cells), make("span", null, range)];
    });
    return make("div", { class: "strip" }, rows);
  }

  function table(thoughts, alarms) {
    const flagged = new Set(alarms.map((alarm) => alarm.step));
    const head = ["", "most likely tokens", "entropy", "norm", "distance", "nearest"];
    const body = thoughts.map(([tokens, entropy, norm, distance, nearest], step) => make("tr", { class: flagged.has(step) ? "alarm" : null },
      make("td", null, String(step)),
      make("td", null, tokens.map(([token, share]) => make("span", {
        class: "token", title: share === null ? "" : `${(100 * share).toFixed(1)} %`, style: `opacity:${(0.65 + 0.35 * (share || 0)).toFixed(2)}` }, token))),
      [entropy, norm, distance].map((value) => make("td", { class: "number" }, figure(value))),
      make("td", null, make("span", { class: "token" }, nearest))));
    return make("div", { class: "scroll" }, make("table", { class: "thoughts" },
      make("thead", null, make("tr", null, head.map((name, place) => make("th", { class: place > 1 && place < 5 ? "number" : null }, name)))),
      make("tbody", null, body)));
  }

  function choose(group) {
    state.group = group;
    state.question = null;
    const runs = index.groups[group].runs;
    state.runs = new Set(runs);
    at("runs").replaceChildren(make("legend", null, "runs"), ...runs.map((key) => {
      const box = make("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => {
        if (box.checked) state.runs.add(key); else state.runs.delete(key);
        search();
        if (state.question !== null) show(state.question);
      });
      return make("label", { class: index.runs[key].accent }, box, make("i", { class: "mark" }), index.runs[key].label);
    }));
    search();
    if (state.found.length) show(state.found[0]);
    else at("question").replaceChildren();
  }

  at("browser").hidden = false;
  at("group").append(...index.groups.map((group, number) => make("option", { value: String(number) }, group.title)));
  document.querySelector(".filters .group").hidden = index.groups.length === 1;
  at("group").addEventListener("change", () => choose(Number(at("group").value)));
  at("filter").addEventListener("change", () => { state.filter = at("filter").value; search(); });
  at("search").addEventListener("input", () => { state.search = at("search").value.trim(); search(); });
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  at("back").addEventListener("click", () => { state.start = Math.max(0, state.start - PAGE_SIZE); list(); });
  at("on").addEventListener("click", () => { state.start += PAGE_SIZE; list(); });
  for (const link of document.querySelectorAll("a[data-question]")) {
    link.addEventListener("click", () => {
      const group = Number(link.dataset.group);
      if (group !== state.group) { at("group").value = String(group); choose(group); }
      const number = index.groups[group].rows.findIndex((row) => row[0] === link.dataset.question);
      if (number < 0) return;
      const place = state.found.indexOf(number);
      if (place >= 0) state.start = place - (place % PAGE_SIZE);
      show(number);
    });
  }
  choose(0);
})();
