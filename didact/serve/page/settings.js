// The settings dialog: how answers are made, who is judging, and how to be forgotten.

import { request } from "./api.js";
import { announce, at } from "./dom.js";
import * as memory from "./keep.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

export function start() {
  const dialog = at("settings");
  at("open-settings").addEventListener("click", () => {
    fill();
    dialog.showModal();
  });
  at("settings-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (take()) dialog.close();
  });
  at("settings-cancel").addEventListener("click", () => dialog.close());
  at("forget").addEventListener("click", forget);
  at("theme").addEventListener("click", theme);
  shown(document.documentElement.dataset.theme);
}

function fill() {
  const settings = memory.settings();
  for (const name of NUMBERS) at(`set-${name}`).value = settings[name] ?? "";
  at("set-system").value = settings.system;
  at("set-retrieve").checked = settings.retrieve;
  at("set-annotator").value = memory.annotator();
  at("forget-status").textContent = "";
}

function take() {
  const name = at("set-annotator").value.trim();
  if (!memory.PSEUDONYM.test(name)) {
    at("set-annotator").setCustomValidity("Letters, digits, dots, dashes and underscores, 64 at most");
    at("set-annotator").reportValidity();
    at("set-annotator").addEventListener("input", (event) => event.target.setCustomValidity(""), { once: true });
    return false;
  }
  memory.rename(name);
  const number = (value) => (value === "" ? null : Number(value));
  const numbers = Object.fromEntries(NUMBERS.map((name) => [name, number(at(`set-${name}`).value)]));
  const { temperature, top_p } = memory.settings();
  memory.set({
    ...numbers,
    temperature: numbers.temperature ?? temperature,
    top_p: numbers.top_p ?? top_p,
    system: at("set-system").value.trim(),
    retrieve: at("set-retrieve").checked,
  });
  announce("Settings saved");
  return true;
}

async function forget() {
  const status = at("forget-status");
  const name = memory.annotator();
  if (status.dataset.sure !== name) {
    status.dataset.sure = name;
    status.textContent = `All that ${name} recorded will be deleted from the server. Press again to do so.`;
    return;
  }
  delete status.dataset.sure;
  try {
    const { removed } = await (await request(`/feedback/annotators/${name}`, { method: "DELETE" })).json();
    status.textContent = `${removed} records were deleted.`;
  } catch (error) {
    status.textContent = error.message;
  }
}

// --- colours ------------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];

function theme() {
  const now = document.documentElement.dataset.theme;
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  document.documentElement.dataset.theme = next;
  localStorage.setItem("didact.theme", next);
  shown(next);
  announce(`Colours: ${next}`);
}

function shown(name) {
  at("theme").title = `Colours: ${name}`;
  at("theme").setAttribute("aria-label", `Colours: ${name}`);
}
