// One answer: its text, its sources beside it, and what a person can say of it.

import { announce, button, h, roving } from "./dom.js";
import { show } from "./markdown.js";
import { isBusy, judge, send, slot } from "./record.js";

export const slots = () => ({ thumb: slot(), rating: slot(), edit: slot() });

// The text that stands: what a person made of it, where someone did.
export const standing = (answer) => answer.said?.edit.value?.text ?? answer.text;

const ENDED = {
  stopped: "Stopped.",
  length: "This is as long as the answer may get (see settings).",
  broken: "The connection broke off here.",
};

// --- text and sources ---------------------------------------------------------------------------------------

// The text of an answer as Markdown, with [n] leading to its sources.
export class Text {
  constructor(sources) {
    this.body = h("div", { className: "text" });
    this.note = h("p", { className: "note muted", hidden: true });
    this.sources = sources;
    this.root = h("div", {}, this.body, this.note);
    this.cite = null;
  }

  show(answer, text = standing(answer)) {
    if (this.sources && answer.sources !== this.shown) this.quote(answer);
    show(this.body, text, this.cite);
    const over = answer.reason && !text.trim() ? "The model had nothing to say." : ENDED[answer.reason];
    this.note.textContent = over ?? "";
    this.note.hidden = !over;
  }

  quote(answer) {
    this.shown = answer.sources;
    this.sources.replaceChildren(...quotations(answer));
    const nodes = [...this.sources.querySelectorAll("details")];
    this.cite = nodes.length ? (number) => nodes[number - 1] && citation(number, nodes[number - 1]) : null;
  }
}

function citation(number, details) {
  const open = () => {
    details.open = true;
    details.scrollIntoView({ block: "nearest", behavior: "smooth" });
    details.querySelector("summary").focus({ preventScroll: true });
  };
  return button(String(number), open, { className: "cite", "aria-label": `Source ${number}` });
}

function quotations({ sources, found }) {
  if (found === false) return [h("p", { className: "nothing" }, "Nothing relevant was found in the documents.")];
  if (!sources?.length) return [];
  return [h("h3", {}, "Sources"), ...sources.map(quotation)];
}

function quotation({ n, source, title, heading, start, end, text }) {
  const name = title || source.split("/").at(-1) || "Passage";
  const below = (heading ?? "").split(" > ").filter((part) => part && part !== name);
  const summary = h("summary", {}, h("b", {}, `${n}`), h("span", {}, [name, ...below].join(" › ")));
  const span = start === undefined ? "" : `, characters ${start}–${end}`; // a record does not keep it
  const where = h("p", { className: "where" }, source + span);
  return h("details", { className: "source" }, summary, where, h("blockquote", {}, text));
}

// --- what a person says -------------------------------------------------------------------------------------

// Thumbs, stars and the pen. `asked` gives the exchange (made when first needed), `changed` is told of every change.
export class Bar {
  constructor(answer, { asked, changed, number = 0, text = null }) {
    Object.assign(this, { answer, asked, changed, number, text, said: answer.said });
    this.status = h("span", { className: "status", role: "status" });
    this.again = button("Try again", () => this.resend(), { hidden: true });
    this.thumbs = [true, false].map((up) => this.thumb(up));
    this.stars = [1, 2, 3, 4, 5].map((count) => this.star(count));
    this.pen = text && button("Write a better answer", () => this.edit(), { drawn: "edit" });
    const stars = h("div", { className: "stars", role: "radiogroup", "aria-label": "Stars" }, this.stars);
    roving(stars, "button");
    this.row = h("div", { className: "row tools" }, this.thumbs, stars, this.pen, this.status, this.again);
    this.reason = this.reasons();
    this.root = h("div", { className: "bar" }, this.row, this.reason);
    this.draw();
    if (Object.values(this.said).some((slot) => slot.wanted)) this.resend();
  }

