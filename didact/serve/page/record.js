// What a person thinks of an answer, on its way into the store. It counts as recorded once the server has said so.

import { keep, key } from "./api.js";
import { annotator } from "./keep.js";

export const VERSION = "1"; // of this page, in every record: raise it when what people see changes

// An exchange as the store keeps it. `answers` are in the order of their numbers, `shown` in the order on the screen.
export function exchange(prompt, answers, { shown = [], conversation = null, review = null } = {}) {
  const passages = answers.find((answer) => answer.sources)?.sources ?? [];
  const about = { shown, conversation, review, annotator: annotator(), page: VERSION };
  return { prompt, candidates: answers.map(candidate), passages: passages.map(passage), ...about };
}

function candidate({ text, model, hash, adapter, sampling, tokens }) {
  const { max_tokens: max_new_tokens, ...rest } = sampling; // by the name that all records have
  const settings = max_new_tokens ? { ...rest, max_new_tokens } : rest;
  return { text, model, model_hash: hash, adapter_hash: adapter, sampling: settings, tokens };
}

function passage({ text, source, heading, score }) {
  const name = (value) => String(value ?? "").slice(0, 300);
  return { text, source: name(source), heading: name(heading), score: Number.isFinite(score) ? score : null };
}

// A record about to be made, under the key that makes trying again harmless.
export const pending = (body) => ({ id: null, key: key(), body });

// The id of an exchange in the store, where it is put when it is first needed.
async function stored(asked) {
  if (asked.id) return asked.id;
  const made = await keep("/feedback/exchanges", asked.body, asked.key);
  delete asked.body;
  return (asked.id = made.id);
}

const busy = new WeakSet();
export const isBusy = (slot) => busy.has(slot);

// One thing a person says of an exchange: `value` as the server has it, `wanted` until it does, `trouble` if it cannot.
export const slot = () => ({ id: null, by: null, value: null, wanted: null, trouble: "" });

// Says something, or something else, or (null) nothing any more; `changed` is called whenever the slot has news.
export function judge(asked, slot, fields, changed) {
  const said = fields ?? { kind: "retraction" };
  const again = JSON.stringify(slot.wanted?.fields) === JSON.stringify(said); // it may have arrived: the key stays
  if (!again) slot.wanted = { key: key(), fields: said };
  return send(asked, slot, changed);
}

// Sends what is wanted until nothing is; a failure stays in the slot, and another call tries it again.
export async function send(asked, slot, changed) {
  if (busy.has(slot)) return;
  busy.add(slot);
  slot.trouble = "";
  changed();
  try {
    while (slot.wanted) await once(asked, slot);
  } catch (error) {
    slot.trouble = error.message;
  } finally {
    busy.delete(slot);
    changed();
  }
}

async function once(asked, slot) {
  const wanted = slot.wanted;
  const nothing = wanted.fields.kind === "retraction";
  if (!nothing || slot.id) {
    slot.by ??= annotator(); // a correction is by whom the first was
    const body = { ...wanted.fields, exchange: await stored(asked), annotator: slot.by };
    const path = slot.id ? `/feedback/judgements/${slot.id}/replace` : "/feedback/judgements";
    const made = await keep(path, body, wanted.key);
    slot.id = nothing ? null : made.id;
  }
  slot.by = nothing ? null : slot.by;
  slot.value = nothing ? null : wanted.fields;
  if (slot.wanted === wanted) slot.wanted = null;
}
