"use strict";
// The picture of a team. Wide: agents from left to right by whom they read. Narrow: one below the other, with a rail.
const CARD = { height: 104, least: 156, most: 204, gap: 112, widest: 250, flat: 112, apart: 18, rail: 26, below: 46 };
const DOTS = 10;

// The place of each agent, {x, y, width}, and the picture's size.
function layOut(agents, width) {
  const depth = new Map();
  const depthOf = (name) => {
    if (!depth.has(name)) {
      depth.set(name, 0); // also for a team that reads in a circle, which no server has
      const reads = (agents.find((agent) => agent.name === name) || { reads: [] }).reads;
      depth.set(name, Math.max(-1, ...reads.map(depthOf)) + 1);
    }
    return depth.get(name);
  };
  const layers = [];
  for (const agent of agents) (layers[depthOf(agent.name)] = layers[depthOf(agent.name)] || []).push(agent.name);
  const room = (width - (layers.length - 1) * CARD.gap) / layers.length;
  return room < CARD.least ? inRail(agents, width) : inLayers(layers, Math.min(room, CARD.most), width);
}

function inLayers(layers, card, width) {
  const gap = layers.length > 1 ? Math.min(CARD.widest, (width - layers.length * card) / (layers.length - 1)) : 0;
  const tall = (count) => count * (CARD.height + CARD.apart) - CARD.apart;
  const height = Math.max(...layers.map((layer) => tall(layer.length)));
  const places = new Map();
  layers.forEach((layer, column) => layer.forEach((name, row) => places.set(name, {
    x: column * (card + gap), y: (height - tall(layer.length)) / 2 + row * (CARD.height + CARD.apart), width: card, layer: column })));
  return { places, width: layers.length * (card + gap) - gap, height, isRail: false, gap };
}

function inRail(agents, width) {
  const rowOf = new Map(agents.map((agent, row) => [agent.name, row]));
  const rail = agents.every((agent, row) => agent.reads.every((source) => rowOf.get(source) === row - 1)) ? 1 : CARD.rail;
  const places = new Map(agents.map((agent, row) => [agent.name, { x: rail, y: row * (CARD.height + CARD.below), width: width - rail - 2, layer: row }]));
  return { places, width, height: agents.length * (CARD.height + CARD.below) - CARD.below, isRail: true, gap: 0 };
}

const shorten = (text, room) => (text.length > room ? text.slice(0, Math.max(1, room - 1)) + "…" : text);

class TeamPicture {
  constructor(holder) {
    this.holder = holder;
    this.run = null;
    new ResizeObserver(() => this.build()).observe(holder);
  }

  show(run) {
    this.run = run;
    this.build();
  }

  build() {
    if (!this.run) return;
    const agents = [...this.run.agents.values()];
    this.numAgents = agents.length;
    this.layout = layOut(agents, Math.max(200, this.holder.clientWidth));
    this.cards = new Map();
    this.arrows = [];
    const { width, height } = this.layout;
    const title = draw("title", { id: "picture-title" });
    const svg = draw("svg", { width, height: height + 4, viewBox: `0 -2 ${width} ${height + 4}`, role: "img", "aria-labelledby": "picture-title" }, title);
    this.title = title;
    for (const agent of agents) for (const source of agent.reads) svg.append(this.arrow(source, agent.name));
    agents.forEach((agent, number) => svg.append(this.card(agent, number)));
    this.holder.replaceChildren(svg);
    this.update();
  }

  accentOf(name) { return `agent-${[...this.run.agents.keys()].indexOf(name) % 6}`; }

  card(turn, number) {
    const { x, y, width } = this.layout.places.get(turn.name);
    const room = Math.floor((width - 40) / 7.8);
    const text = (kind, dx, dy) => draw("text", { class: kind, x: x + dx, y: y + dy });
    const parts = { state: text("state", 14, 47), facts: text("facts", 14, 83), time: draw("g") };
    const name = draw("text", { class: "name", x: x + 32, y: y + 25 }, shorten(turn.name, room));
    const group = draw("g", { class: `card agent-${number % 6}` }, draw("title", null, turn.name),
      draw("rect", { class: "box", x, y, width, height: CARD.height, rx: 8 }),
      draw("path", { class: "diamond", d: `M${x + 20} ${y + 13}l6.5 6.5-6.5 6.5-6.5-6.5z` }),
      name, parts.state, parts.facts, parts.time);
    parts.marks = Array.from({ length: DOTS }, (_, place) => turn.thinks === "latent"
      ? draw("circle", { class: "dot", cx: x + 18 + place * 13, cy: y + 62, r: 3.6 })
      : draw("path", { class: "line-of-text", d: `M${x + 15.5 + place * 13} ${y + 62}h7` }));
    group.append(...parts.marks);
    this.cards.set(turn.name, { group, parts, turn: turn.name });
    return group;
  }

