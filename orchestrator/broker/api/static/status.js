// The status page: asks the broker's API as any client does, and shows the answers.

import { drawTimeline } from "./timeline.js";
import { clock, now, setClock, since, span, stamp } from "./times.js";

const PAUSE_MS = 2000;
const LONGEST_PAUSE_MS = 10000;
const SHOWN_JOBS = 200;
// A long time line may take at most a twentieth of the time to fetch and draw.
const TIMELINE_SHARE = 20;
const STORE = "hpcqc-token";

const $ = (id) => document.getElementById(id);
const state = {
  token: null, user: null, timer: null, asking: null, pause: PAUSE_MS, hours: 24,
  slots: [], projects: [], timelineAt: -Infinity, timelineCost: 0, qpus: null,
};

class Refused extends Error {
  constructor(status, detail, retry) {
    super(detail);
    this.status = status;
    this.retry = retry;
  }
}

// Asking ------------------------------------------------------------------------------------

async function ask(path, any = false) {
  const headers = { Accept: "application/json" };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  const answer = await fetch(path, { headers, signal: state.asking.signal, cache: "no-store" });
  if (answer.headers.has("Date")) setClock(answer.headers.get("Date"));
  const body = await answer.json().catch(() => ({}));
  if (answer.ok || any) return body;
  const retry = Number(answer.headers.get("Retry-After")) || 0;
  throw new Refused(answer.status, body.detail || `answer ${answer.status}`, retry);
}

async function refresh() {
  clearTimeout(state.timer);
  if (document.hidden) return;
  if (state.asking) state.asking.abort();
  const asking = (state.asking = new AbortController());
  try {
    showHealth(await ask("/health", true));
    if (!state.user) state.user = await ask("/v1/whoami");
    showUser();
    const job = chosenJob();
    await (job ? refreshJob(job) : refreshOverview());
    state.pause = PAUSE_MS;
    setText($("seen"), `As of ${clock(now(), true)}`);
  } catch (error) {
    if (asking !== state.asking) return; // a newer round is under way
    if (error instanceof Refused && error.status === 401) return signOut(error.message);
    const wait = error instanceof Refused ? error.retry * 1000 : state.pause * 2;
    state.pause = Math.min(Math.max(wait, PAUSE_MS), LONGEST_PAUSE_MS);
    const words = error instanceof Refused ? error.message : "The broker does not answer.";
    banner("away", `${words} Shown is what it said last.`);
  }
  if (asking === state.asking) state.timer = setTimeout(refresh, state.pause);
}

async function refreshOverview() {
  const [qpus, queued, running, uncertain, known] = await Promise.all([
    ask("/v1/qpus"),
    ask(`/v1/jobs?state=queued&limit=${SHOWN_JOBS}`),
    ask(`/v1/jobs?state=running&limit=${SHOWN_JOBS}`),
    ask(`/v1/jobs?state=uncertain&limit=${SHOWN_JOBS}`),
    ask("/v1/projects"),
  ]);
  const projects = known.filter((use) => use.jobs || use.budgets.length);
  const began = performance.now();
  const due = began - state.timelineAt >= TIMELINE_SHARE * state.timelineCost;
  if (due) state.slots = await ask("/v1/timeline?hours=24");
  state.projects = projects.map((use) => use.project);
  showQpus(qpus);
  showRunning(running);
  showQueue([...uncertain, ...queued], qpus);
  showProjects(projects);
  showBudgets(projects);
  state.qpus = qpus.map((qpu) => qpu.name);
  reveal("overview");
  draw();
  if (due) {
    state.timelineAt = performance.now();
    state.timelineCost = state.timelineAt - began;
  }
}

function draw() {
  if (state.qpus && !$("overview").hidden) drawTimeline($("gantt"), $("legend"), state);
}

async function refreshJob(id) {
  try {
    const path = `/v1/jobs/${encodeURIComponent(id)}`;
    const [job, why] = await Promise.all([ask(path), ask(`${path}/why`)]);
    showJob(job, why);
    setText($("job-problem"), "");
  } catch (error) {
    if (!(error instanceof Refused) || error.status === 401) throw error;
    setText($("job-title"), `Job ${id}`);
    setText($("job-problem"), error.message);
    $("job-facts").replaceChildren();
    fill("tasks", []);
  }
  reveal("job");
}

// Who asks ----------------------------------------------------------------------------------

function takeTokenFromAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const token = parts.get("token");
  if (!token) return false;
  parts.delete("token");
  const rest = parts.toString();
  history.replaceState(null, "", location.pathname + location.search + (rest ? `#${rest}` : ""));
  keepToken(token);
  return true;
}

function keepToken(token) {
  state.token = token;
  state.user = null;
  state.slots = [];
  state.timelineAt = -Infinity;
  if (token) sessionStorage.setItem(STORE, token);
  else sessionStorage.removeItem(STORE);
}

