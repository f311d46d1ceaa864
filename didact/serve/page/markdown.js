// Markdown as nodes. Text only ever becomes text nodes, links only those that are harmless, images only their names.

import { h, button, announce } from "./dom.js";

const DEEPEST = 8; // quotations and lists within each other

// Shows `text` in `place`; blocks that did not change since the last call stay the nodes they are.
export function show(place, text, cite = null) {
  const wanted = blocks(text.split(/\r\n|\r|\n/), 0);
  const had = place.shown?.cite === cite ? place.shown.blocks : [];
  let same = 0;
  while (same < wanted.length && same < had.length && wanted[same].raw === had[same].raw) same++;
  while (place.childNodes.length > same) place.lastChild.remove();
  place.append(...wanted.slice(same).map((block) => block.make(cite)));
  place.shown = { cite, blocks: wanted };
}

// --- blocks -------------------------------------------------------------------------------------------------

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*)|[ \t]*)$/;
const DASHES = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const LEVELS = ["", "h3", "h4", "h5", "h6", "h6", "h6"]; // below the headings of the page itself
const STARTS = [FENCE, HEADING, RULE, QUOTE];

function blocks(lines, depth) {
  const found = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const [end, make] = block(lines, at, depth);
    found.push({ raw: lines.slice(at, end).join("\n") + (end < lines.length ? "\n" : ""), make });
    at = end;
  }
  return found;
}

// The block that begins at a line: where it ends, and what makes its node.
function block(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return fenced(lines, at);
  if (RULE.test(line)) return [at + 1, () => h("hr")];
  const heading = HEADING.exec(line);
  if (heading) return [at + 1, (cite) => h(LEVELS[heading[1].length], {}, inline(heading[2] ?? "", cite))];
  if (depth < DEEPEST && QUOTE.test(line)) return quotation(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, depth);
  if (line.includes("|") && DASHES.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) {
    const head = cells(line);
    if (head.length === cells(lines[at + 1]).length) return table(lines, at, head);
  }
  return paragraph(lines, at);
}

function fenced(lines, at) {
  const [, fence, language] = FENCE.exec(lines[at]);
  let end = at + 1;
  const closes = (line) => line.trim().length >= fence.length && !line.trim().replaceAll(fence[0], "");
  while (end < lines.length && !closes(lines[end])) end++;
  const code = lines.slice(at + 1, end).join("\n");
  return [Math.min(end + 1, lines.length), () => codeBlock(code, language)];
}

