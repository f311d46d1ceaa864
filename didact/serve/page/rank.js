// Answers side by side and nameless, put in order by keys, by buttons or by dragging; the same place is a tie.

import { announce, button, h } from "./dom.js";
import { Bar, Text, problem, slots } from "./answer.js";

const LETTERS = "ABCDEFGH";

// The cards of `answers` in the order of `shown`, and the board below them on which they are ranked.
export class Ranking {
  constructor(answers, shown, { ranked }) {
    Object.assign(this, { answers, shown, ranked, place: answers.map(() => null), open: false });
    this.cards = shown.map((number, i) => this.card(number, LETTERS[i]));
    this.grid = h("div", { className: "cards", role: "group", "aria-label": "Answers to rank" });
    this.grid.append(...this.cards.map((card) => card.root));
    this.grid.dataset.count = answers.length;
    this.status = h("span", { className: "status", role: "status" });
    const about = { className: "main", disabled: true };
    this.record = button("Record this ranking", () => this.send(), about);
    this.board = h("div", { className: "board", "aria-label": "Ranking", role: "group", hidden: true });
    this.after = h("div", { className: "row end" }, this.status, this.record);
    this.root = h("div", { className: "ranking" }, this.grid, this.board, this.after);
    this.after.hidden = true;
  }

  // --- cards ------------------------------------------------------------------------------------------------

  card(number, letter) {
    const sources = h("aside", { className: "sources", "aria-label": "Sources" });
    const text = new Text(sources);
    const name = h("h3", {}, `Answer ${letter}`);
    const places = h("div", { className: "places", hidden: true });
    const root = h("section", { className: "card", tabIndex: -1 });
    root.append(h("div", { className: "card-head" }, name, places), text.root, sources);
    const card = { number, letter, text, name, places, root };
    root.addEventListener("keydown", (event) => this.key(event, card));
    root.addEventListener("focusin", () => this.only(card));
    return card;
  }

  // Tab comes back to the card that had the focus last.
  only(card) {
    for (const each of this.cards) each.root.tabIndex = each === card ? 0 : -1;
  }

  grown(number) {
    this.cards.find((card) => card.number === number).text.show(this.answers[number]);
  }

  failed(number, message, again) {
    const card = this.cards.find((each) => each.number === number);
    const note = problem(message, () => {
      note.remove();
      again();
    });
    card.root.append(note);
  }

  // Everything is there: from now on it can be ranked.
  begin() {
    this.open = true;
    this.board.hidden = this.after.hidden = false;
    for (const card of this.cards) {
      card.places.hidden = false;
      card.places.replaceChildren(...this.answers.map((_, i) => this.placeButton(card, i + 1)));
    }
    this.cards[0].root.tabIndex = 0;
    this.draw();
  }

  placeButton(card, place) {
    const about = { className: "place", tabIndex: -1, "aria-label": `Answer ${card.letter}: place ${place}` };
    return button(String(place), () => this.put(card, place), about);
  }

  key(event, card) {
    if (!this.open || event.target.closest("input, textarea, a, summary")) return;
    const place = this.place[card.number];
    const count = this.answers.length;
    const digit = Number(event.key);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (digit >= 1 && digit <= count) this.put(card, digit);
    else if (event.key === "ArrowUp") this.put(card, Math.max(1, (place ?? count + 1) - 1));
    else if (event.key === "ArrowDown") this.put(card, Math.min(count, (place ?? count) + 1));
    else if (event.key === "ArrowRight") this.focus(card, 1);
    else if (event.key === "ArrowLeft") this.focus(card, -1);
    else if (event.key === "Enter" && event.target === card.root && !this.record.disabled) this.record.click();
    else return;
    event.preventDefault();
  }

  focus(card, step) {
    this.cards[(this.cards.indexOf(card) + step + this.cards.length) % this.cards.length].root.focus();
  }

  put(card, place) {
    this.place[card.number] = place;
    this.draw();
    announce(`Answer ${card.letter}: place ${place}${this.tied(card) ? ", tied" : ""}`);
  }

