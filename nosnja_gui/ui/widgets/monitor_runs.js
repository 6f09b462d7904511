// The queue and all runs of the workspace; a click opens one. props.value: see Monitor.listed in ui/monitor.py.
const { h, T, number, duration } = nosnja;
const root = element.firstElementChild;
const { STATES } = nosnja;
const KINDS = { train: T("Training"), caption: T("Captioning"), grid: T("XYZ plot"), demo: T("Demo"), download: T("Download"), damaged: T("Damaged") };

const queue = h("ol", { class: "nosnja-runs-queue", id: "monitor-queue" });
const waiting = h("div", { class: "nosnja-runs-waiting" }, h("h3", {}, T("Queue")), queue);
const told = h("div", { class: "nosnja-mon-told error", role: "status" });
const names = [T("Run"), T("Kind"), T("State"), T("Done"), T("Loss"), T("Begun"), T("Worked")];
const body = h("tbody", {});
const table = h("table", { id: "monitor-past" }, h("thead", {}, h("tr", {}, names.map((name) => h("th", {}, name)))), body);
const more = h("div", { class: "nosnja-muted nosnja-runs-more" });
const card = h("div", { class: "nosnja-card nosnja-runs" }, waiting, told, h("h3", {}, T("All runs")), h("div", { class: "nosnja-runs-scroll", tabindex: 0 }, table, more));
root.replaceChildren(card);

const open = (run) => {
  trigger("pick", { run });
  document.getElementById("monitor-head")?.scrollIntoView({ behavior: "smooth", block: "nearest" });
};

const when = (seconds) => {
  if (!seconds) return "–";
  const then = new Date(seconds * 1000), now = new Date();
  const clock = then.toLocaleTimeString(navigator.language, { hour: "2-digit", minute: "2-digit" });
  return then.toDateString() === now.toDateString() ? clock : `${then.toLocaleDateString(navigator.language, { day: "numeric", month: "short" })} ${clock}`;
};

// ---------------------------------------------------------------- the queue

const SETTLED = 4000; // milliseconds until a list that was read before an answer has come
const lines = new Map(); // run -> its line, made once: what has the focus or is dragged stays when the list is drawn anew
let order = []; // the runs as their lines stand
let put = null; // {order, until}: where the user put them, while lists may come that were read before
let dragged = "";

const ask = async (run, action, value = null) => {
  const line = lines.get(run);
  setBusy(line, true);
  const answer = await server.act({ run, action, value }).catch(() => ({ error: T("The window does not answer: is it still open?") }));
  told.textContent = answer.error || "";
  if (action === "remove" && !answer.error) setTimeout(() => setBusy(line, false), SETTLED); // in case that it waits again
  else setBusy(line, false);
  return !answer.error;
};
const setBusy = (line, busy) => {
  line.draggable = !busy;
  for (const button of line.querySelectorAll(".nosnja-button")) button.disabled = busy;
};

/** Let a run wait before another one, or last with null. It stands there at once, and goes back if that cannot be. */
const move = async (run, before, pressed = null) => {
  const others = order.filter((other) => other !== run);
  const place = others.includes(before) ? others.indexOf(before) : others.length;
  put = { order: [...others.slice(0, place), run, ...others.slice(place)], until: Infinity };
  const line = lines.get(run);
  if (pressed) line.focus({ preventScroll: true }); // a disabled button would lose the focus to nowhere
  drawQueue(props.value.queue);
  if (pressed) line.scrollIntoView({ block: "nearest" });
  put = (await ask(run, "move", before)) && put ? { ...put, until: Date.now() + SETTLED } : null;
  if (document.activeElement === line) pressed?.focus({ preventScroll: true });
  draw();
  setTimeout(draw, SETTLED + 1);
};

const follower = (run) => order[order.indexOf(run) + 1] ?? null;
const lineOf = (run) => {
  const button = (kind, label, title, press) =>
    h("button", { type: "button", class: `nosnja-button ${kind}`, title, "aria-label": title, onclick: (event) => press(event.currentTarget) }, label);
  return h(
    "li", { draggable: "true", tabindex: -1, dataset: { run }, ondragstart: (event) => lift(event, run), ondragend: drop },
    h("span", { class: "grip", title: T("Drag it to another place"), "aria-hidden": "true" }, "⠿"),
    h("button", { type: "button", class: "name", title: run, onclick: () => open(run) }, run),
    button("earlier", "↑", T("Let {run} run earlier", { run }), (pressed) => move(run, order[order.indexOf(run) - 1], pressed)),
    button("later", "↓", T("Let {run} run later", { run }), (pressed) => move(run, follower(follower(run)), pressed)),
    h("button", { type: "button", class: "nosnja-button", onclick: () => ask(run, "remove") }, T("Take out")),
  );
};

