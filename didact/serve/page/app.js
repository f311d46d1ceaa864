// The page: what the server has, and which of its four views is open.

import { json } from "./api.js";
import { at, h } from "./dom.js";
import { set, settings as remembered } from "./keep.js";
import { problem } from "./answer.js";
import * as chat from "./chat.js";
import * as compare from "./compare.js";
import * as dashboard from "./dashboard.js";
import * as review from "./review.js";
import * as settings from "./settings.js";

const VIEWS = { chat: {}, compare: {}, review, dashboard };
let open = null;

// The models that write, whether feedback is kept, and whether there are documents.
async function server() {
  const { data, didact } = await json("/v1/models");
  return { models: data.filter((model) => model.didact.writes), ...didact };
}

function choose(models) {
  const select = at("model");
  select.append(...models.map((model) => h("option", { value: model.id }, model.id)));
  const known = models.some((model) => model.id === remembered().model);
  if (known) select.value = remembered().model;
  select.addEventListener("change", () => set({ model: select.value }));
  select.hidden = models.length < 2;
}

function go() {
  const wanted = location.hash.slice(1);
  const name = wanted in VIEWS && !at(`go-${wanted}`).hidden ? wanted : "chat";
  if (name === open) return;
  VIEWS[open]?.leave?.();
  open = name;
  for (const view of Object.keys(VIEWS)) {
    at(`view-${view}`).hidden = view !== name;
    if (view === name) at(`go-${view}`).setAttribute("aria-current", "page");
    else at(`go-${view}`).removeAttribute("aria-current");
  }
  document.body.dataset.view = name;
  VIEWS[name].enter?.();
}

async function start() {
  settings.start();
  let found;
  try {
    found = await server();
  } catch (error) {
    at("start").replaceChildren(problem(error.message, () => location.reload()));
    return;
  }
  if (!found.models.length) {
    at("start").replaceChildren(problem("None of the models served here writes text."));
    return;
  }
  at("start").remove();
  choose(found.models);
  for (const view of ["compare", "review", "dashboard"]) at(`go-${view}`).hidden = !found.feedback;
  at("set-retrieve").parentNode.hidden = !found.documents;
  chat.start(found);
  compare.start(found);
  review.start(found);
  addEventListener("hashchange", go);
  go();
  document.body.dataset.ready = "true";
}

start();
