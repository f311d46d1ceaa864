// Nodes are made here and nowhere else: text goes in as text, so nothing a model writes can become markup.

const SVG = "http://www.w3.org/2000/svg";

// An element: properties by name, "on..." as listeners, "aria-..." and "data-..." as attributes; null leaves one out.
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && !name.includes("-")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const THUMB = "M7 10v11M2 12v7a2 2 0 0 0 2 2h13a2 2 0 0 0 2-1.7l1.4-7a2 2 0 0 0-2-2.3H14V5a3 3 0 0 0-3-3l-4 8H4a2 2 0 0 0-2 2";
const DRAWN = {
  up: THUMB,
  down: THUMB, // turned over by the style
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  edit: "M12 20h9M16.5 3.5a2.1 2.1 0 0 1 3 3L7 19l-4 1 1-4z",
  again: "M21 12a9 9 0 1 1-2.6-6.4L21 8M21 3v5h-5",
  left: "M15 18l-6-6 6-6",
  right: "M9 18l6-6-6-6",
  remove: "M18 6L6 18M6 6l12 12",
};

export function icon(name) {
  return svg("svg", { viewBox: "0 0 24 24", class: `icon ${name}`, "aria-hidden": "true" }, svg("path", { d: DRAWN[name] }));
}

// A button; with an icon its label is what is read out and shown as a hint.
export function button(label, onclick, { drawn = null, ...properties } = {}) {
  if (!drawn) return h("button", { type: "button", onclick, ...properties }, label);
  const about = { "aria-label": label, title: label };
  return h("button", { type: "button", onclick, className: "quiet", ...about, ...properties }, icon(drawn));
}

export const at = (id) => document.getElementById(id);

// Says something to those who listen instead of looking.
export function announce(text) {
  at("announcer").textContent = text.slice(0, 1500);
}

// Lets the arrow keys move between the children that match; Tab enters the group and leaves it.
export function roving(group, selector) {
  const all = () => [...group.querySelectorAll(selector)].filter((node) => !node.disabled);
  const only = (wanted) => all().forEach((node) => (node.tabIndex = node === wanted ? 0 : -1));
  only(all()[0]);
  group.addEventListener("focusin", (event) => all().includes(event.target) && only(event.target));
  group.addEventListener("keydown", (event) => {
    const nodes = all();
    const here = nodes.indexOf(document.activeElement);
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -here, End: nodes.length - 1 - here }[event.key];
    if (here < 0 || step === undefined || event.defaultPrevented) return;
    event.preventDefault();
    nodes[Math.min(nodes.length - 1, Math.max(0, here + step))].focus();
  });
}

// A dialog that asks for one thing; gives what was written, or null.
export function ask(title, label, { type = "text", explain = "" } = {}) {
  return new Promise((resolve) => {
    const field = h("input", { type, required: true, autocomplete: "off", name: "asked" });
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", {}, title),
      explain && h("p", { className: "muted" }, explain),
      h("label", {}, label, field),
      h(
        "div",
        { className: "row end" },
        button("Cancel", () => dialog.close("")),
        h("button", { type: "submit", className: "main" }, "OK"),
      ),
    );
    const dialog = h("dialog", { "aria-label": title }, form);
    form.addEventListener("submit", () => (dialog.returnValue = "given"));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "given" ? field.value.trim() : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
