// Instants and durations in words, by the clock of the broker.

let offset = 0;

// Take note of a Date header, which has whole seconds.
export function setClock(date) {
  const seen = Date.parse(date) + 500 - Date.now();
  if (Math.abs(seen - offset) > 1500) offset = seen;
}

export const now = () => Date.now() + offset;

export function clock(ms, seconds = false) {
  const form = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (seconds) form.second = "2-digit";
  const at = new Date(ms);
  const words = at.toLocaleTimeString("en-GB", form);
  return now() - ms < 20 * 3600e3 ? words : `${at.toLocaleDateString("en-CA")} ${words}`;
}

export function stamp(at) {
  return at ? `${new Date(at).toLocaleDateString("en-CA")} ${new Date(at).toLocaleTimeString("en-GB")}` : "";
}

export const since = (at) => span(Date.parse(at), now());

export function span(from, to) {
  const s = Math.max(0, Math.round((to - from) / 1000));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  return s < 172800 ? `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min` : `${Math.floor(s / 86400)} days`;
}