function signOut(why) {
  const refused = state.token ? why : "";
  keepToken(null);
  showUser();
  setText($("refusal"), refused ? `Not accepted: ${refused}.` : "");
  setText($("seen"), "");
  const asked = $("sign-in").hidden;
  reveal("sign-in");
  if (asked) $("token").focus();
}

function showUser() {
  const user = state.user;
  setText($("who"), user ? `${user.user}, ${user.role} · ${user.projects.join(", ")}` : "");
  $("forget").hidden = !state.token;
}

function chosenJob() {
  return new URLSearchParams(location.hash.slice(1)).get("job");
}

function reveal(id) {
  for (const part of ["sign-in", "overview", "job"]) $(part).hidden = part !== id;
}

// Showing -----------------------------------------------------------------------------------

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function banner(kind, text) {
  $("health").className = `banner ${kind}`;
  setText($("health"), text);
}

function showHealth(health) {
  const words = { ok: "Working", degraded: "Working in part", failing: "Not working" };
  if (!words[health.status]) throw new Refused(500, "The broker's health is unknown.", 0);
  const waiting = health.queued === 1 ? "1 job waits" : `${health.queued} jobs wait`;
  const reason = health.reason ? `: ${health.reason}` : "";
  banner(health.status, `${words[health.status]}${reason} · ${waiting}`);
  setText($("version"), `hpcqc ${health.version}`);
}

// Rows are kept by key, and only what changed is written: nothing flickers, focus stays.
function fill(id, rows) {
  const body = $(id).tBodies[0];
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  rows.forEach((wanted, index) => {
    let row = known.get(wanted.key);
    known.delete(wanted.key);
    if (!row) {
      row = document.createElement("tr");
      row.dataset.key = wanted.key;
      wanted.cells.forEach(() => row.insertCell());
    }
    row.className = wanted.kind || "";
    wanted.cells.forEach((cell, column) => setCell(row.cells[column], cell));
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] || null);
  });
  for (const row of known.values()) row.remove();
  $(id).classList.toggle("empty", rows.length === 0);
  const none = $(`${id}-none`);
  if (none) none.hidden = rows.length > 0;
}

function setCell(cell, given) {
  const { text, kind = "", title = "", link = null } = typeof given === "object" && given ? given : { text: given };
  cell.className = kind;
  if (cell.title !== title) cell.title = title;
  const words = text === null || text === undefined ? "" : String(text);
  if (!link) return setText(cell, words);
  let anchor = cell.firstElementChild;
  if (!anchor) {
    anchor = document.createElement("a");
    cell.replaceChildren(anchor);
  }
  if (anchor.getAttribute("href") !== link) anchor.setAttribute("href", link);
  setText(anchor, words);
}

const number = (value, digits = 0) => ({
  text: value.toLocaleString("en", { maximumFractionDigits: digits }), kind: "n",
});
const moment = (at, text) => ({ text: at ? text || clock(Date.parse(at), true) : "", title: at || "" });
const long = (text) => ({ text, kind: "long" });
const jobLink = (id) => ({ text: id.slice(0, 11), title: id, kind: "id", link: `#job=${id}` });
const stageName = (stage) => (stage ? { text: stage.slice(0, 40), title: stage } : "");

function showQpus(qpus) {
  fill("qpus", qpus.map((qpu) => ({
    key: qpu.name,
    cells: [qpu.name, qpuState(qpu), number(qpu.queued), number(qpu.open), qpu.backend,
      long([qpu.reason, calendarWords(qpu)].filter(Boolean).join("; "))],
  })));
}

function qpuState(qpu) {
  const closed = qpu.closed && qpu.state === "online";
  return { text: closed ? `closed until ${stamp(qpu.closure.end)}` : qpu.state, kind: closed ? "drained" : qpu.state };
}

function calendarWords(qpu) {
  if (!qpu.closure) return "";
  const { start, end, kind, title } = qpu.closure;
  const reason = title ? `${kind} (${title})` : kind;
  if (!qpu.closed) return `closes ${stamp(start)}: ${reason}`;
  return qpu.state === "online" ? reason : `closed until ${stamp(end)}: ${reason}`;
}

function showRunning(jobs) {
  const own = jobs.map((job) => ({
    key: job.id,
    cells: [jobLink(job.id), job.qpu, job.project, job.user, long(job.run), stageName(job.stage),
      moment(job.started_at || job.submitted_at, since(job.started_at || job.submitted_at))],
  }));
  const others = state.slots.filter((slot) => !slot.job && !slot.ended_at).map((slot, index) => ({
    key: `other-${slot.qpu}-${slot.started_at}-${index}`,
    kind: "other",
    cells: ["another project’s", slot.qpu, "", "", "", "", moment(slot.started_at, since(slot.started_at))],
  }));
  fill("running", [...own, ...others]);
}

