// What the feedback comes to, as tables with bars in them: every number is also text.

import { json } from "./api.js";
import { at, h, svg } from "./dom.js";
import { annotator } from "./keep.js";
import { problem } from "./answer.js";

export async function enter() {
  const place = at("dashboard-body");
  place.setAttribute("aria-busy", "true");
  try {
    place.replaceChildren(...parts(await json("/feedback/dashboard")));
  } catch (error) {
    place.replaceChildren(problem(error.message, enter));
  }
  place.setAttribute("aria-busy", "false");
}

function parts({ volume, agreement, bias, win_rates, annotators }) {
  if (!volume.by_day.length) return [h("p", { className: "nothing" }, "There is no feedback yet.")];
  return [
    h("div", { className: "tiles" }, tiles(volume)),
    panel("Volume by day", "The last 14 days (UTC) on which something was recorded.", days(volume.by_day)),
    panel("Win rates", WON, wins(win_rates)),
    panel("Agreement", AGREE, alphas(agreement)),
    panel("Biases", "Of answers ranked apart; where there is no bias, the rate is 50%.", biases(bias)),
    panel("Annotators", JUDGE, people(annotators)),
  ];
}

const WON = "How often a model's answer was ranked above another's, a tie being half; the line is the 95% interval.";
const AGREE = "Krippendorff's alpha of what several people judged: 1 is full agreement, 0 is what chance would give.";
const JUDGE = "Accuracy is Dawid and Skene's estimate; leniency is by how much someone judges above the others.";

function panel(title, about, body) {
  return h("section", { className: "panel" }, h("h2", {}, title), h("p", { className: "muted" }, about), body);
}

function table(heads, rows, empty) {
  if (!rows.length) return h("p", { className: "nothing" }, empty);
  const head = h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)));
  const row = (cells) => cells.map((cell) => h("td", {}, cell));
  const line = ([name, ...cells]) => h("tr", {}, h("th", { scope: "row" }, name), row(cells));
  const whole = h("table", {}, h("thead", {}, head), h("tbody", {}, rows.map(line)));
  return h("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Table" }, whole);
}

// --- numbers ------------------------------------------------------------------------------------------------

const NONE = "–";
const percent = (value) => (value === null ? NONE : `${Math.round(value * 100)}%`);
const decimal = (value) => (value === null || value === undefined ? NONE : value.toFixed(2));
const share = ({ rate, low, high, rounds }) =>
  rounds ? `${percent(rate)} (${percent(low)}–${percent(high)}), ${rounds} ${rounds === 1 ? "round" : "rounds"}` : NONE;

const KINDS = ["exchange", "thumb", "rating", "ranking", "edit", "skip"];

function tiles({ records, annotators }) {
  const counts = [...KINDS.map((kind) => [kind, records[kind] ?? 0]), ["annotator", annotators]];
  const tile = ([name, count]) => [h("b", {}, String(count)), h("span", {}, count === 1 ? name : `${name}s`)];
  return counts.map((each) => h("div", { className: "tile" }, tile(each)));
}

// --- charts -------------------------------------------------------------------------------------------------

const percents = (value) => `${100 * value}%`;

// A bar of a length between 0 and 1, and the whiskers of its interval.
function bar(length, low = null, high = null) {
  const rect = (name, width) => svg("rect", { class: name, width, height: 8, y: 4, rx: 4 });
  const line = (x1, x2, y1, y2) => svg("line", { class: "whisker", x1: percents(x1), x2: percents(x2), y1, y2 });
  const whiskers = low === null ? [] : [line(low, high, 8, 8), line(low, low, 3, 13), line(high, high, 3, 13)];
  const bars = [rect("rail", "100%"), rect("fill", percents(length))];
  return svg("svg", { class: "chart", "aria-hidden": "true" }, ...bars, ...whiskers);
}

function days(by_day) {
  const recent = by_day.slice(-14);
  const most = Math.max(...recent.map((day) => day.judgement ?? 0), 1);
  const rows = recent.map((day) => [
    day.day,
    bar((day.judgement ?? 0) / most),
    String(day.judgement ?? 0),
    String(day.exchange ?? 0),
  ]);
  return table(["Day", "", "Judgements", "Exchanges"], rows, "No day yet.");
}

function wins(rates) {
  const found = Object.entries(rates).filter(([, rate]) => rate.rounds);
  const rows = found
    .sort(([, one], [, other]) => other.rate - one.rate)
    .map(([model, rate]) => [model || "unknown", bar(rate.rate, rate.low, rate.high), share(rate)]);
  return table(["Model", "", "Win rate"], rows, "No two models were ranked against each other yet.");
}

function alphas(agreement) {
  const names = { thumb: "Thumbs", rating: "Stars", ranking: "Rankings" };
  const rows = Object.entries(agreement).map(([kind, { alpha, annotators, votes, judged_by_several }]) => [
    names[kind],
    decimal(alpha.nominal),
    decimal(alpha.ordinal),
    decimal(alpha.interval),
    String(judged_by_several),
    String(votes),
    String(annotators),
  ]);
  return table(["Kind", "Nominal", "Ordinal", "Interval", "Judged by several", "Votes", "Annotators"], rows, "");
}

function biases({ first_shown, longer }) {
  const row = (name, rate) => [name, rate.rounds ? bar(rate.rate, rate.low, rate.high) : NONE, share(rate)];
  return table(["The better one was", "", "Rate"], [row("shown first", first_shown), row("longer", longer)], "");
}

function people(annotators) {
  const rows = Object.entries(annotators).map(([name, about]) => [
    name === annotator() ? `${name} (you)` : name,
    String(about.judgements),
    percent(about.skill.thumb?.accuracy ?? null),
    percent(about.skill.ranking?.accuracy ?? null),
    decimal(about.leniency.rating?.mean),
    share(about.first_shown),
  ]);
  const heads = ["Annotator", "Judgements", "Accuracy: thumbs", "rankings", "Leniency: stars", "Chose the first"];
  return table(heads, rows, "Nobody has judged yet.");
}