  tied(card) {
    const place = this.place[card.number];
    return place !== null && this.place.filter((each) => each === place).length > 1;
  }

  // The numbers of the answers in groups, the best first.
  groups() {
    const places = [...new Set(this.place)].sort((one, other) => one - other);
    return places.map((place) => this.shown.filter((number) => this.place[number] === place));
  }

  async send() {
    this.record.disabled = true; // until the server has it, or has not
    await this.ranked(this.groups());
    this.record.disabled = false;
  }

  // --- the board --------------------------------------------------------------------------------------------

  draw() {
    const those = (place) => this.cards.filter((card) => this.place[card.number] === place);
    const chips = (place) => those(place).map((card) => this.chip(card));
    const slots = this.answers.map((_, i) => {
      const name = i === 0 ? "1 best" : i === this.answers.length - 1 ? `${i + 1} worst` : `${i + 1}`;
      return this.slot(i + 1, name, chips(i + 1));
    });
    const loose = chips(null);
    this.board.replaceChildren(...slots, ...(loose.length ? [this.slot("", "not ranked yet", loose)] : []));
    const left = this.place.filter((place) => place === null).length;
    this.record.disabled = left > 0;
    const how = `${left} still to rank: by the numbers, by keys, or drag the letters`;
    this.status.textContent = left ? how : "";
    for (const card of this.cards) {
      const place = this.place[card.number];
      const tie = this.tied(card) ? ", tied" : "";
      const rank = place ? `place ${place}${tie}` : "not ranked yet";
      card.root.setAttribute("aria-label", `Answer ${card.letter}, ${rank}`);
      [...card.places.children].forEach((node, i) => node.setAttribute("aria-pressed", place === i + 1));
    }
  }

  slot(place, name, chips) {
    const node = h("div", { className: "slot" }, h("span", { className: "slot-name" }, name), h("div", {}, chips));
    node.dataset.place = place;
    return node;
  }

  chip(card) {
    const node = h("span", { className: "chip", "aria-hidden": "true" }, card.letter);
    node.addEventListener("pointerdown", (event) => this.open && this.drag(event, card, node));
    return node;
  }

  drag(down, card, chip) {
    down.preventDefault();
    chip.setPointerCapture(down.pointerId);
    chip.classList.add("dragged");
    const slotAt = (event) => {
      const under = document.elementsFromPoint(event.clientX, event.clientY);
      return under.find((node) => node.parentNode === this.board);
    };
    const move = (event) => {
      chip.style.transform = `translate(${event.clientX - down.clientX}px, ${event.clientY - down.clientY}px)`;
      const over = slotAt(event);
      for (const slot of this.board.children) slot.classList.toggle("over", slot === over);
    };
    const end = (event) => {
      chip.removeEventListener("pointermove", move);
      const slot = event.type === "pointerup" ? slotAt(event) : null;
      if (slot?.dataset.place) this.put(card, Number(slot.dataset.place));
      else this.draw();
    };
    chip.addEventListener("pointermove", move);
    chip.addEventListener("pointerup", end, { once: true });
    chip.addEventListener("pointercancel", end, { once: true });
  }

  // --- after ------------------------------------------------------------------------------------------------

  close(text) {
    this.open = false;
    this.record.hidden = true;
    this.status.textContent = text;
    for (const card of this.cards) for (const node of card.places.children) node.disabled = true;
  }

  // Names the models.
  reveal() {
    for (const card of this.cards) {
      const answer = this.answers[card.number];
      const { temperature, seed } = answer.sampling;
      const how = Object.entries({ temperature, seed }).filter(([, value]) => value !== undefined);
      const name = [answer.model, ...how.map((each) => each.join(" "))].join(" · ");
      card.name.append(h("span", { className: "revealed" }, name));
    }
  }

  // Lets a person say more of each answer, and write a better one in its place.
  more(asked) {
    for (const card of this.cards) {
      const answer = this.answers[card.number];
      answer.said ??= slots();
      const bar = new Bar(answer, { asked: () => asked, changed: () => {}, number: card.number, text: card.text });
      card.root.append(bar.root);
    }
  }
}