function codeBlock(code, language) {
  const copy = button("Copy", async () => {
    const done = await navigator.clipboard.writeText(code).then(
      () => "Copied",
      () => "Not copied",
    );
    copy.textContent = done;
    announce(done);
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  const head = h("div", { className: "code-head" }, h("span", {}, language || "code"), copy);
  const label = `Code${language ? ` in ${language}` : ""}`;
  return h("div", { className: "code" }, head, h("pre", { tabIndex: 0, "aria-label": label }, h("code", {}, code)));
}

function quotation(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [end, (cite) => h("blockquote", {}, made(blocks(inner, depth + 1), cite))];
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const numbered = /\d/.test(first[2]);
  const kind = first[2].at(-1); // another bullet begins another list
  const items = [];
  let end = at;
  let loose = false;
  while (end < lines.length) {
    const found = ITEM.exec(lines[end]);
    if (!found || found[2].at(-1) !== kind || RULE.test(lines[end])) break;
    const indent = found[1].length + found[2].length + (found[3]?.length > 4 ? 1 : (found[3]?.length ?? 1));
    const inner = [found[4] ?? ""];
    end++;
    for (; end < lines.length; end++) {
      const blank = !lines[end].trim();
      const inside = /^ */.exec(lines[end])[0].length >= Math.min(indent, found[1].length + 2);
      if (!blank && !inside && (ITEM.test(lines[end]) || starts(lines[end]) || !inner.at(-1).trim())) break;
      inner.push(blank ? "" : inside ? lines[end].replace(new RegExp(`^ {0,${indent}}`), "") : lines[end]);
    }
    while (!inner.at(-1).trim() && inner.length > 1) inner.pop();
    loose ||= inner.includes("");
    items.push(blocks(inner, depth + 1));
  }
  const properties = numbered ? { start: parseInt(first[2], 10) } : {};
  const item = (parts, cite) => h("li", {}, made(parts, cite, !loose));
  return [end, (cite) => h(numbered ? "ol" : "ul", properties, items.map((parts) => item(parts, cite)))];
}

function table(lines, at, head) {
  const side = (dashes) => (dashes.endsWith(":") ? (dashes.startsWith(":") ? "center" : "right") : "");
  const sides = cells(lines[at + 1]).map(side);
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && !starts(lines[end])) end++;
  const rows = lines.slice(at + 2, end).map(cells);
  const cell = (tag, text, i, cite) => h(tag, { className: sides[i] }, inline(text, cite));
  const make = (cite) => {
    const top = h("tr", {}, head.map((text, i) => cell("th", text, i, cite)));
    const body = rows.map((row) => h("tr", {}, head.map((_, i) => cell("td", row[i] ?? "", i, cite))));
    const whole = h("table", {}, h("thead", {}, top), h("tbody", {}, body));
    return h("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Table" }, whole);
  };
  return [end, make];
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function paragraph(lines, at) {
  let end = at + 1;
  const goes = (line) => line.trim() && !starts(line) && !/^ {0,3}(?:[-*+]|1[.)])[ \t]+\S/.test(line);
  while (end < lines.length && goes(lines[end])) end++;
  const text = lines.slice(at, end).map((line) => line.trimStart()).join("\n");
  return [end, (cite) => h("p", {}, inline(text, cite))];
}

const starts = (line) => STARTS.some((start) => start.test(line));

function made(parts, cite, tight = false) {
  return parts.flatMap((part) => {
    const node = part.make(cite);
    return tight && node.tagName === "P" ? [...node.childNodes] : [node];
  });
}

// --- within a line ------------------------------------------------------------------------------------------

const SAFE = /^(?:https?:\/\/|mailto:)/i;
const BARE = /https?:\/\/[^\s<>"'`]{1,2000}/y;
const CITED = /\[(\d{1,3})\]/y;
const URL_PART = /<?([^\s()<>]{0,2000}(?:\([^\s()<>]{0,500}\)[^\s()<>]{0,500})?)>?/.source;
const NAME_PART = /!?\[([^[\]\n]{0,1000})\]/.source;
const LINK = new RegExp(`${NAME_PART}\\([ \\t]*${URL_PART}(?:[ \\t]+"[^"\\n]{0,500}")?[ \\t]*\\)`, "y");
const ANGLED = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/iy;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const MARKS = ["***", "**", "__", "~~", "*", "_"];
const TAGS = { "***": ["strong", "em"], "**": ["strong"], __: ["strong"], "~~": ["del"], "*": ["em"], _: ["em"] };

// A line's nodes. What is opened and never closed is what it looks like: text.
export function inline(text, cite, depth = 0) {
  const nodes = [];
  const hopeless = new Set(); // marks that nothing closes from here on, so that no text takes long
  let plain = "";
  const push = (node) => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
    nodes.push(node);
  };
  for (let at = 0; at < text.length; ) {
    const [node, end] = depth < DEEPEST ? special(text, at, cite, depth, hopeless) : [null, at];
    if (node === null) {
      if (text[at] === "\\" && PUNCTUATION.test(text[at + 1] ?? "")) at++;
      plain += text[at++];
    } else {
      if (node.nodeName === "BR") plain = plain.replace(/(?: +|\\)$/, "");
      push(node);
      at = end;
    }
  }
  if (plain) nodes.push(document.createTextNode(plain));
  return nodes;
}

