// The grids of the workspace: one of them, filling while it is painted, with its progress and what can be done with it.
const { h, T } = nosnja;
const root = element.querySelector(".nosnja-xyz");
const RUNNING = ["running", "queued"];
let grid = null; // the viewer
let shown = null; // {name, stamp, since, pictures, record}
let asking = false;
let again = false;
let told = { text: "" }; // what was answered to the last click, and which grid in which state it was about
let stopping = ""; // the grid that was asked to stop

const state = () => props.value || { grids: [], shown: "" };
const names = { ...nosnja.STATES, running: T("Painting") };

// ---------------------------------------------------------------- the frame

const chooser = h("select", { class: "nosnja-xyz-chooser", id: "grid-chooser", "aria-label": T("Grid"), onchange: () => trigger("pick", { grid: chooser.value }) });
const badge = h("span", { class: "nosnja-state" });
const bar = h("i");
const progress = h("div", { class: "nosnja-progress", role: "progressbar", "aria-label": T("Progress") }, bar);
const figures = h("span", { class: "nosnja-muted nosnja-xyz-figures" });
const stop = button(T("Stop"), "grid-stop", () => { stopping = state().shown; draw(); trigger("pick", { grid: stopping, do: "stop" }); });
const goOn = button(T("Go on"), "grid-go-on", () => { goOn.disabled = true; trigger("pick", { grid: state().shown, do: "continue" }); });
const sheet = h("a", { class: "nosnja-button", id: "grid-png", download: "" }, T("PNG"));
const page = button(T("HTML page"), "grid-html", () => save(page));
const folder = h("code", { class: "nosnja-xyz-folder" });
const note = h("div", { class: "nosnja-note", hidden: true, role: "status" });
const place = h("div", { class: "nosnja-xyz-grid" });
const head = h("div", { class: "nosnja-xyz-head" },
  h("div", { class: "nosnja-xyz-row" }, chooser, badge, h("span", { class: "nosnja-grid-space" }), stop, goOn, sheet, page),
  h("div", { class: "nosnja-xyz-row small" }, progress, figures, folder));
const empty = h("div", { class: "nosnja-empty" },
  h("h2", {}, T("No grid yet")),
  h("p", {}, T("An XYZ plot paints the same picture again and again while one, two or three settings change: the epoch of your LoRA, its weight, the trigger word on and off. Side by side you see what each does, and which epoch is best.")),
  h("p", {}, T("On the left, choose a trained run and what varies on the axes; then press Paint. Cells appear here one by one.")),
  h("div", { class: "nosnja-xyz-sketch", "aria-hidden": "true" }, Array.from({ length: 15 }, () => h("i"))));
root.replaceChildren(head, note, empty, place);

function button(text, id, onclick) {
  return h("button", { type: "button", class: "nosnja-button", id, onclick }, text);
}

// ---------------------------------------------------------------- what the server says