function showQueue(jobs, qpus) {
  fill("queue", jobs.map((job) => ({
    key: job.id,
    cells: [jobLink(job.id), job.qpu, { text: job.state, kind: job.state }, job.project, job.user, long(job.run),
      moment(job.submitted_at, `${clock(Date.parse(job.submitted_at))} (${since(job.submitted_at)})`)],
  })));
  const shown = jobs.filter((job) => job.state === "queued").length;
  const rest = qpus.reduce((sum, qpu) => sum + qpu.queued, 0) - shown;
  setText($("queue-rest"), rest > 0 ? `${rest} more in the queue, not shown.` : "");
}

function showProjects(uses) {
  fill("projects", uses.map((use) => ({
    key: use.project,
    cells: [use.project, number(use.jobs), number(use.open), number(use.shots), number(use.qpu_seconds, 3),
      Object.entries(use.charges).map(([unit, amount]) => `${Number(amount.toPrecision(6))} ${unit}`).join(", ")],
  })));
}

function showBudgets(uses) {
  const amount = (value, none) => (value === null ? { text: none, kind: "n" } : number(value, 3));
  fill("budgets", uses.flatMap((use) => use.budgets.map((budget) => ({
    key: `${use.project} ${budget.unit}`,
    cells: [use.project, budget.unit, amount(budget.amount, "none"), number(budget.spent, 3),
      number(budget.reserved, 3), amount(budget.left, "")],
  }))));
}

function showJob(job, why) {
  setText($("job-title"), `Job ${job.id}`);
  const usage = job.usage;
  const charges = usage.charges.map((charge) => `${Number(charge.amount.toPrecision(6))} ${charge.unit}`);
  const facts = {
    State: job.state, Error: job.error && `${job.error_type}: ${job.error}`,
    QPU: `${job.qpu} (${job.backend})`, Project: job.project, User: job.user, Run: job.run, Stage: job.stage,
    Asked: `${job.kind}, ${job.pubs} PUBs, ${job.circuits} circuits, ${job.num_qubits} qubits, ${job.shots} shots`,
    "Waits for": why.waits_for.join("; "),
    "Probably starts": stamp(why.expected_start),
    "Before it": why.ahead === null ? "" : `${why.ahead} jobs`,
    "Went before it": why.overtaken_by ? `${why.overtaken_by} jobs that came later` : "",
    Submitted: stamp(job.submitted_at), Started: stamp(job.started_at), Ended: stamp(job.ended_at),
    Waited: span(Date.parse(job.submitted_at), job.started_at ? Date.parse(job.started_at) : now()),
    Used: [`${Number(usage.qpu_seconds.toPrecision(6))} QPU-seconds`, `${usage.shots} shots`, ...charges].join(", "),
  };
  const list = $("job-facts");
  const wanted = Object.entries(facts).filter(([, value]) => value);
  const names = wanted.map(([name]) => name).join();
  if (list.dataset.names !== names || !list.firstChild) {
    list.dataset.names = names;
    list.replaceChildren(...wanted.flatMap(([name]) => {
      const term = document.createElement("dt");
      term.textContent = name;
      return [term, document.createElement("dd")];
    }));
  }
  wanted.forEach(([, value], index) => setText(list.children[2 * index + 1], value));
  list.children[1].className = job.state;
  const reasons = Object.fromEntries(why.tasks.map((task) => [task.tag, task.text]));
  fill("tasks", job.tasks.map((task) => ({
    key: task.tag,
    cells: [{ text: task.tag, kind: "id" }, { text: task.state, kind: task.state }, task.qpu_task, number(task.starts),
      number(task.shots), moment(task.planned_at), moment(task.started_at), moment(task.ended_at),
      number(task.usage.qpu_seconds, 3), long([reasons[task.tag] || "", task.late ? "too late, not used" : "", task.error || ""].filter(Boolean).join("; "))],
  })));
}

// Beginning ---------------------------------------------------------------------------------

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("token").value.trim());
  $("token").value = "";
  refresh();
});
$("forget").addEventListener("click", () => {
  state.asking?.abort();
  state.asking = null;
  clearTimeout(state.timer);
  keepToken(null);
  signOut("");
});
$("spans").addEventListener("change", (event) => {
  state.hours = Number(event.target.value);
  draw();
});
window.addEventListener("hashchange", () => {
  if (location.hash === "#content") return;
  takeTokenFromAddress();
  refresh();
  window.scrollTo(0, 0);
});
window.addEventListener("resize", draw);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(state.timer);
    state.asking?.abort();
  } else refresh();
});
if (!takeTokenFromAddress()) state.token = sessionStorage.getItem(STORE);
refresh();
