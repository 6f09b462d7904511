// The queue and all runs of the workspace; a click opens one. props.value: see Monitor.listed in ui/monitor.py.
const { h, T, number, duration } = nosnja;
const root = element.firstElementChild;
const STATES = {
  new: T("Not started"), queued: T("Waiting"), running: T("Running"), finished: T("Finished"), stopped: T("Stopped"), failed: T("Failed"), crashed: T("Crashed"),
};
const KINDS = { train: T("Training"), caption: T("Captioning"), grid: T("XYZ plot"), demo: T("Demo"), damaged: T("Damaged") };

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
const remove = async (run, pressed) => {
  pressed.disabled = true;
  const answer = await server.act({ run, action: "remove" }).catch(() => ({ error: T("The window does not answer: is it still open?") }));
  told.textContent = answer.error || "";
  if (answer.error) pressed.disabled = false;
};

const when = (seconds) => {
  if (!seconds) return "–";
  const then = new Date(seconds * 1000), now = new Date();
  const clock = then.toLocaleTimeString(navigator.language, { hour: "2-digit", minute: "2-digit" });
  return then.toDateString() === now.toDateString() ? clock : `${then.toLocaleDateString(navigator.language, { day: "numeric", month: "short" })} ${clock}`;
};

const drawQueue = (value) => {
  const shape = JSON.stringify(value.queue);
  if (shape === queue.dataset.shape) return;
  queue.dataset.shape = shape;
  waiting.hidden = !value.queue.length;
  queue.replaceChildren(
    ...value.queue.map((run) => {
      const away = h("button", { type: "button", class: "nosnja-button", onclick: () => remove(run, away) }, T("Take out"));
      return h("li", {}, h("button", { type: "button", class: "name", title: run, onclick: () => open(run) }, run), away);
    }),
  );
};

const rows = new Map();
const draw = () => {
  const value = props.value || {};
  card.hidden = !(value.runs && value.runs.length);
  if (card.hidden) return;
  drawQueue(value);
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
    cells[3].textContent = one.total ? `${one.step} / ${one.total}` : "–";
    cells[4].textContent = number(one.loss);
    cells[5].textContent = when(one.at);
    cells[6].textContent = one.seconds ? duration(one.seconds) : "–";
    const follower = before ? before.nextSibling : body.firstChild;
    if (follower !== row) body.insertBefore(row, follower);
    before = row;
  }
  for (const [name, row] of rows) if (!there.has(name)) { row.remove(); rows.delete(name); }
  more.textContent = value.more ? T("Older runs that are not listed: {count}", { count: value.more }) : "";
};
watch("value", draw);
draw();