function draw() {
  const now = state();
  const any = now.grids.length > 0;
  head.hidden = !any;
  empty.hidden = any;
  place.hidden = !any;
  // What is merely new says nothing about what was answered: that stays until there is another answer, or it is out of date.
  const about = `${now.shown} ${now.state}`;
  if (now.message !== undefined || told.about !== about) told = { text: now.message || "", about };
  const broken = ["failed", "crashed"].includes(now.state);
  const said = told.text || (broken ? now.said : "");
  note.hidden = !said;
  note.textContent = said || "";
  note.classList.toggle("error", broken && !told.text);
  if (!any) { grid = shown = null; place.replaceChildren(); return; }

  if ([...chooser.options].map((option) => option.value).join("\n") !== now.grids.join("\n")) {
    chooser.replaceChildren(...now.grids.map((name) => h("option", { value: name }, name)));
  }
  chooser.value = now.shown;
  chooser.title = now.shown;
  const busy = RUNNING.includes(now.state);
  if (busy && now.stopping) stopping = now.shown;
  else if (!busy && stopping === now.shown) stopping = "";
  const ending = busy && stopping === now.shown;
  badge.className = `nosnja-state ${now.state === "queued" ? "" : now.state}`;
  badge.textContent = ending ? T("Stopping") : names[now.state] || now.state;
  const share = now.total ? Math.min(1, now.done / now.total) : 0;
  bar.style.width = `${100 * share}%`;
  progress.setAttribute("aria-valuenow", Math.round(100 * share));
  progress.style.visibility = now.total ? "visible" : "hidden";
  const parts = now.total ? [T("{done} of {total} pictures", { done: now.done, total: now.total })] : [];
  if (busy && now.eta) parts.push(T("{time} left", { time: nosnja.duration(now.eta) }));
  else if (busy && now.stage) parts.push(now.stage);
  figures.textContent = figures.title = parts.join(" · ");
  stop.hidden = !busy;
  stop.disabled = ending;
  goOn.hidden = busy || now.state === "finished";
  goOn.disabled = false;
  sheet.setAttribute("aria-disabled", String(!now.sheet));
  if (now.sheet) { sheet.href = now.sheet; sheet.download = `${now.shown.replaceAll("/", "-")}.png`; } else sheet.removeAttribute("href");
  page.disabled = !shown || !shown.record;
  folder.textContent = now.folder;
  folder.title = now.folder;
  ask();
}

/** Has the cells brought that are new; one question at a time, and one more if something changed meanwhile. */
async function ask() {
  const now = state();
  if (!shown || shown.name !== now.shown) {
    shown = { name: now.shown, stamp: "", since: 0, pictures: {}, record: null, seen: "" };
    grid = null;
  }
  const seen = JSON.stringify([now.stamp, now.state]);
  if (seen === shown.seen) return;
  if (asking) { again = true; return; }
  asking = true;
  const mine = shown;
  try {
    const answer = await server.cells({ grid: mine.name, record: mine.stamp, since: mine.since });
    if (mine !== shown) { again = true; return; }
    mine.seen = seen;
    if (answer.record) { mine.record = answer.record; mine.pictures = {}; }
    mine.stamp = answer.stamp || "";
    mine.since = answer.since || 0;
    Object.assign(mine.pictures, answer.pictures || {});
    show(mine);
  } catch {
    // The window was closed or is starting again: the next tick asks once more.
  } finally {
    asking = false;
    if (again) { again = false; ask(); }
  }
}

function show(mine) {
  page.disabled = !mine.record;
  if (!mine.record) {
    const busy = RUNNING.includes(state().state);
    place.replaceChildren(h("p", { class: "nosnja-muted nosnja-xyz-wait" }, busy ? T("The grid is being checked; its cells appear in a moment.") : T("Nothing was painted here.")));
    grid = null;
    return;
  }
  if (grid) { grid.update(mine.record); return; }
  grid = nosnja.grid(place, mine.record, {
    picture: (file, large) => (mine.pictures[file] || ["", ""])[large ? 1 : 0],
    infotext: (file) => server.infotext({ grid: mine.name, file }),
    busy: () => mine === shown && RUNNING.includes(state().state),
    use: (cell, number) => trigger("use", { ...cell, seed: cell.seed + number }),
  });
}

/** The page is made by the server and kept as a file of the user's: it has all pictures in it. */
async function save(source) {
  source.disabled = true;
  try {
    const text = await server.whole_page({ grid: shown.name });
    const address = URL.createObjectURL(new Blob([text], { type: "text/html" }));
    h("a", { href: address, download: `${shown.name.replaceAll("/", "-")}.html` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  } finally {
    source.disabled = false;
  }
}

// Both columns end where the window ends; how much is above them is the page's business.
const tab = root.closest(".nosnja-xyz-tab") || root;
new ResizeObserver(() => {
  if (tab.offsetParent) tab.style.setProperty("--nosnja-xyz-top", `${Math.round(tab.getBoundingClientRect().top + window.scrollY)}px`);
}).observe(document.body);

watch("value", draw);
draw();
