// The tasks of the last hours as a Gantt chart: a lane for each QPU, a colour for each project.

import { clock, now } from "./times.js";

const COLOURS = 8;
const SVG = "http://www.w3.org/2000/svg";
const BAD = new Set(["failed", "cancelled", "uncertain"]);
const TICKS_S = [60, 300, 900, 3600, 3 * 3600, 6 * 3600];
const ROW = 9, SINGLE_ROW = 16, MOST_ROWS = 6, GAP = 12, LABEL = 18, AXIS = 22, SMALLEST = 1.5;

// view: slots as the API gives them, names of QPUs and projects, and how many hours to show.
export function drawTimeline(box, legend, view) {
  const width = Math.max(280, Math.round(box.clientWidth || 900));
  const end = now(), start = end - view.hours * 3600e3;
  const x = (ms) => ((Math.min(Math.max(ms, start), end) - start) / (end - start)) * width;
  const focused = document.activeElement?.closest("#gantt a")?.getAttribute("href");
  const root = svg("svg", { role: "group", "aria-label": `Tasks on the QPUs in the last ${hoursText(view.hours)}` });
  let y = 0;
  for (const qpu of view.qpus) y = drawLane(root, qpu, tasksOf(view, qpu, start, end), { x, y, width, start, end });
  drawAxis(root, { x, y, width, start, end });
  root.setAttribute("viewBox", `0 0 ${width} ${y + AXIS}`);
  box.replaceChildren(root);
  if (focused) box.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  showLegend(legend, view);
}

// Several jobs may share a task; it is one bar.
function tasksOf(view, qpu, start, end) {
  const tasks = new Map();
  for (const slot of view.slots) {
    const from = Date.parse(slot.started_at), to = slot.ended_at ? Date.parse(slot.ended_at) : end;
    if (slot.qpu !== qpu || to < start) continue;
    const key = slot.tag || `${slot.started_at}${slot.ended_at}`;
    const task = tasks.get(key);
    if (task) task.jobs += 1;
    else tasks.set(key, { slot, from, to, jobs: 1, kind: colourOf(slot, view.projects) });
  }
  return [...tasks.values()].sort((a, b) => a.from - b.from);
}

function colourOf(slot, projects) {
  if (!slot.project) return "grey";
  if (BAD.has(slot.state)) return "bad";
  return colour(slot.project, projects);
}

function colour(project, projects) {
  return `p${Math.max(projects.indexOf(project), 0) % COLOURS}`;
}

function drawLane(root, qpu, tasks, { x, y, width, start, end }) {
  const free = [];
  for (const task of tasks) {
    let row = free.findIndex((until) => until <= task.from);
    if (row < 0) row = Math.min(free.length, MOST_ROWS - 1);
    free[row] = Math.max(free[row] || 0, task.to);
    task.row = row;
  }
  const top = y + LABEL, row = free.length > 1 ? ROW : SINGLE_ROW, height = row * Math.max(free.length, 1);
  const busy = Math.round((busyTime(tasks, start, end) / (end - start)) * 100);
  const label = svg("text", { x: 0, y: y + 12 });
  label.textContent = `${qpu}: ${tasks.length} ${tasks.length === 1 ? "task" : "tasks"}, busy ${busy} % of the time`;
  root.append(label, svg("rect", { class: "track", x: 0, y: top, width, height }));
  for (const bar of bars(tasks, x)) root.append(drawBar(bar, top, row));
  return top + height + GAP;
}

function busyTime(tasks, start, end) {
  let sum = 0, until = start;
  for (const task of tasks) {
    const from = Math.max(task.from, until), to = Math.min(task.to, end);
    if (to > from) sum += to - from;
    until = Math.max(until, to);
  }
  return sum;
}

// What is too small to be told apart becomes one bar, so that a day of short tasks stays quick.
function bars(tasks, x) {
  const found = [], last = new Map();
  for (const task of tasks) {
    const left = x(task.from), right = Math.max(x(task.to), left + SMALLEST);
    const key = `${task.kind} ${task.row}`, before = last.get(key);
    const small = right - left <= SMALLEST;
    if (small && before?.small && left - before.right < 0.5) {
      before.right = right;
      before.tasks.push(task);
      continue;
    }
    const bar = { left, right, small, row: task.row, kind: task.kind, tasks: [task] };
    last.set(key, bar);
    found.push(bar);
  }
  return found;
}

function drawBar(bar, top, row) {
  const { slot, jobs } = bar.tasks[0];
  const open = bar.tasks.length === 1 && !slot.ended_at;
  const rect = svg("rect", {
    class: `bar ${bar.kind}${open ? " open" : ""}`, x: bar.left.toFixed(1), y: top + bar.row * row + 1,
    width: Math.max(bar.right - bar.left, SMALLEST).toFixed(1), height: row - 2, rx: 1,
  });
  const words = bar.tasks.length > 1 ? `${bar.tasks.length} tasks` : barText(slot, jobs);
  const title = svg("title", {});
  title.textContent = words;
  rect.append(title);
  if (bar.tasks.length > 1 || !slot.job) return rect;
  const link = svg("a", { href: `#job=${slot.job}`, "aria-label": words });
  link.append(rect);
  return link;
}

function barText(slot, jobs) {
  const times = `${clock(Date.parse(slot.started_at), true)}–${slot.ended_at ? clock(Date.parse(slot.ended_at), true) : "now"}`;
  if (!slot.job) return `another project’s task, ${times}`;
  const which = jobs > 1 ? `${jobs} jobs` : slot.job;
  return `${which}, ${slot.project}, ${slot.user}, ${slot.state}, ${times}`;
}

function drawAxis(root, { x, y, width, start, end }) {
  const most = Math.max(2, Math.floor(width / 90));
  const step = 1000 * (TICKS_S.find((s) => (end - start) / 1000 / s <= most) || 12 * 3600);
  const zone = new Date(end).getTimezoneOffset() * 60e3;
  for (let at = Math.ceil((start - zone) / step) * step + zone; at <= end; at += step) {
    if (at < start) continue;
    const place = x(at).toFixed(1);
    root.prepend(svg("line", { class: "grid", x1: place, x2: place, y1: LABEL, y2: y }));
    const text = svg("text", { class: "tick", x: place, y: y + 12, "text-anchor": anchor(place, width) });
    text.textContent = new Date(at).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
    root.append(text);
  }
  root.append(svg("line", { class: "now", x1: width, x2: width, y1: LABEL, y2: y }));
}

function anchor(place, width) {
  if (place < 20) return "start";
  return place > width - 20 ? "end" : "middle";
}

function showLegend(legend, { slots, projects }) {
  const shown = new Set(slots.map((slot) => slot.project).filter(Boolean));
  const items = [...shown].sort().map((name) => [colour(name, projects), name]);
  if (slots.some((slot) => slot.project && BAD.has(slot.state))) items.push(["bad", "failed, cancelled or uncertain"]);
  if (slots.some((slot) => !slot.project)) items.push(["grey", "other projects"]);
  const text = JSON.stringify(items);
  if (legend.dataset.items === text) return;
  legend.dataset.items = text;
  legend.replaceChildren(...items.map(([kind, name]) => {
    const item = document.createElement("li");
    item.className = kind;
    item.textContent = name;
    return item;
  }));
}

function hoursText(hours) {
  if (hours === 1) return "hour";
  return hours >= 1 ? `${hours} hours` : `${Math.round(hours * 60)} minutes`;
}

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
