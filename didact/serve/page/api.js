// The server: requests with the key where one is wanted, failures in plain words, and streams read event by event.

import { ask } from "./dom.js";
import { random } from "./keep.js";

const KEY = "didact.key";
let asking = null; // one dialog for all requests that were refused at once

// What went wrong, as a person is told; `lost` means that it is not known whether the server got the request.
export class Trouble extends Error {
  constructor(message, { status = 0, code = "", lost = false } = {}) {
    super(message);
    Object.assign(this, { status, code, lost });
  }
}

// The response, once the server takes the request; asks for a key where one is missing.
export async function request(path, { body, method, idempotency, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = body ? { "Content-Type": "application/json" } : {};
    if (key) headers.Authorization = `Bearer ${key}`;
    if (idempotency) headers["Idempotency-Key"] = idempotency;
    const sent = { method: method ?? (body ? "POST" : "GET"), headers, signal, body: body && JSON.stringify(body) };
    const response = await reached(fetch(path, sent));
    if (response.ok) return response;
    const trouble = await told(response);
    if (response.status !== 401) throw trouble;
    if (key === sessionStorage.getItem(KEY) && !(await keyed())) throw trouble;
  }
}

export async function json(path, options) {
  return await reached((await request(path, options)).json());
}

async function keyed() {
  const explain = "This server answers to those who have a key. It is kept until this tab is closed.";
  asking ??= ask("API key", "Key", { type: "password", explain }).finally(() => (asking = null));
  const key = await asking;
  if (key) sessionStorage.setItem(KEY, key);
  return Boolean(key);
}

async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server cannot be reached. Check that it is running, then try again.", { lost: true });
  }
}

async function told(response) {
  const { error = {} } = await response.json().catch(() => ({}));
  const about = { status: response.status, code: error.code ?? "" };
  return new Trouble(words(about, error.message ?? response.statusText, response.headers.get("Retry-After")), about);
}

function words({ status, code }, message, wait) {
  if (status === 429) return `The server is busy. Try again in ${wait ?? "a few"} seconds.`;
  if (status === 413) return "This is too long for the server. Shorten it, then send it again.";
  if (code === "context_length_exceeded")
    return `This conversation is too long for the model: ${message}. Shorten it or begin a new one.`;
  if (status === 401) return "The server wants a valid API key.";
  if (code === "engine_failed" || status === 503) return `The server cannot answer now: ${message}.`;
  return `The server refused this: ${message}`;
}

// --- streams ------------------------------------------------------------------------------------------------

// Asks for one answer. `grown(answer)` is called as it grows; gives it with text, reason, sources and hash.
export async function chat(body, signal, grown) {
  const answer = { text: "", reason: "", sources: null, found: null, hash: "", adapter: "", tokens: null };
  try {
    const response = await request("/v1/chat/completions", { body: { ...body, stream: true }, signal });
    for await (const event of events(response.body)) {
      if (event.error) throw new Trouble(words({ code: event.error.code }, event.error.message), event.error);
      take(answer, event);
      grown(answer);
    }
  } catch (error) {
    if (error.name === "AbortError") answer.reason = "stopped";
    else throw error instanceof Trouble ? error : broken();
  }
  if (!answer.reason) throw broken();
  return answer;
}

const broken = () => new Trouble("The connection broke off before the answer was complete.", { lost: true });

function take(answer, event) {
  const own = event.didact ?? {};
  answer.hash = own.model_hash ?? answer.hash;
  answer.adapter = own.adapter_hash ?? answer.adapter;
  answer.sources = own.sources ?? answer.sources;
  answer.found = own.found ?? answer.found;
  answer.tokens = event.usage?.completion_tokens ?? answer.tokens;
  for (const choice of event.choices) {
    answer.text += choice.delta.content ?? "";
    answer.reason = choice.finish_reason ?? answer.reason;
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

// --- feedback -----------------------------------------------------------------------------------------------

const WAITS = [500, 1500, 4000]; // milliseconds before each new try

// Posts what must be kept once: tried again under the same key while the server cannot be reached.
export async function keep(path, body, idempotency) {
  for (const wait of [...WAITS, null]) {
    try {
      return await json(path, { body, idempotency });
    } catch (error) {
      const again = error.lost || error.status === 429 || error.status === 503;
      if (!again || wait === null) throw error;
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

export const key = () => random(20);
