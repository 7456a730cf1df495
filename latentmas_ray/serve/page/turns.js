"use strict";
// What is known of the turns of one question. A record of the server says what an agent does (`running`) or, once its
// turn is over, what it did: {agent, what, seconds, tokens, latent_steps, of, to, bytes, transport, exposed_seconds}.
const PHASES = ["waits", "reads", "thinks", "hands_over", "writes"];

class TeamRun {
  constructor(model) {
    this.model = model;
    this.agents = new Map(model.agents.map((agent) => [agent.name, newTurn(agent)]));
    this.handOvers = [];
    this.records = []; // of turns that are over
    this.thoughts = new Map();
    this.texts = []; // one, unless the server gives several answers to each question
    this.usage = null;
    this.firstTextAt = null; // seconds since the question was sent
    this.seconds = null;
    this.problem = null;
    this.isStopped = false;
  }

  get isOver() { return this.seconds !== null; }

  get answer() { return this.texts.length > 1 ? this.texts.map((text, place) => `${place + 1}. ${text || ""}`).join("\n") : this.texts[0] || ""; }

  write(text, place) { this.texts[place] = (this.texts[place] || "") + text; }

  readersOf(name) { return [...this.agents.values()].filter((turn) => turn.reads.includes(name)); }

  // Returns whether the record is worth a line of its own: a new phase, or something that is over.
  take(record, at) {
    if (typeof record.agent !== "string") return false;
    const turn = this.turnOf(record.agent);
    if (record.what === "thoughts") {
      this.thoughts.set(record.agent, record.thoughts || []);
      return false;
    }
    if (record.running) return this.light(turn, record);
    if (!PHASES.includes(record.what) && record.what !== "repeats") return false;
    this.records.push({ ...record, at });
    if (record.what === "hands_over") this.handOver(turn, record);
    else if (record.what === "repeats") Object.assign(turn, newTurn(turn), { isRepeated: true });
    else this.finish(turn, record);
    return true;
  }

  turnOf(name) {
    if (!this.agents.has(name)) this.agents.set(name, newTurn({ name, thinks: "text", reads: [] }));
    return this.agents.get(name);
  }

  light(turn, record) {
    const isLate = PHASES.indexOf(record.what) < PHASES.indexOf(turn.phase); // a snapshot that is older than the last record
    if (turn.isOver || turn.phase === "done" || isLate || !PHASES.includes(record.what)) return false;
    const isNew = turn.phase !== record.what;
    Object.assign(turn, { phase: record.what, isOn: true, progress: record });
    if (record.what !== "waits") for (const source of turn.reads) this.settle(this.turnOf(source));
    return isNew;
  }

  finish(turn, record) {
    turn.did[record.what] = record;
    turn.isOver = true;
    Object.assign(turn, turn.thinks === "latent" ? { phase: "hands_over", isOn: true } : { phase: "done", isOn: false });
    this.settle(turn);
  }

  handOver(turn, record) {
    turn.did.hands_over = record;
    if (record.to) this.handOvers.push(record);
  }

  // An agent hands over until all its readers have read. What it did may be told later: a process that runs all agents has
  // time for it only at the end.
  settle(turn) {
    const isAwaited = this.readersOf(turn.name).some((reader) => !reader.isOver && ["idle", "waits", "reads"].includes(reader.phase));
    if (!isAwaited) Object.assign(turn, { phase: "done", isOn: false });
  }

  end(secondsTaken) {
    this.seconds = secondsTaken;
    for (const turn of this.agents.values()) Object.assign(turn, { isOn: false, phase: turn.isOver ? "done" : turn.phase === "idle" ? "idle" : "ended" });
  }

  // The agents whose memory reaches `reader` by way of `source`: itself, and what it has read.
  memoryBy(source, seen = new Set()) {
    if (seen.has(source)) return seen;
    seen.add(source);
    for (const other of this.turnOf(source).reads) this.memoryBy(other, seen);
    return seen;
  }

  // The hand-overs that the arrow from `source` to `reader` stands for.
  onArrow(source, reader) {
    const own = this.memoryBy(source);
    return this.handOvers.filter((one) => one.to === reader && own.has(one.agent));
  }

  total(what, amount) {
    return this.records.filter((record) => record.what === what).reduce((sum, record) => sum + (record[amount] || 0), 0);
  }
}

function newTurn({ name, thinks, reads }) {
  return { name, thinks, reads: reads || [], phase: "idle", isOn: false, isOver: false, progress: null, did: {} };
}

// Its hand-overs are in the seconds of those who read them.
const partsOf = (turn) => PHASES.map((what) => [what, what === "hands_over" && (turn.did[what] || {}).to ? 0 : (turn.did[what] || {}).seconds || 0]);
const secondsOf = (turn) => partsOf(turn).reduce((sum, [, taken]) => sum + taken, 0);

// What an agent does now, in a few words for its card.
function stateOf(turn, isLast) {
  const now = turn.progress || {};
  const share = (amount) => (now[amount] === undefined ? "" : now.of ? ` ${now[amount]} of ${now.of}` : ` ${now[amount]}`);
  switch (turn.phase) {
    case "waits": return turn.reads.length ? "waits for memory" : "waits";
    case "reads": return "reads" + (now.tokens ? ` ${counted(now.tokens, "token")}` : "");
    case "thinks": return "thinks" + share("latent_steps");
    case "writes": return "writes" + (now.tokens ? ` ${counted(now.tokens, "token")}` : "");
    case "hands_over": return "hands over memory";
    case "done": return turn.did.writes ? `wrote ${counted(turn.did.writes.tokens || 0, "token")}` : turn.did.thinks ? `thought ${counted(turn.did.thinks.latent_steps || 0, "step")}` : turn.isOver ? "has read" : "is done";
    case "ended": return "was stopped";
    default: return isLast ? "writes the answer" : turn.thinks === "latent" ? "thinks" : "writes for others";
  }
}

// One record as a sentence without its subject.
function sentenceOf(record) {
  const running = record.running;
  const exposed = record.exposed_seconds === undefined ? "" : `, ${seconds(record.exposed_seconds)} exposed`;
  switch (record.what) {
    case "waits": return running ? "waits" : "waited";
    case "reads": return running ? "reads" : `read ${counted(record.tokens || 0, "token")}`;
    case "thinks": return running ? "thinks" : `thought ${counted(record.latent_steps || 0, "step")}`;
    case "writes": return running ? "writes" : `wrote ${counted(record.tokens || 0, "token")}`;
    case "repeats": return `starts again: its turn was lost`;
    default: return `handed over ${bytes(record.bytes || 0)}${record.to ? " to " + record.to : ""}${record.transport ? " by " + record.transport : ""}${exposed}`;
  }
}
