// What this browser remembers: who is judging, the settings, and the conversations. Nothing of it is sent by itself.

const TALK = "didact.talk.";
const ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789";

export function random(length) {
  return Array.from(crypto.getRandomValues(new Uint8Array(length)), (byte) => ALPHABET[byte % 32]).join("");
}

export function read(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? fallback;
  } catch {
    return fallback; // written by someone else
  }
}

// Whether it could be written: a browser gives a page a few megabytes.
export function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

// --- who ----------------------------------------------------------------------------------------------------

export const PSEUDONYM = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;

export function annotator() {
  const known = read("didact.annotator", "");
  if (PSEUDONYM.test(known)) return known;
  rename(`guest-${random(6)}`);
  return read("didact.annotator", "");
}

export const rename = (name) => write("didact.annotator", name);

// --- settings -----------------------------------------------------------------------------------------------

const SETTINGS = { model: "", temperature: 0.7, top_p: 0.95, max_tokens: null, seed: null, retrieve: true, system: "" };

export const settings = () => ({ ...SETTINGS, ...read("didact.settings", {}) });
export const set = (changed) => write("didact.settings", { ...settings(), ...changed });

// --- conversations ------------------------------------------------------------------------------------------

export function talks() {
  const names = Object.keys(localStorage).filter((name) => name.startsWith(TALK));
  const found = names.map((name) => read(name, null)).filter((talk) => Array.isArray(talk?.turns));
  return found.sort((one, other) => other.changed - one.changed);
}

export const fresh = () => ({ id: random(16), changed: Date.now(), turns: [] });
export const talk = (id) => read(TALK + id, null);
export const forget = (id) => localStorage.removeItem(TALK + id);
export const save = (talk) => write(TALK + talk.id, talk);