const lift = (event, run) => {
  dragged = run;
  event.dataTransfer.effectAllowed = "move";
  event.dataTransfer.setData("text/x-nosnja-run", run);
  lines.get(run).classList.add("dragged");
};
const drop = () => {
  if (!dragged) return;
  lines.get(dragged).classList.remove("dragged");
  dragged = "";
  mark(undefined);
  draw();
};
/** The run before which the dragged one would come: null for last, undefined where it stands already. */
const target = (event) => {
  const below = (run) => {
    const { top, height } = lines.get(run).getBoundingClientRect();
    return run !== dragged && event.clientY < top + height / 2;
  };
  const before = order.find(below) ?? null;
  return before === follower(dragged) ? undefined : before;
};
const mark = (before) => {
  for (const [run, line] of lines) {
    line.classList.toggle("lands-before", run === before);
    line.classList.toggle("lands-after", before === null && run === order.at(-1));
  }
};
waiting.addEventListener("dragover", (event) => {
  if (!dragged) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "move";
  mark(target(event));
});
waiting.addEventListener("dragleave", (event) => !waiting.contains(event.relatedTarget) && mark(undefined));
waiting.addEventListener("drop", (event) => {
  if (!dragged) return;
  event.preventDefault();
  const run = dragged, before = target(event);
  drop();
  if (before !== undefined && lines.has(run)) move(run, before); // its turn may have come while it was dragged
});

const drawQueue = (queued) => {
  if (dragged) return; // drawn when it is dropped: a line that is taken away ends the dragging
  const kept = put && Date.now() < put.until ? put.order.filter((run) => queued.includes(run)) : [];
  order = [...kept, ...queued.filter((run) => !kept.includes(run))];
  waiting.hidden = !order.length;
  for (const [run, line] of lines) if (!order.includes(run)) { line.remove(); lines.delete(run); }
  const focused = document.activeElement;
  order.forEach((run, place) => {
    if (!lines.has(run)) lines.set(run, lineOf(run));
    const line = lines.get(run);
    if (queue.children[place] !== line) queue.insertBefore(line, queue.children[place] || null);
    line.classList.toggle("first", place === 0);
    line.classList.toggle("last", place === order.length - 1);
  });
  if (queue.contains(focused)) focused.focus({ preventScroll: true }); // a line that is put elsewhere loses it
};

// ---------------------------------------------------------------- all runs

const rows = new Map();
const drawNumbers = (row, one) => {
  const cells = row.children;
  const { step, total, loss, seconds } = one.state === "running" && nosnja.watched?.run === one.run ? nosnja.watched : one;
  cells[3].textContent = total ? nosnja.amount(one.kind, step, total) : "–";
  cells[4].textContent = number(loss);
  cells[6].textContent = seconds ? duration(seconds) : "–";
};
const draw = () => {
  const value = props.value || {};
  card.hidden = !(value.runs && value.runs.length);
  if (card.hidden) return;
  drawQueue(value.queue);
  let before = null;
  const there = new Set();
  for (const one of value.runs) {
    there.add(one.run);
    let row = rows.get(one.run);
    if (!row) {
      const name = h("button", { type: "button", class: "name", title: one.run, onclick: (event) => { event.stopPropagation(); open(one.run); } }, one.run);
      row = h("tr", { dataset: { run: one.run }, onclick: () => open(one.run) }, h("td", {}, name), ...names.slice(1).map(() => h("td", {})));
      row.children[2].append(h("span", { class: "nosnja-state" }));
      rows.set(one.run, row);
    }
    const cells = row.children, badge = cells[2].firstChild;
    cells[1].textContent = KINDS[one.kind] || one.kind;
    badge.textContent = STATES[one.state] || one.state;
    badge.className = `nosnja-state ${one.state}`;
    row.title = one.message || "";
    cells[5].textContent = when(one.at);
    drawNumbers(row, one);
    const follower = before ? before.nextSibling : body.firstChild;
    if (follower !== row) body.insertBefore(row, follower);
    before = row;
  }
  for (const [name, row] of rows) if (!there.has(name)) { row.remove(); rows.delete(name); }
  more.textContent = value.more ? T("Older runs that are not listed: {count}", { count: value.more }) : "";
};
watch("value", draw);
draw();
window.addEventListener("nosnja-watched", () => {
  for (const one of props.value?.runs || []) if (one.state === "running" && rows.has(one.run)) drawNumbers(rows.get(one.run), one);
});