  arrow(source, reader) {
    const from = this.layout.places.get(source), to = this.layout.places.get(reader);
    const isText = this.run.agents.get(source).thinks !== "latent";
    const middle = CARD.height / 2;
    const group = draw("g", { "aria-hidden": "true" });
    let path, tip, label, squares;
    if (this.layout.isRail && to.layer === from.layer + 1) {
      const [x, y, end] = [from.x + 18, from.y + CARD.height, to.y];
      [path, tip] = [`M${x} ${y}V${end - 7}`, `M${x} ${end - 1}l-4.5-8h9z`];
      [label, squares] = [{ x: x + 44, y: y + 19, anchor: "start" }, { x, y: y + (end - y) / 2 - 3 }];
    } else if (this.layout.isRail) {
      const [y, end] = [from.y + middle, to.y + middle];
      [path, tip] = [`M${from.x} ${y}h-8q-8 0-8 8V${end - 8}q0 8 8 8h3`, `M${to.x - 1} ${end}l-8-4.5v9z`];
      [label, squares] = [{ x: from.x + 62, y: from.y + CARD.height + 19, anchor: "start" }, { x: from.x - 16, y: y + middle + 16 }];
    } else {
      const [x, y, end, endY] = [from.x + from.width, from.y + middle, to.x, to.y + middle];
      const bow = to.layer > from.layer + 1 ? CARD.height : 0;
      const flat = y === endY || bow ? 0 : Math.min(CARD.flat, (end - x) * 0.5); // room for the label before it bends
      const bend = (end - x - flat) / 2;
      path = `M${x} ${y}h${flat}C${x + flat + bend} ${y + bow} ${end - bend} ${endY + bow} ${end - 7} ${endY}`;
      tip = `M${end - 1} ${endY}l-8-4.5v9z`;
      [label, squares] = [{ x: x + 8, y: y - 10, anchor: "start" }, { x: (x + flat + end) / 2 - 3, y: (y + endY) / 2 + bow * 0.75 }];
    }
    const line = draw("path", { class: isText ? "edge as-text" : "edge", d: path });
    const texts = ["bytes", "way", "exposed"].map((kind, place) => draw("text", { class: `on-edge ${kind}`,
      x: label.x, y: label.y + (this.layout.isRail ? (place ? 15 : 0) : [0, 27, 42][place]), "text-anchor": label.anchor }));
    const marks = draw("g");
    group.append(line, draw("path", { class: "tip", d: tip }), ...texts, marks);
    this.arrows.push({ source, reader, isText, line, texts, marks, squares });
    return group;
  }

  update() {
    const { run } = this;
    if (!run) return;
    if (run.agents.size !== this.numAgents) { this.build(); return; }
    const most = Math.max(1e-9, ...[...run.agents.values()].map(secondsOf));
    for (const { group, parts, turn: name } of this.cards.values()) this.updateCard(run.agents.get(name), group, parts, most);
    for (const arrow of this.arrows) this.updateArrow(arrow);
    this.title.textContent = [...run.agents.values()].map((turn) =>
      `${turn.name}${turn.reads.length ? " reads " + turn.reads.join(", ") : ""}: ${stateOf(turn, this.isLast(turn))}`).join("; ");
  }

  isLast(turn) { return this.run.readersOf(turn.name).length === 0; }

  updateCard(turn, group, parts, most) {
    group.classList.toggle("is-on", turn.isOn);
    if (turn.isOn) group.dataset.phase = turn.phase; else delete group.dataset.phase;
    parts.state.textContent = stateOf(turn, this.isLast(turn));
    const read = (turn.did.reads || {}).tokens;
    parts.facts.textContent = turn.isOver ? [read === undefined ? null : `${read} read`, seconds(secondsOf(turn))].filter(Boolean).join(" · ") : "";
    const now = turn.progress || {};
    const what = turn.thinks === "latent" ? "latent_steps" : "tokens";
    const runs = turn.phase === (turn.thinks === "latent" ? "thinks" : "writes");
    const part = turn.isOver ? 1 : runs && now.of ? (now[what] || 0) / now.of : 0;
    const count = turn.thinks === "latent" && turn.isOver && !(turn.did.thinks || {}).latent_steps ? 0 : Math.ceil(part * DOTS);
    parts.marks.forEach((mark, place) => mark.classList.toggle("filled", place < count));
    const { x, y, width } = this.layout.places.get(turn.name);
    let start = x + 14;
    parts.time.replaceChildren(...partsOf(turn).filter(([, taken]) => taken > 0).map(([phase, taken]) => {
      const length = Math.max(1, ((width - 28) * taken) / most);
      start += length;
      return draw("rect", { class: `part-${phase}`, x: start - length, y: y + 90, width: length, height: 6 });
    }));
  }

  updateArrow({ source, reader, isText, line, texts, marks, squares }) {
    const { run } = this;
    const given = run.onArrow(source, reader);
    const turn = run.agents.get(source);
    const carried = isText ? [] : [...run.memoryBy(source)].filter((name) => run.turnOf(name).thinks === "latent").reverse();
    const isDone = given.length > 0 || (isText && turn.isOver);
    line.classList.toggle("is-done", isDone);
    const ways = [...new Set(given.map((one) => one.transport).filter(Boolean))].join(", ");
    const exposed = given.reduce((sum, one) => sum + (one.exposed_seconds || 0), 0);
    const lines = isText ? [isDone && turn.did.writes ? counted(turn.did.writes.tokens || 0, "token") : "", isDone ? "as text" : "", ""]
      : given.length ? [bytes(given.reduce((sum, one) => sum + (one.bytes || 0), 0)), ways, `${seconds(exposed)} exposed`] : ["", "", ""];
    if (this.layout.isRail) lines.splice(1, 2, [lines[1], lines[2]].filter(Boolean).join(" · "), "");
    texts.forEach((text, place) => { text.textContent = lines[place]; });
    const start = squares.x - (carried.length * 12 - 3) / 2;
    const isRail = this.layout.isRail;
    marks.replaceChildren(...carried.map((name, place) => draw("rect", {
      class: `square ${this.accentOf(name)} ${given.some((one) => one.agent === name) ? "filled" : ""}`, rx: 2, width: 9, height: 9,
      x: isRail ? squares.x - 4.5 + place * 12 : start + place * 12, y: squares.y - 4.5 })));
  }
}
