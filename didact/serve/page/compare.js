// The same question to several answers at once, blind: who wrote which is told once they are ranked.

import { chat } from "./api.js";
import { announce, at, h } from "./dom.js";
import * as memory from "./keep.js";
import { painter, sampling } from "./chat.js";
import { Ranking } from "./rank.js";
import { exchange, judge, pending, slot } from "./record.js";

let models = [];
let current = null; // the round on the screen

export function start(server) {
  models = server.models.map((model) => model.id);
  const names = models.map((name, i) => {
    const box = h("input", { type: "checkbox", name: "models", value: name, checked: i < 4 });
    return h("label", { className: "check" }, box, name);
  });
  at("compare-models").append(...names);
  at("compare-models").hidden = models.length < 2;
  at("compare-ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (current?.running) current.stop.abort();
    else begin();
  });
  at("compare-question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!current?.running) begin();
  });
}

function begin() {
  const text = at("compare-question").value.trim();
  if (!text) return;
  const chosen = [...at("compare-models").querySelectorAll("input:checked")].map((box) => box.value);
  const count = Number(at("compare-count").value);
  const answers = ways(chosen.length ? chosen : models, count, at("compare-vary").value);
  at("compare-asked").textContent = text;
  const { system } = memory.settings();
  const prompt = [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: text }];
  current = new Round(prompt, answers, at("compare-round"), { done: mode });
  current.run();
  mode();
}

function mode() {
  const send = at("compare-send");
  send.textContent = current?.running ? "Stop" : "Compare";
  send.classList.toggle("main", !current?.running);
}

// How each answer is made: models in turn, each with a seed of its own, or with temperatures from cool to warm.
export function ways(models, count, vary = "seed") {
  const settings = memory.settings();
  return Array.from({ length: count }, (_, i) => {
    const warmth = vary === "temperature" ? { temperature: [0.2, 0.6, 1, 1.4][i] } : {};
    const drawn = { ...sampling({ ...settings, seed: null }), ...warmth };
    return { model: models[i % models.length], text: "", sampling: drawn };
  });
}

export function shuffled(count) {
  const order = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = crypto.getRandomValues(new Uint32Array(1))[0] % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

// One prompt, its answers, and how they are ranked.
export class Round {
  constructor(prompt, answers, place, { done = () => {}, ranked = () => {}, review = null } = {}) {
    Object.assign(this, { prompt, answers, done, told: ranked, review, running: 0, stop: new AbortController() });
    this.shown = shuffled(answers.length);
    this.ranking = new Ranking(answers, this.shown, { ranked: (groups) => this.keep(groups) });
    this.slot = slot();
    place.replaceChildren(this.ranking.root);
  }

  async run(numbers = this.shown) {
    this.running++;
    this.done();
    announce("The answers are being written");
    await Promise.all(numbers.map((number) => this.write(number)));
    this.running--;
    this.done();
    if (this.answers.some((answer) => !answer.reason)) return;
    this.begun = Date.now();
    this.ranking.begin();
    announce("All answers are there. Rank them: 1 is best.");
  }

  async write(number) {
    const answer = this.answers[number];
    const { model, sampling } = answer;
    const body = { model, messages: this.prompt, ...sampling, stream_options: { include_usage: true } };
    const paint = painter(() => this.ranking.grown(number));
    const grown = (found) => paint(Object.assign(answer, found));
    const retrieve = memory.settings().retrieve;
    try {
      Object.assign(answer, await chat({ ...body, didact: { retrieve } }, this.stop.signal, grown));
      paint.cancel();
      this.ranking.grown(number);
    } catch (error) {
      paint.cancel();
      Object.assign(answer, { reason: "", text: "" });
      this.ranking.failed(number, error.message, () => this.run([number]));
    }
  }

  async keep(groups) {
    const { prompt, answers, shown, review } = this;
    this.asked ??= pending(exchange(prompt, answers, { shown, review }));
    const fields = { kind: "ranking", ranking: groups, seconds: (Date.now() - this.begun) / 1000 };
    const again = JSON.stringify(this.fields?.ranking) === JSON.stringify(groups);
    await judge(this.asked, this.slot, again ? this.fields : (this.fields = fields), () => {});
    if (this.slot.trouble) {
      this.ranking.status.textContent = `Not recorded. ${this.slot.trouble} Record it again to retry.`;
      return;
    }
    this.ranking.close("Recorded");
    this.ranking.reveal();
    this.ranking.more(this.asked);
    this.ranking.cards[0].root.focus();
    announce("Recorded");
    this.told();
  }
}

