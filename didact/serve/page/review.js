// The queue: what others asked, or what someone put there, to be judged one after the other.

import { json, keep, key } from "./api.js";
import { announce, at, button, h } from "./dom.js";
import { annotator } from "./keep.js";
import { Bar, Text, problem, slots } from "./answer.js";
import { Round, shuffled, ways } from "./compare.js";
import { Ranking } from "./rank.js";
import { exchange, judge, pending, slot } from "./record.js";

let models = [];
let done = 0;
let item = null; // what is on the screen: {skip, stop}

export function start(server) {
  models = server.models.map((model) => model.id);
  at("review-add").addEventListener("submit", add);
}

export async function enter() {
  if (!item) await next();
}

export function leave() {
  item?.stop?.();
}

async function next() {
  const place = at("review-item");
  item?.stop?.();
  item = null;
  try {
    const found = await json(`/feedback/review?annotator=${encodeURIComponent(annotator())}`);
    at("review-progress").textContent = `${done} judged in this visit · ${found.left} left for you`;
    if (found.item) open(found, place);
    else place.replaceChildren(h("p", { className: "nothing" }, "Nothing is left to review. Add prompts below."));
  } catch (error) {
    place.replaceChildren(problem(error.message, next));
  }
}

function open(found, place) {
  const prompt = found.item.prompt ?? found.exchange.prompt;
  const body = h("div", {});
  const status = h("span", { className: "status", role: "status" });
  const forward = button("Next", finish, { className: "main", disabled: true });
  const skip = button("Skip", () => skipped(), {});
  const foot = h("div", { className: "row end sticky" }, status, skip, forward);
  place.replaceChildren(h("div", { className: "asked" }, prompt.map(said)), body, foot);
  const judged = () => {
    forward.disabled = false;
    skip.disabled = true;
  };
  item = { ...(found.exchange ? known(found, body, judged) : answered(found, prompt, body, judged)) };
  const asked = item.asked;
  const refused = slot();
  async function skipped() {
    skip.disabled = true;
    await judge(asked(), refused, { kind: "skip" }, () => {});
    skip.disabled = false;
    if (refused.trouble) status.textContent = `Not recorded. ${refused.trouble}`;
    else next();
  }
}

async function finish(event) {
  event.currentTarget.disabled = true;
  done++;
  await next();
  at("review-title").focus();
  announce(at("review-progress").textContent);
}

function said({ role, content }) {
  const who = { user: "Question", assistant: "Earlier answer" }[role] ?? "Instructions";
  return h("div", { className: `said ${role}` }, h("h3", {}, who), h("p", {}, content));
}

// An exchange that is in the store: one answer is given thumbs, stars or a better text, several are ranked.
function known({ exchange }, body, judged) {
  const asked = { id: exchange.id };
  const sources = exchange.passages.map((each, i) => ({ ...each, n: i + 1 }));
  const answers = exchange.candidates.map((each) => ({ ...each, sources, reason: "stop", said: slots() }));
  if (answers.length > 1) ranked(exchange, answers, asked, body, judged);
  else if (answers.length) alone(answers[0], asked, body, judged);
  else body.replaceChildren(h("p", { className: "nothing" }, "There is no answer to judge. Skip this one."));
  return { asked: () => asked };
}

function alone(answer, asked, body, judged) {
  const sources = h("aside", { className: "sources", "aria-label": "Sources" });
  const text = new Text(sources);
  text.show(answer);
  const changed = () => Object.values(answer.said).some((slot) => slot.value) && judged();
  const bar = new Bar(answer, { asked: () => asked, changed, text });
  body.replaceChildren(h("section", { className: "card alone" }, text.root, sources, bar.root));
}

function ranked(exchange, answers, asked, body, judged) {
  const begun = Date.now();
  const place = slot();
  const shown = exchange.shown.length ? exchange.shown : shuffled(answers.length); // as they were shown at first
  const ranking = new Ranking(answers, shown, { ranked: keepRanking });
  body.replaceChildren(ranking.root);
  for (const number of shown) ranking.grown(number);
  ranking.begin();
  async function keepRanking(groups) {
    const fields = { kind: "ranking", ranking: groups, seconds: (Date.now() - begun) / 1000 };
    await judge(asked, place, fields, () => {});
    if (place.trouble) return void (ranking.status.textContent = `Not recorded. ${place.trouble}`);
    ranking.close("Recorded");
    ranking.more(asked); // whose they are is not told, for the next ones may be theirs, too
    judged();
  }
}

// A prompt without answers gets two, and they are ranked.
function answered(found, prompt, body, judged) {
  const round = new Round(prompt, ways(models, 2), body, { ranked: judged, review: found.item.id });
  round.run();
  let empty = null;
  const asked = () => round.asked ?? (empty ??= pending(exchange(prompt, [], { review: found.item.id })));
  return { asked, stop: () => round.stop.abort() };
}

async function add(event) {
  event.preventDefault();
  const field = at("review-prompts");
  const status = at("review-added");
  const texts = field.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!texts.length) return;
  const wanted = Number(at("review-wanted").value) || 1;
  const items = texts.map((content) => ({ prompt: [{ role: "user", content }], wanted, annotator: annotator() }));
  try {
    await keep("/feedback/review", { items }, key());
    field.value = "";
    status.textContent = texts.length === 1 ? "1 prompt is in the queue." : `${texts.length} prompts are in the queue.`;
    if (!item) next();
  } catch (error) {
    status.textContent = `Not added. ${error.message}`;
  }
}
