// The conversation: ask, read as it is written, stop, ask again, and go back to earlier ones.

import { chat } from "./api.js";
import { announce, at, button, h } from "./dom.js";
import * as memory from "./keep.js";
import { Bar, Text, problem, slots, standing } from "./answer.js";
import { exchange, pending } from "./record.js";

let talk = memory.fresh();
let running = null; // the answer under way: {stop, talk}
let judged = true; // whether the server keeps feedback

export function start(server) {
  judged = server.feedback;
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.stop();
    else submit();
  });
  at("question").addEventListener("keydown", (event) => {
    const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (!sends) return;
    event.preventDefault();
    if (!running) submit();
  });
  at("question").addEventListener("input", () => {
    memory.write("didact.draft", at("question").value);
    grow();
  });
  at("new").addEventListener("click", () => open(memory.fresh()));
  at("history").addEventListener("click", () => drawer(!document.body.classList.contains("drawn")));
  at("shade").addEventListener("click", () => drawer(false));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (document.body.classList.contains("drawn")) drawer(false);
    else if (running && !document.querySelector("dialog[open]")) running.stop();
  });
  draft(memory.read("didact.draft", ""));
  open(memory.talk(memory.read("didact.open", "")) ?? memory.fresh(), false);
}

function drawer(wanted) {
  document.body.classList.toggle("drawn", wanted);
  at("history").setAttribute("aria-expanded", wanted);
  (wanted ? at("new") : at("history")).focus();
}