  thumb(up) {
    const toggle = () => {
      const now = (this.said.thumb.wanted?.fields ?? this.said.thumb.value)?.up;
      this.say("thumb", now === up ? null : { kind: "thumb", up, candidate: this.number });
    };
    return button(up ? "Good answer" : "Bad answer", toggle, { drawn: up ? "up" : "down" });
  }

  star(count) {
    const toggle = () => {
      const now = (this.said.rating.wanted?.fields ?? this.said.rating.value)?.rating;
      this.say("rating", now === count ? null : { kind: "rating", rating: count, candidate: this.number });
    };
    const about = { role: "radio", className: "star", "aria-label": count === 1 ? "1 star" : `${count} stars` };
    return button("☆", toggle, about);
  }

  reasons() {
    const field = h("input", { maxLength: 2000, placeholder: "Why? (optional)", "aria-label": "Reason" });
    const send = (event) => {
      event.preventDefault();
      this.say("thumb", { ...this.said.thumb.value, reason: field.value.trim() });
    };
    const form = h("form", { className: "row reason", onsubmit: send, hidden: true }, field);
    form.append(h("button", { type: "submit" }, "Save reason"));
    field.value = this.said.thumb.value?.reason ?? "";
    return form;
  }

  say(kind, fields) {
    return judge(this.asked(), this.said[kind], fields, () => this.news());
  }

  resend() {
    const waiting = Object.values(this.said).filter((slot) => slot.wanted);
    for (const slot of waiting) send(this.asked(), slot, () => this.news());
  }

  news() {
    this.draw();
    this.changed();
    if (this.status.textContent) announce(this.status.textContent);
  }

  draw() {
    const { thumb, rating } = this.said;
    this.thumbs.forEach((node, i) => node.setAttribute("aria-pressed", thumb.value?.up === (i === 0)));
    this.stars.forEach((node, i) => {
      node.setAttribute("aria-checked", rating.value?.rating === i + 1);
      node.classList.toggle("lit", i < (rating.value?.rating ?? 0));
      node.textContent = i < (rating.value?.rating ?? 0) ? "★" : "☆";
    });
    this.reason.hidden = !thumb.value;
    const all = Object.values(this.said);
    const trouble = all.find((slot) => slot.trouble)?.trouble;
    const recorded = all.some((slot) => slot.value) ? "Recorded" : "";
    this.status.textContent = all.some(isBusy) ? "Saving…" : trouble ? `Not recorded. ${trouble}` : recorded;
    this.status.classList.toggle("bad", Boolean(trouble));
    this.again.hidden = !trouble;
  }

  edit() {
    const field = h("textarea", { value: standing(this.answer), rows: 8, "aria-label": "A better answer" });
    const hint = h("p", { className: "status", role: "status" });
    const close = () => {
      form.replaceWith(this.text.root);
      this.pen.disabled = false;
      this.pen.focus();
    };
    const save = async (event) => {
      event.preventDefault();
      if (isBusy(this.said.edit)) return;
      if (!field.value.trim()) return void (hint.textContent = "An answer needs some text.");
      if (field.value === standing(this.answer)) return close();
      hint.textContent = "Saving…";
      await this.say("edit", { kind: "edit", text: field.value, candidate: this.number });
      if (this.said.edit.trouble) return void (hint.textContent = `Not recorded. ${this.said.edit.trouble}`);
      this.text.show(this.answer);
      close();
    };
    const buttons = h("div", { className: "row end" }, hint, button("Cancel", close));
    buttons.append(h("button", { type: "submit", className: "main" }, "Save as the better answer"));
    const form = h("form", { className: "edit", onsubmit: save }, field, buttons);
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation(); // it would stop an answer under way as well
      close();
    });
    this.text.root.replaceWith(form);
    this.pen.disabled = true;
    field.focus();
  }
}

// What is put where there is no answer.
export function problem(message, again) {
  const retry = again ? button("Try again", again) : null;
  return h("div", { className: "problem", role: "alert" }, h("span", {}, message), retry);
}

