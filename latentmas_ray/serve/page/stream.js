"use strict";
// The server's answers: one JSON object, or a stream of server-sent events.

class ServerProblem extends Error {
  constructor(message, status, param) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

const headers = (key) => (key ? { Authorization: "Bearer " + key } : {});

// `path` is relative, so that a proxy may serve the page below a path of its own.
async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "omit", cache: "no-store", redirect: "error", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerProblem(`The server does not answer at ${location.host}.`, 0, null);
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

// The one line of an answer that is an error: OpenAI's form, or the status of something between here and the server.
async function problemOf(response) {
  let error = null;
  try { error = (await response.json()).error; } catch { /* it is no JSON */ }
  const message = error && typeof error.message === "string" ? error.message : `The server answered ${response.status} ${response.statusText}`.trim() + ".";
  const wait = response.headers.get("Retry-After");
  const later = response.status === 429 && wait ? ` Try again in ${wait} s.` : "";
  return new ServerProblem(message + later, response.status, error && error.param);
}

async function listModels(key) {
  const response = await send("v1/models", { headers: headers(key) });
  return (await response.json()).data;
}

// Yields the data of each server-sent event.
async function* serverEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (pending + value).split(/\r?\n\r?\n/);
      pending = blocks.pop();
      for (const block of blocks) {
        const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Asks one question. Calls `onText` with each part of the answer and `onRecord` with each record of the team's turns;
// returns the usage. Raises ServerProblem, or AbortError once `signal` is aborted, which cancels the question.
async function askTeam(request, { key, signal, onText, onRecord }) {
  const response = await send("v1/chat/completions", {
    method: "POST", signal, headers: { "Content-Type": "application/json", ...headers(key) }, body: JSON.stringify(request) });
  let usage = null;
  try {
    for await (const data of serverEvents(response.body)) {
      if (data === "[DONE]") return usage;
      const content = JSON.parse(data);
      if (content.error) throw new ServerProblem(content.error.message, content.error.status || 500, content.error.param);
      if (content.latentmas) onRecord(content.latentmas);
      usage = content.usage || usage;
      for (const choice of content.choices || []) if (choice.delta && choice.delta.content) onText(choice.delta.content, choice.index);
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ServerProblem) throw error;
    throw new ServerProblem("The connection ended before the answer was complete.", 0, null);
  }
  throw new ServerProblem("The connection ended before the answer was complete.", 0, null);
}
