"use strict";
(() => {
  const ANNOUNCE_MS = 700; // between two announcements, so that a screen reader can follow
  const METHODS = ["single", "text", "latent"];
  const METHOD_WORDS = { single: "one agent alone", text: "agents that write", latent: "agents that think" };
  const state = { models: [], runs: [], shown: null, stop: null, startedAt: 0 };
  const picture = new TeamPicture(at("picture"));

  /* light and dark */
  const theme = at("theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { theme.textContent = isDark() ? "light" : "dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
  prefersDark.addEventListener("change", nameTheme);
  nameTheme();

  /* what is said */
  const said = { text: "", timer: null, at: 0 };
  // `more` is for a screen reader alone: what others see elsewhere.
  function say(text, { isLast = false, more = "" } = {}) {
    said.text = text;
    said.more = more;
    if (isLast) { clearTimeout(said.timer); said.timer = null; tell(); return; }
    if (said.timer === null) said.timer = setTimeout(tell, Math.max(0, said.at + ANNOUNCE_MS - performance.now()));
  }
  function tell() {
    said.timer = null;
    said.at = performance.now();
    at("status").textContent = said.text;
    at("said").textContent = [said.text, said.more].filter(Boolean).join(" ");
  }
  function complain(message, field = null) {
    for (const id of ["question", "latent-steps", "max-tokens", "key"]) at(id).toggleAttribute("aria-invalid", false);
    at("problem").hidden = !message;
    at("problem").textContent = message || "";
    if (field) { at(field).setAttribute("aria-invalid", "true"); at(field).focus(); }
  }

  /* the models */
  function described(model) {
    const { topology, method, agents, latent_steps, max_tokens, example, model: weights } = model.latentmas || {};
    const parts = model.id.split("/");
    return { id: model.id, topology: topology || parts[1] || model.id, method: method || (METHODS.includes(parts[2]) ? parts[2] : "latent"),
      agents: agents || [], latentSteps: latent_steps, maxTokens: max_tokens, example, weights };
  }

  async function loadModels() {
    const chosen = at("model").value;
    if (!isKey()) return;
    try {
      state.models = (await listModels(at("key").value)).map(described);
    } catch (problem) {
      complain(problem.message, problem.status === 401 && at("key").value ? "key" : null);
      return;
    }
    complain(state.models.length ? "" : "The server serves no model.");
    at("model").replaceChildren(...state.models.map((model) => make("option", { value: model.id }, model.id)));
    if (state.models.some((model) => model.id === chosen)) at("model").value = chosen;
    chooseModel();
  }

  function isKey() {
    if (/^[\x21-\x7e]*$/.test(at("key").value)) return true;
    complain("The API key may only have letters, digits and signs of ASCII, without spaces.", "key");
    return false;
  }

  const chosenModel = () => state.models.find((model) => model.id === at("model").value);
  const one = (model) => [model];
  const siblings = (model) => METHODS.map((method) => state.models.find((other) => other.topology === model.topology && other.method === method)).filter(Boolean);

  function chooseModel() {
    const model = chosenModel();
    if (!model) return;
    const isLatent = model.method === "latent";
    at("latent-steps").disabled = at("lens").disabled = !isLatent;
    at("latent-steps").placeholder = isLatent && model.latentSteps !== undefined ? String(model.latentSteps) : "";
    at("max-tokens").placeholder = model.maxTokens === undefined ? "" : String(model.maxTokens);
    at("compare").hidden = siblings(model).length < 2;
    at("example-offer").hidden = !model.example;
    at("lead").textContent = [model.topology, model.weights, counted(model.agents.length, "agent"), METHOD_WORDS[model.method]].filter(Boolean).join(" · ");
    if (!state.stop) show(new TeamRun(model));
  }

  /* asking */
  function numberIn(id, name, least) {
    const field = at(id);
    if (field.disabled || (field.value === "" && !field.validity.badInput)) return undefined;
    const value = Number(field.value);
    if (field.value !== "" && Number.isInteger(value) && value >= least) return value;
    complain(`${name} must be a whole number of at least ${least}, or empty for the server’s own.`, id);
    return null;
  }

  function readForm() {
    const question = at("question").value;
    if (!question.trim()) { complain("Write a question first.", "question"); return null; }
    if (!isKey()) return null;
    const latentSteps = numberIn("latent-steps", "Latent steps", 0);
    const maxTokens = latentSteps === null ? null : numberIn("max-tokens", "Max tokens", 1);
    if (latentSteps === null || maxTokens === null) return null;
    return { question, latentSteps, maxTokens, lens: at("lens").checked, key: at("key").value };
  }

  function requestOf(model, form) {
    const isLatent = model.method === "latent";
    const latentmas = { trace: true };
    if (isLatent && form.latentSteps !== undefined) latentmas.latent_steps = form.latentSteps;
    if (isLatent && form.lens) latentmas.lens = true;
    return { model: model.id, messages: [{ role: "user", content: form.question }], stream: true, stream_options: { include_usage: true },
      ...(form.maxTokens === undefined ? {} : { max_tokens: form.maxTokens }), latentmas };
  }

  async function start(modelsOf) {
    if (state.stop) return;
    complain("");
    if (!chosenModel()) await loadModels(); // the server may have started since
    if (state.stop || !chosenModel()) return;
    const models = modelsOf(chosenModel());
    const form = readForm();
    if (!form) return;
    state.stop = new AbortController();
    state.runs = models.map((model) => new TeamRun(model));
    setBusy(true);
    at("answers-section").hidden = at("events-section").hidden = false;
    at("answers-title").textContent = models.length > 1 ? "Answers" : "Answer";
    showCards();
    // One after the other: together they would slow each other down, and their seconds would say nothing.
    for (const run of state.runs) {
      if (state.stop.signal.aborted) break;
      show(run);
      await carryOut(run, form, state.stop.signal);
      if (run.problem) break;
    }
    state.stop = null;
    setBusy(false);
    updateCards();
    if (!state.runs.some((run) => run.problem || run.isStopped) && models.length > 1) say(`All ${models.length} methods have answered.`, { isLast: true });
  }

  async function carryOut(run, form, signal) {
    const began = performance.now();
    const since = () => (performance.now() - began) / 1000;
    run.began = began;
    say(`The question is sent to ${run.model.id}.`);
    const timer = setInterval(() => refresh(run), 200);
    try {
      run.usage = await askTeam(requestOf(run.model, form), { key: form.key, signal,
        onText: (text, place) => { run.firstTextAt ??= since(); run.write(text, place); refresh(run); },
        onRecord: (record) => { if (run.take(record, since())) say(`${record.agent} ${sentenceOf(record)}.`); refresh(run); } });
    } catch (problem) {
      if (problem.name === "AbortError") run.isStopped = true;
      else { run.problem = problem.message; complain(problem.message, problem.status === 401 ? "key" : null); }
    } finally {
      clearInterval(timer);
      run.end(since());
    }
    say(run.problem ? "There is no complete answer." : run.isStopped ? `Stopped after ${seconds(run.seconds)}.` : `Answered in ${seconds(run.seconds)}.`, { isLast: true, more: run.answer });
    render(run);
  }

  function setBusy(isBusy) {
    for (const id of ["ask", "compare"]) at(id).setAttribute("aria-disabled", String(isBusy));
    at("stop").setAttribute("aria-disabled", String(!isBusy));
  }

  /* showing */
  let isPlanned = false;
  function refresh(run) {
    if (isPlanned) return;
    isPlanned = true;
    requestAnimationFrame(() => { isPlanned = false; render(run); });
  }

  function render(run) {
    updateCards();
    if (state.shown === run) showRun();
  }

  function show(run) {
    state.shown = run;
    at("events").tBodies[0].replaceChildren();
    at("thoughts").replaceChildren();
    picture.show(run);
    at("team-title").textContent = run.agents.size > 1 ? "The team" : "The agent";
    showRun();
    updateCards();
  }

  function showRun() { // waits of nothing are left out of the table
    const run = state.shown;
    picture.update();
    const rows = at("events").tBodies[0];
    for (const record of run.records.filter((one) => one.what !== "waits" || one.seconds > 0.001).slice(rows.rows.length)) {
      rows.append(make("tr", null, make("td", { class: "number when" }, seconds(record.at)), make("th", { scope: "row" }, record.agent),
        make("td", { class: "what" }, sentenceOf(record)), make("td", { class: "number took" }, record.seconds === undefined ? "" : seconds(record.seconds))));
    }
    at("events-section").hidden = run.records.length === 0;
    const known = at("thoughts").children.length;
    [...run.thoughts].slice(known).forEach(([name, thoughts], place) =>
      at("thoughts").append(thoughtDetails(name, picture.accentOf(name), thoughts, known + place === 0)));
    at("thoughts-section").hidden = run.thoughts.size === 0;
  }

  const measures = [
    ["time", (run) => run.seconds ?? (run.began === undefined ? null : (performance.now() - run.began) / 1000), seconds],
    ["first token", (run) => run.firstTextAt, seconds],
    ["written tokens", (run) => run.total("writes", "tokens") || (run.usage || {}).completion_tokens, String],
    ["latent steps", (run) => (run.model.method === "latent" ? run.total("thinks", "latent_steps") || (run.usage || {}).latent_steps : 0), String],
    ["read tokens", (run) => run.total("reads", "tokens") || (run.usage || {}).prompt_tokens, String],
    ["memory read", (run) => run.handOvers.reduce((sum, one) => sum + (one.bytes || 0), 0), bytes],
  ];

  function showCards() {
    at("answers").replaceChildren(...state.runs.map((run) => {
      const words = make("div", { class: "words", dir: "auto" });
      const facts = make("span");
      const rows = measures.map(([name]) => ({ bar: make("i"), value: make("dd"), name }));
      const list = make("dl", { class: state.runs.length > 1 ? "measures" : "measures alone" }, rows.map(({ bar, value, name }) => make("div", null, make("dt", null, name), make("dd", { class: "length", "aria-hidden": "true" }, bar), value)));
      const button = make("button", { type: "button", class: "shown", hidden: state.runs.length < 2 }, "show its team");
      button.addEventListener("click", () => show(run));
      run.card = { words, facts, rows, button };
      return make("article", { class: `answer ${run.model.method}`, "aria-label": run.model.id },
        make("div", { class: "head" }, make("h3", null, state.runs.length > 1 ? run.model.method : run.model.id), facts), words, list, button);
    }));
  }

  function updateCards() {
    const values = measures.map(([, value]) => state.runs.map((run) => value(run)));
    state.runs.forEach((run, place) => {
      const { words, facts, rows, button } = run.card;
      if (words.textContent !== run.answer) words.textContent = run.answer;
      words.classList.toggle("is-writing", !run.isOver && run.answer !== "");
      words.setAttribute("aria-busy", String(!run.isOver));
      facts.textContent = run.problem ? "failed" : run.isStopped ? "stopped" : run.isOver ? METHOD_WORDS[run.model.method] : run.began !== undefined ? "at work" : state.stop ? "waits for its turn" : "not asked";
      button.setAttribute("aria-pressed", String(state.shown === run));
      rows.forEach(({ bar, value }, row) => {
        const found = values[row][place];
        const most = Math.max(...values[row].map((one) => one || 0), 1e-9);
        bar.style.width = `${(100 * (found || 0)) / most}%`;
        value.textContent = found === null || found === undefined ? "–" : measures[row][2](found);
      });
    });
  }

  at("form").addEventListener("submit", (event) => { event.preventDefault(); start(one); });
  at("compare").addEventListener("click", () => start(siblings));
  at("stop").addEventListener("click", () => { if (state.stop) state.stop.abort(); });
  at("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); start(one); }
  });
  at("example").addEventListener("click", () => { at("question").value = chosenModel().example; at("question").focus(); });
  at("model").addEventListener("change", chooseModel);
  at("key").addEventListener("change", loadModels);
  loadModels();
})();