function special(text, at, cite, depth, hopeless) {
  const sign = text[at];
  if (sign === "`") return codeSpan(text, at, hopeless);
  if (sign === "\n") return /(?: {2,}|\\)$/.test(text.slice(Math.max(0, at - 3), at)) ? [h("br"), at + 1] : [null, at];
  if (sign === "[" || sign === "!") return bracket(text, at, cite, depth);
  if (sign === "<") return match(ANGLED, text, at, (found) => anchor(found[1], [found[1]]));
  if (sign === "h" && !/\w/.test(text[at - 1] ?? "")) return bare(text, at);
  if (sign === "*" || sign === "_" || sign === "~") return emphasis(text, at, cite, depth, hopeless);
  return [null, at];
}

function match(pattern, text, at, make) {
  pattern.lastIndex = at;
  const found = pattern.exec(text);
  return found ? [make(found), at + found[0].length] : [null, at];
}

function codeSpan(text, at, hopeless) {
  const ticks = /`+/y;
  ticks.lastIndex = at;
  const mark = ticks.exec(text)[0];
  const after = at + mark.length;
  let end = hopeless.has(mark) ? -1 : after;
  while (end >= 0 && end < text.length) {
    end = text.indexOf(mark, end);
    if (end < 0 || (text[end + mark.length] !== "`" && text[end - 1] !== "`")) break;
    while (text[end] === "`") end++;
  }
  if (end < 0 || end >= text.length) {
    hopeless.add(mark);
    return [document.createTextNode(mark), after];
  }
  const code = text.slice(after, end).replaceAll("\n", " ");
  return [h("code", {}, /^ .*\S.* $/.test(code) ? code.slice(1, -1) : code), end + mark.length];
}

function bracket(text, at, cite, depth) {
  const link = match(LINK, text, at, (found) => {
    const name = found[0][0] === "!" ? [`${found[1]} (image)`] : inline(found[1], null, depth + 1);
    return anchor(found[2], name);
  });
  if (link[0] || !cite) return link;
  return match(CITED, text, at, (found) => cite(Number(found[1])) ?? document.createTextNode(found[0]));
}

function bare(text, at) {
  const [url] = match(BARE, text, at, (found) => found[0].replace(/[.,;:!?)\]}*_~]+$/, ""));
  return url ? [anchor(url, [url]), at + url.length] : [null, at];
}

function anchor(url, name) {
  if (!SAFE.test(url)) return h("span", { className: "dead", title: "This link is not one to follow" }, name);
  return h("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, name);
}

function emphasis(text, at, cite, depth, hopeless) {
  const mark = MARKS.find((each) => text.startsWith(each, at));
  const before = text[at - 1] ?? " ";
  const after = text[at + (mark?.length ?? 0)] ?? " ";
  const opens = mark && /\S/.test(after) && !(mark[0] === "_" && /\w/.test(before));
  const end = opens && !hopeless.has(mark) ? closing(text, at + mark.length, mark) : -1;
  if (end < 0) {
    if (opens) hopeless.add(mark);
    const run = /[*_~]+/y;
    run.lastIndex = at;
    const signs = run.exec(text)[0];
    const rest = opens && mark.length > 1 ? 1 : signs.length; // a shorter mark may still open
    return [document.createTextNode(signs.slice(0, rest)), at + rest];
  }
  const inner = inline(text.slice(at + mark.length, end), cite, depth + 1);
  const node = TAGS[mark].reduceRight((children, tag) => [h(tag, {}, children)], inner)[0];
  return [node, end + mark.length];
}

function closing(text, from, mark) {
  for (let end = text.indexOf(mark, from + 1); end >= 0; end = text.indexOf(mark, end + 1)) {
    const after = text[end + mark.length] ?? " ";
    const longer = mark.length === 1 && (after === mark || text[end - 1] === mark);
    const inWord = mark[0] === "_" && /\w/.test(after);
    if (/[^\s\\]/.test(text[end - 1]) && !longer && !inWord) return end;
  }
  return -1;
}