function grow() {
  const field = at("question");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, innerHeight * 0.4)}px`;
}

function open(wanted, focus = true) {
  running?.stop();
  talk = wanted;
  memory.write("didact.open", talk.id);
  document.body.classList.remove("drawn");
  draw();
  at("thread").scrollTop = at("thread").scrollHeight;
  if (focus) at("question").focus();
}

function save(of = talk) {
  of.changed = Date.now();
  if (!memory.save(of)) failed("This browser's storage is full: this conversation is not kept. Delete older ones.");
  list();
}

// --- what is seen -------------------------------------------------------------------------------------------

function draw() {
  at("thread-inner").replaceChildren(...talk.turns.map((turn, i) => turnNode(turn, i)));
  at("empty").hidden = talk.turns.length > 0;
  at("trouble").replaceChildren();
  list();
  mode();
  grow();
}

function list() {
  const items = memory.talks().map((each) => {
    const name = each.turns[0]?.user.slice(0, 80) || "New conversation";
    const select = button(name, () => open(memory.talk(each.id)), { className: "talk" });
    if (each.id === talk.id) select.setAttribute("aria-current", "true");
    return h("li", {}, select, remover(each, name.slice(0, 30)));
  });
  at("talks").replaceChildren(...items);
}

// Deletes a conversation when it is pressed twice.
function remover(each, name) {
  const node = button(`Delete “${name}”`, () => {
    if (!node.classList.contains("armed")) return arm(true);
    memory.forget(each.id);
    if (each.id === talk.id) open(memory.fresh());
    else list();
  }, { drawn: "remove" });
  const arm = (wanted) => {
    node.classList.toggle("armed", wanted);
    node.title = wanted ? "Press again to delete" : `Delete “${name}”`;
    if (wanted) announce(node.title);
  };
  node.addEventListener("blur", () => arm(false));
  return node;
}

function mode() {
  const send = at("send");
  send.textContent = running ? "Stop" : "Send";
  send.classList.toggle("main", !running);
  at("thread").setAttribute("aria-busy", Boolean(running));
}

function turnNode(turn, index) {
  const answer = turn.answers[turn.at];
  const sources = h("aside", { className: "sources", "aria-label": "Sources" });
  const text = new Text(sources);
  const block = h("div", { className: "answer" }, h("h2", { className: "who" }, answer?.model || "Model"), text.root);
  const user = h("div", { className: "user" }, h("h2", { className: "sr" }, "You"), h("p", {}, turn.user));
  const node = h("article", { className: "turn" }, user, block, sources);
  if (answer) {
    text.show(answer);
    block.append(foot(turn, answer, text, index));
  }
  Object.assign(node, { text, block });
  return node;
}

function foot(turn, answer, text, index) {
  const own = talk;
  const bar = new Bar(answer, { asked: () => asked(answer), changed: () => changed(own), text });
  if (!judged) bar.row.replaceChildren();
  const copy = async () => {
    await navigator.clipboard.writeText(standing(answer)).catch(() => {});
    announce("Copied");
  };
  const again = button("Answer again", () => running || reply(turn), { drawn: "again", className: "quiet again" });
  const more = [button("Copy the answer", copy, { drawn: "copy" }), again];
  if (turn.answers.length > 1) more.push(...versions(turn, index));
  bar.row.prepend(...more);
  return bar.root;
}

function changed(own) {
  save(own);
  if (own === talk) stick();
}

function versions(turn, index) {
  const go = (step) => () => {
    turn.at += step;
    save();
    const node = turnNode(turn, index);
    replace(index, node);
    announce(`Answer ${turn.at + 1} of ${turn.answers.length}`);
    node.querySelector(step < 0 ? ".earlier:enabled, .later" : ".later:enabled, .earlier").focus();
  };
  const [first, final] = [turn.at === 0, turn.at === turn.answers.length - 1];
  return [
    button("Earlier answer", go(-1), { drawn: "left", disabled: first, className: "quiet earlier" }),
    h("span", { className: "count" }, `${turn.at + 1}/${turn.answers.length}`),
    button("Later answer", go(1), { drawn: "right", disabled: final, className: "quiet later" }),
  ];
}

// The exchange of an answer; it goes to the store with the first thing that is said of it.
function asked(answer) {
  answer.asked ??= pending(exchange(answer.prompt, [answer], { shown: [0], conversation: talk.id }));
  return answer.asked;
}

// --- asking -------------------------------------------------------------------------------------------------

function prompt(index) {
  const { system } = memory.settings();
  const before = talk.turns.slice(0, index).flatMap((turn) => [
    { role: "user", content: turn.user },
    { role: "assistant", content: standing(turn.answers[turn.at]) },
  ]);
  const last = { role: "user", content: talk.turns[index].user };
  return [...(system ? [{ role: "system", content: system }] : []), ...before, last];
}

function submit() {
  const text = at("question").value.trim();
  if (!text) return;
  const turn = { user: text, answers: [], at: 0 };
  talk.turns.push(turn);
  at("thread-inner").append(turnNode(turn, talk.turns.length - 1));
  at("empty").hidden = true;
  draft("");
  reply(turn);
}

function draft(text) {
  at("question").value = text;
  memory.write("didact.draft", text);
  grow();
}

// Settings as they are sent, and as they are recorded.
export function sampling(settings) {
  const { temperature, top_p, max_tokens } = settings;
  const seed = settings.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
  return { temperature, top_p, ...(max_tokens && { max_tokens }), seed };
}

// Lets the model answer a turn, for the first time or again.
async function reply(turn) {
  const [own, index, settings] = [talk, talk.turns.indexOf(turn), memory.settings()];
  const drawn = sampling(turn.answers.length ? { ...settings, seed: null } : settings);
  const about = { model: at("model").value, sampling: drawn, prompt: prompt(index) };
  const body = { model: about.model, messages: about.prompt, ...drawn, stream_options: { include_usage: true } };
  const node = turnNode({ user: turn.user, answers: [] }, index);
  node.block.querySelector(".who").textContent = about.model;
  replace(index, node);
  const stop = new AbortController();
  const mine = (running = { stop: () => stop.abort() });
  mode();
  stick(true);
  announce("The model is answering");
  let latest = null;
  let trouble = null;
  const paint = painter(() => {
    node.text.show(latest);
    stick();
  });
  const grown = (found) => paint((latest = found));
  try {
    latest = await chat({ ...body, didact: { retrieve: settings.retrieve } }, stop.signal, grown);
  } catch (error) {
    trouble = error;
  }
  paint.cancel();
  if (running === mine) running = null;
  mode();
  const silent = !latest?.text && (trouble || latest.reason === "stopped");
  if (!silent) {
    turn.answers.push({ ...latest, ...about, reason: trouble ? "broken" : latest.reason, said: slots() });
    turn.at = turn.answers.length - 1;
    save(own);
  }
  over(own, turn, trouble);
}

// Shows what came of asking; where nothing came, what was there before, and what was typed is back in its field.
function over(own, turn, trouble) {
  const none = !turn.answers.length;
  const index = own.turns.indexOf(turn);
  if (none) own.turns.splice(index, 1);
  if (own === talk) {
    if (none) at("thread-inner").children[index].remove();
    else replace(index, turnNode(turn, index));
    at("empty").hidden = talk.turns.length > 0;
    stick();
  }
  if (none) draft([turn.user, at("question").value].filter(Boolean).join("\n\n"));
  if (document.activeElement === document.body) at("question").focus();
  const again = () => (none ? submit() : reply(turn));
  if (trouble) failed(trouble.message, own === talk ? again : null);
  else announce(none ? "Stopped" : turn.answers[turn.at].text);
}

function replace(index, node) {
  at("thread-inner").children[index].replaceWith(node);
}

// Calls at most once a frame.
export function painter(paint) {
  let frame = 0;
  const call = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      paint();
    });
  };
  call.cancel = () => cancelAnimationFrame(frame);
  return call;
}

function failed(message, again = null) {
  const retry = again && (() => {
    at("trouble").replaceChildren();
    again();
  });
  at("trouble").replaceChildren(problem(message, retry));
}

// Keeps the end in sight for those who were looking at it.
function stick(always = false) {
  const place = at("thread");
  const near = place.scrollHeight - place.scrollTop - place.clientHeight < 160;
  if (always || near) place.scrollTop = place.scrollHeight;
}
