// Runs, LoRAs and base models: a list at the left, what is chosen at the right. Asks the server itself, and only while it is seen.
const T = nosnja.T;
const h = nosnja.h;
const root = element.querySelector(".nosnja-library");

const LOOK_EVERY = 2000;
const LOOK_EVERY_AT_WORK = 1000;
const METHODS = {lora: T("LoRA"), dreambooth: T("DreamBooth"), textual_inversion: T("Textual inversion"), pivotal: T("Pivotal tuning"), hypernetwork: T("Hypernetwork")};
const KINDS = {train: T("Training"), caption: T("Captions"), grid: T("XYZ plot"), demo: T("Demo"), download: T("Download"), damaged: T("Damaged")};
const {STATES} = nosnja;
const CAN_GO_ON = ["new", "stopped", "failed", "crashed"];
const LIVES = ["running", "queued"];

const state = {version: "", section: "runs", id: {runs: "", loras: ""}, checked: [], together: [], search: "", onlyLast: true, places: {models: "", folders: false}, folder: "", ready: false};

// Small things

const button = (text, onclick, kind = "", attributes = {}) => h("button", {type: "button", class: `nosnja-button ${kind}`, onclick, ...attributes}, text);
const badge = (text, kind = "") => h("span", {class: `nosnja-badge ${kind}`}, text);
const full = (at) => (at ? new Date(at * 1000).toLocaleString(undefined, {dateStyle: "medium", timeStyle: "short"}) : "");
/** In a list: without the year that it is. */
function time(at) {
  if (!at) return "";
  const when = new Date(at * 1000);
  const year = when.getFullYear() === new Date().getFullYear() ? {} : {year: "2-digit"};
  return when.toLocaleString(undefined, {...year, month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit"});
}
const numbers = (list) => list.map((value) => nosnja.number(value)).join(", ");
const kindOf = (row) => (row.kind === "train" && METHODS[row.method]) || KINDS[row.kind] || "";
const stateBadge = (row) => (!row.known ? "…" : row.kind === "damaged" ? h("span", {class: "nosnja-state failed"}, KINDS.damaged) : h("span", {class: `nosnja-state ${row.state}`}, STATES[row.state] || row.state));
const progress = (row) => (!row.known || !(row.total || row.step) ? "" : row.step >= row.total ? nosnja.amount(row.kind, row.step) : nosnja.amount(row.kind, row.step, row.total));
const saved = (lora) => (lora.epoch !== null ? T("epoch {epoch}", {epoch: lora.epoch}) : lora.step !== null ? T("step {step}", {step: lora.step}) : "");

async function ask(name, asked) {
  try {
    return (await server[name](asked)) ?? {};
  } catch {
    return {problem: T("The window's program does not answer: is it still running?")};
  }
}

async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https the clipboard is closed to scripts; what is selected can be copied all the same.
    const field = h("textarea", {style: {position: "fixed", opacity: "0"}});
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  from.classList.add("done");
  setTimeout(() => from.classList.remove("done"), 1200);
}

const copyable = (text) => {
  const made = h("button", {type: "button", class: "nosnja-library-copy", title: T("Copy")}, h("code", {}, text));
  made.addEventListener("click", () => copy(text, made));
  return made;
};

const facts = (pairs) =>
  h("dl", {class: "nosnja-library-facts"}, pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

// What was just done, at the foot of the list, with a way back

const said = h("div", {class: "nosnja-library-said", role: "status", "aria-live": "polite"});
let saying = 0;
function say(text, undo, problem) {
  clearTimeout(saying);
  said.replaceChildren(h("span", {}, text), ...(undo ? [button(T("Undo"), undo, "", {id: "library-undo"})] : []), button("×", () => said.replaceChildren(), "quiet", {"aria-label": T("Close")}));
  said.classList.toggle("problem", Boolean(problem));
  saying = setTimeout(() => said.replaceChildren(), undo ? 20000 : 8000);
}

// The lists

const runs = nosnja.libraryTable([
  {name: "name", title: T("Run"), value: (row) => row.id, cell: (row) => row.id, low: true},
  {name: "kind", title: T("Kind"), value: kindOf, cell: (row) => (row.kind === "damaged" ? "" : kindOf(row)), width: "8.4rem", low: true},
  {name: "state", title: T("State"), value: (row) => STATES[row.state], cell: stateBadge, width: "6.4rem", low: true},
  {name: "steps", title: T("Steps"), value: (row) => row.step, cell: progress, width: "6.2rem", right: true},
  {name: "loss", title: T("Last loss"), value: (row) => row.loss, cell: (row) => (row.loss === null ? "" : row.loss.toFixed(4)), width: "5.2rem", right: true},
  {name: "rate", title: T("Learning rate"), value: (row) => row.learning_rate, cell: (row) => (row.learning_rate === null ? "" : nosnja.number(row.learning_rate)), width: "4.6rem", right: true},
  {name: "rank", title: T("Rank"), value: (row) => row.rank, cell: (row) => row.rank ?? "", width: "3.2rem", right: true},
  {name: "dataset", title: T("Dataset"), value: (row) => row.dataset, cell: (row) => row.dataset, width: "7rem", low: true},
  {name: "made", title: T("Begun"), value: (row) => row.made_at, cell: (row) => time(row.made_at), width: "8.2rem"},
  {name: "took", title: T("Took"), value: (row) => row.seconds, cell: (row) => (row.seconds === null ? "" : nosnja.duration(row.seconds)), width: "6.2rem", right: true},
  {name: "size", title: T("Size"), value: (row) => row.bytes, cell: (row) => (row.bytes === null ? "" : nosnja.bytes(row.bytes)), width: "4.3rem", right: true},
], {
  label: T("Runs"), sort: {name: "made", up: false}, check: (row) => row.kind === "train",
  onpick: (id) => { state.id.runs = id; drawDetails(); side.scrollTop = 0; },
  oncheck: (ids) => { state.checked = ids; drawDetails(); },
  onsort: (sort) => ask("remember", {sort}),
});

const loras = nosnja.libraryTable([
  {name: "name", title: T("LoRA"), value: (row) => row.name, cell: (row) => h("span", {}, row.name, row.problem ? badge(T("damaged"), "error") : null), low: true},
  {name: "saved", title: T("Saved at"), value: (row) => row.step, cell: saved, width: "5.2rem", right: true},
  {name: "run", title: T("Run"), value: (row) => row.run, cell: (row) => row.run, width: "8rem", low: true},
  {name: "kind", title: T("Kind"), value: (row) => row.kind, cell: (row) => row.kind, width: "3.6rem", low: true},
  {name: "family", title: T("For"), value: (row) => row.family, cell: (row) => row.family || "–", width: "4rem", low: true},
  {name: "rank", title: T("Rank"), value: (row) => row.ranks[0] ?? null, cell: (row) => numbers(row.ranks), width: "3.2rem", right: true},
  {name: "trigger", title: T("Trigger word"), value: (row) => row.trigger, cell: (row) => row.trigger, width: "8rem", low: true},
  {name: "made", title: T("Saved"), value: (row) => row.modified_at, cell: (row) => time(row.modified_at), width: "8.2rem"},
  {name: "size", title: T("Size"), value: (row) => row.bytes, cell: (row) => nosnja.bytes(row.bytes), width: "4.3rem", right: true},
], {
  label: T("LoRAs"), sort: {name: "made", up: false}, check: (row) => !row.problem,
  onpick: (id) => { state.id.loras = id; drawDetails(); side.scrollTop = 0; },
  oncheck: (ids) => { state.together = ids; drawDetails(); },
});

const trash = nosnja.libraryTable([
  {name: "name", title: T("Name"), value: (row) => row.name, cell: (row) => row.name, low: true},
  {name: "origin", title: T("Where it was"), value: (row) => row.origin, cell: (row) => row.origin, low: true},
  {name: "made", title: T("Deleted"), value: (row) => row.at, cell: (row) => time(row.at), width: "9rem"},
  {name: "size", title: T("Size"), value: (row) => row.bytes, cell: (row) => nosnja.bytes(row.bytes), width: "5rem", right: true},
  {name: "back", title: "", value: () => 0, cell: (row) => button(T("Bring back"), null, "", {"data-restore": row.id}), width: "7.5rem", right: true},
], {label: T("Trash"), sort: {name: "made", up: false}, onpick: () => {}});
trash.element.addEventListener("click", (event) => {
  const id = event.target.closest("[data-restore]")?.dataset.restore;
  if (id) restore(id);
});

// The tools

const tasks = nosnja.libraryTasks({
  cancel: async (id) => { const answer = await ask("cancel_tool", {id}); if (answer.problem) say(answer.problem, null, true); look(true); },
  forget: async (id) => { await ask("forget_tool", {id}); look(true); },
  show: (made) => {
    if (!loras.get(made)) {
      choose("models");
      return models.highlight(made);
    }
    state.id.loras = made;
    choose("loras");
    loras.pick(made);
  },
  ended: (row) => {
    if (!row.made) return;
    loras.mark(row.made);
    models.highlight(row.made);
  },
});

/** The form of a tool; `asked` names what it works on, `subject` is that as its row has it. */
function toolForm(tool, asked, subject, choices) {
  const described = {title: nosnja.libraryTools[tool].title(), ...nosnja.libraryTools[tool].form(subject, choices)};
  return nosnja.libraryForm({...described, act: async (values) => {
    const answer = await ask("use_tool", {tool, ...asked, values: described.sure ? {...values, sure: true} : values});
    if (!answer.problem) look(true);
    return answer;
  }});
}

// The frame

const sections = {
  runs: {title: T("Runs"), table: runs}, loras: {title: T("LoRAs"), table: loras}, models: {title: T("Base models")}, trash: {title: T("Trash"), table: trash},
};
const tables = {runs, loras, trash, tools: tasks};
const tabs = Object.fromEntries(Object.entries(sections).map(([name, {title}]) => [name,
  h("button", {type: "button", role: "tab", id: `library-${name}`, class: "nosnja-library-tab", onclick: () => choose(name)}, h("span", {}, title), h("b", {}))]));
const search = h("input", {type: "search", id: "library-search", placeholder: T("Search"), "aria-label": T("Search"), oninput: () => { state.search = search.value.trim().toLowerCase(); filter(); }});
const lastOnly = h("input", {type: "checkbox", id: "library-only-last", onchange: () => { state.onlyLast = lastOnly.checked; ask("remember", {only_last: lastOnly.checked}); filter(); }});
const lastLabel = h("label", {class: "nosnja-library-check"}, lastOnly, T("Only what runs ended with"));
const emptyTrash = h("span", {class: "nosnja-library-empty-trash"});
const main = h("div", {class: "nosnja-library-main"});
const side = h("aside", {class: "nosnja-card nosnja-library-side", id: "library-details"});
root.append(
  h("div", {class: "nosnja-library-bar"},
    h("div", {class: "nosnja-library-tabs", role: "tablist"}, tabs.runs, tabs.loras, tabs.models), search, lastLabel, emptyTrash,
    h("div", {class: "nosnja-library-tabs", role: "tablist"}, tabs.trash)),
  h("div", {class: "nosnja-library-body"}, main, side),
  h("div", {class: "nosnja-library-foot"}, said, tasks.element));

const begin = () => h("p", {}, button(T("Begin on the Start tab"), () => trigger("go", {to: "start"}), "primary"));
const EMPTY = {
  runs: () => h("div", {class: "nosnja-empty"}, h("h2", {}, T("No runs yet")),
    h("p", {}, T("Every training, captioning and XYZ plot that you start is kept here, with its settings and its results.")), begin()),
  loras: () => h("div", {class: "nosnja-empty"}, h("h2", {}, T("No LoRAs yet")),
    h("p", {}, T("A LoRA is the small file that a training makes: it teaches a base model one new thing. Yours will be listed here.")),
    h("p", {class: "nosnja-muted"}, T("LoRAs from elsewhere are found, too, in the models folder:"), " ", copyable(state.places.models)), begin()),
  trash: () => h("div", {class: "nosnja-empty"}, h("h2", {}, T("The trash is empty")),
    h("p", {}, T("What you delete comes here first, so that you can bring it back."))),
};

function choose(name) {
  state.section = name;
  state.chosen = true;
  ask("remember", {section: name});
  drawSection();
}

function drawSection() {
  const name = state.section;
  for (const [other, tab] of Object.entries(tabs)) tab.setAttribute("aria-selected", String(other === name));
  search.style.visibility = name === "models" || name === "trash" ? "hidden" : "visible";
  lastLabel.hidden = name !== "loras";
  emptyTrash.hidden = name !== "trash";
  side.hidden = name === "models" || name === "trash";
  if (name === "models") {
    main.replaceChildren(models.element);
    return models.look();
  }
  showList();
  filter();
  if (name === "trash") drawEmptyTrash();
  else drawDetails();
}

/** The list, or what stands there while it is empty. */
function showList() {
  const table = sections[state.section].table;
  if (!table) return;
  const bare = table.size() === 0 && state.ready;
  if (bare ? !main.querySelector(`[data-empty="${state.section}"]`) : main.firstChild !== table.element) {
    const shown = bare ? EMPTY[state.section]() : table.element;
    if (bare) shown.dataset.empty = state.section;
    main.replaceChildren(shown);
  }
  if (state.section !== "trash") side.hidden = bare;
}

function filter() {
  const words = state.search.split(/\s+/).filter(Boolean);
  const has = (texts) => words.every((word) => texts.some((text) => String(text ?? "").toLowerCase().includes(word)));
  runs.filter((row) => has([row.id, KINDS[row.kind], kindOf(row), row.kind, STATES[row.state], row.state, row.dataset, row.model, row.trigger]));
  loras.filter((row) => (row.last || !state.onlyLast) && has([row.name, row.run, row.trigger, row.base_name, row.family, row.kind]));
  trash.filter(() => true);
}

// What is new

let under = false;
async function look(now) {
  if (under) return;
  under = true;
  let answer = null;
  try {
    answer = await server.look({version: state.version, now: Boolean(now)});
  } catch {
    // The window's program was ended or begins again; it is asked again in a moment.
  } finally {
    under = false;
  }
  if (answer && !answer.problem) take(answer);
  return answer;
}

function take(answer) {
  if (answer.fresh) {
    for (const table of Object.values(tables)) table.clear();
    restoreView(answer);
    models.drawHead();
  }
  state.version = answer.version;
  const at = (key) => [tables[key.slice(0, key.indexOf(":"))], key.slice(key.indexOf(":") + 1)];
  for (const [table, id] of answer.gone.map(at)) table.remove(id);
  // Files before the tools that wrote them.
  const news = Object.entries(answer.rows).sort(([a], [b]) => a.startsWith("tools:") - b.startsWith("tools:"));
  for (const [key, row] of news) {
    const [table, id] = at(key);
    table.put(id, row);
  }
  const first = !state.ready;
  state.ready = state.ready || answer.all_read || runs.size() > 0;
  for (const [name, {table}] of Object.entries(sections)) {
    if (table) tabs[name].querySelector("b").textContent = table.size() || "";
    table?.arrange();
  }
  if (first || answer.fresh) return drawSection();
  if (state.section === "models") return;
  showList();
  if (state.section === "trash") drawEmptyTrash();
  else followDetails();
}

function restoreView(answer) {
  state.places = answer.places;
  state.folder = answer.view.folder || "";
  state.onlyLast = answer.view.only_last !== false;
  lastOnly.checked = state.onlyLast;
  runs.sortedBy(answer.view.sort);
  // Whoever was faster than the first answer has chosen already.
  if (!state.ready && !state.chosen && sections[answer.view.section]) state.section = answer.view.section;
}

async function poll() {
  if (!root.isConnected) return;
  let answer = null;
  if (root.offsetParent !== null && !document.hidden) {
    answer = await look();
    if (state.section === "models") models.look();
  }
  setTimeout(poll, answer && answer.all_read === false ? 250 : tasks.running() ? LOOK_EVERY_AT_WORK : LOOK_EVERY);
}

// Details

let shown = {}; // {id, section, mark, follow(row)}: what the side shows, and how it follows its row

function drawDetails() {
  if (state.section === "runs" && state.checked.length > 1) return drawComparison();
  if (state.section === "loras" && state.together.length > 1) return drawTogether();
  const table = sections[state.section].table;
  const id = state.id[state.section];
  const row = table.get(id);
  if (!row) {
    shown = {};
    const hint = state.section === "runs" ? T("Click a run to see its settings and results. Tick two or more to compare their settings.") : T("Click a LoRA to see what is known of it, to test it, to change it, or to take it along. Tick two or more to merge them.");
    return side.replaceChildren(h("p", {class: "nosnja-muted"}, hint));
  }
  shown = {section: state.section, id, mark: markOf(row)};
  (state.section === "runs" ? drawRun : drawLora)(row);
}

const markOf = (row) => JSON.stringify([row.state, row.known, row.kind, row.message, row.problem, row.modified_at]);

/** After news: what is shown follows its row, and is drawn anew only where its state changed and nobody is typing there. */
function followDetails() {
  if ((state.section === "runs" && state.checked.length > 1) || (state.section === "loras" && state.together.length > 1)) return;
  const row = sections[state.section].table.get(state.id[state.section]);
  if (!row || shown.section !== state.section || shown.id !== row.id) return drawDetails();
  if (markOf(row) !== shown.mark && !side.querySelector("form")) return drawDetails();
  shown.follow?.(row);
}

const heading = (name, ...marks) => h("header", {class: "nosnja-library-heading"}, h("h3", {title: name}, name), marks);

/** Buttons, which make room for a question and come back after it. */
function actions(list) {
  const place = h("div", {class: "nosnja-library-actions"});
  const back = () => place.replaceChildren(...list.filter(Boolean).map((make) => make(open)));
  function open(form) {
    place.replaceChildren(form);
    form.querySelector("input[type=text]")?.select();
    form.querySelector("input, button")?.focus();
    form.addEventListener("keydown", (event) => { if (event.key === "Escape") back(); });
    form.addEventListener("reset", back);
  }
  back();
  return place;
}

/** A question in place of the buttons: fields, one button that does it, one that doesn't, and room for what is wrong. */
function question(fields, confirm, act) {
  const wrong = h("div", {class: "nosnja-field-error", role: "alert"});
  const go = h("button", {type: "submit", class: "nosnja-button primary"}, confirm);
  const form = h("form", {class: "nosnja-library-question"}, fields, h("div", {class: "nosnja-library-buttons"}, go, h("button", {type: "reset", class: "nosnja-button"}, T("Cancel"))), wrong);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    const problem = await act(form, {wrong, go});
    go.disabled = false;
    wrong.textContent = problem || "";
    if (!problem) form.reset();
  });
  return form;
}

const field = (name, label, value) => h("label", {}, h("span", {}, label), h("input", {type: "text", name, value, spellcheck: "false", autocomplete: "off"}));

function renaming(section, row) {
  const now = section === "runs" ? row.id : row.name;
  return question([field("name", T("New name"), now)], T("Rename"), async (form) => {
    const answer = await ask("rename", {section, id: row.id, name: form.elements.name.value});
    if (answer.problem) return answer.problem;
    state.id[section] = answer.id;
    await look(true);
    sections[section].table.pick(answer.id);
    say(T("{name} is called {wanted} now.", {name: now, wanted: form.elements.name.value.trim()}));
  });
}

function deleting(section, row, warning) {
  const name = section === "runs" ? row.id : row.name;
  const text = section === "runs" ? T("Move {name} with all its files to the trash?", {name}) : T("Move {name} to the trash?", {name});
  return question([h("p", {}, text), warning ? h("p", {class: "nosnja-note warning"}, warning) : null], T("Move to trash"), async () => {
    const answer = await ask("delete", {section, id: row.id});
    if (answer.problem) return answer.problem;
    state.id[section] = "";
    await look(true);
    drawDetails();
    say(T("{name} is in the trash.", {name}), () => restore(answer.trashed));
  });
}

async function restore(id) {
  const answer = await ask("restore", {id});
  if (answer.problem) return say(answer.problem, null, true);
  await look(true);
  say(T("{name} is back.", {name: answer.name}));
}

function drawEmptyTrash() {
  if (emptyTrash.querySelector("form")) return;
  const rows = trash.rows();
  const bytes = rows.reduce((sum, row) => sum + row.bytes, 0);
  const text = rows.length ? T("Empty the trash ({size})", {size: nosnja.bytes(bytes)}) : "";
  if (emptyTrash.firstChild?.textContent === text) return;
  emptyTrash.replaceChildren(...(rows.length ? [button(text, () => {
    const form = question([h("span", {}, T("Delete all of it for good?"))], T("Delete for good"), async () => {
      const answer = await ask("empty_trash", {});
      if (!answer.problem) say(T("{size} are free now.", {size: nosnja.bytes(answer.bytes)}));
      await look(true);
      return answer.problem;
    });
    form.addEventListener("reset", () => { emptyTrash.replaceChildren(); drawEmptyTrash(); });
    emptyTrash.replaceChildren(form);
  }, "", {id: "library-empty-trash"})] : []));
}

// A run

function drawRun(row) {
  const list = h("div");
  const more = h("div", {class: "nosnja-library-more"});
  const mine = () => loras.rows().filter((lora) => lora.run === row.id).sort((a, b) => (b.step ?? 0) - (a.step ?? 0));
  const top = () => facts([
    [row.kind === "download" ? T("Downloaded") : T("Steps"), progress(row)],
    [T("Last loss"), row.loss === null ? "" : row.loss.toFixed(4)],
    [T("Learning rate"), row.learning_rate === null ? "" : nosnja.number(row.learning_rate)],
    [T("Rank / alpha"), row.rank === null ? "" : `${row.rank} / ${row.alpha ?? "–"}`],
    [T("Trigger word"), row.trigger ? copyable(row.trigger) : ""],
    [T("Dataset"), row.dataset],
    [T("Base model"), row.model],
    [T("Begun"), full(row.made_at)],
    [T("Took"), row.seconds === null ? "" : nosnja.duration(row.seconds)],
    [T("Size"), row.bytes === null ? "" : nosnja.bytes(row.bytes)],
  ]);
  let usedBy = [];
  const warning = () => (usedBy.length ? T("These XYZ plots were painted with it and will not find it any more: {names}", {names: usedBy.join(", ")}) : "");
  const go = (to) => () => trigger("go", {to, id: row.id});
  const trained = row.kind === "train";
  const nested = row.id.includes("/");
  const lives = LIVES.includes(row.state);
  const goOn = async (event) => {
    event.currentTarget.disabled = true;
    const answer = await ask("go_on", {id: row.id});
    say(answer.problem || (answer.done === "queued" ? T("{name} waits for its turn.", {name: row.id}) : T("{name} goes on.", {name: row.id})), null, answer.problem);
    await look(true);
    drawDetails();
  };
  const stop = async (event) => {
    event.currentTarget.disabled = true;
    const answer = await ask("end_fetch", {id: row.id});
    if (answer.problem) say(answer.problem, null, true);
  };
  side.replaceChildren(
    heading(row.id, stateBadge(row), row.kind === "damaged" ? "" : badge(kindOf(row) || row.kind)),
    row.message ? h("p", {class: "nosnja-note error nosnja-library-message"}, row.message) : "",
    actions([
      trained || ["demo", "download"].includes(row.kind) ? () => button(T("Open in monitor"), go("monitor"), "primary") : null,
      row.kind === "grid" ? () => button(T("Open the XYZ plot"), go("grid"), "primary") : null,
      trained && mine().length ? () => button(T("XYZ plot of its epochs"), go("xyz")) : null,
      CAN_GO_ON.includes(row.state) && row.known && row.kind !== "damaged" && !nested ? () => button(T("Go on"), goOn, "", {title: T("Takes it up where it ended")}) : null,
      row.kind === "download" && row.state === "running" ? () => button(T("Stop"), stop) : null,
      trained ? () => button(T("Copy settings to Train"), go("train")) : null,
      nested || lives ? null : (open) => button(T("Rename"), () => open(withWarning(renaming("runs", row), warning()))),
      nested || lives ? null : (open) => button(T("Delete"), () => open(deleting("runs", row, warning()))),
    ]),
    list, more);
  const follow = (fresh) => {
    row = fresh;
    const mark = JSON.stringify([fresh.step, fresh.loss, fresh.seconds, fresh.bytes, fresh.learning_rate]);
    if (mark !== list.dataset.mark) list.replaceChildren(top());
    list.dataset.mark = mark;
  };
  follow(row);
  shown.follow = follow;
  const { id } = row;
  ask("run_details", {id}).then((details) => {
    if (shown.id !== id || !side.contains(more)) return;
    if (details.problem && !("yaml" in details)) return more.replaceChildren(h("p", {class: "nosnja-note error"}, details.problem));
    usedBy = details.used_by;
    const yaml = h("pre", {class: "nosnja-library-yaml"}, details.yaml);
    const files = mine();
    more.replaceChildren(
      details.problem ? h("p", {class: "nosnja-note error"}, details.problem) : "",
      ...details.warnings.map((text) => h("p", {class: "nosnja-note warning"}, text)),
      details.pictures.length ? h("div", {class: "nosnja-library-pictures"}, details.pictures.map((picture) => h("a", {href: picture.large, target: "_blank", title: picture.name}, h("img", {src: picture.small, alt: picture.name, loading: "lazy"})))) : "",
      files.length ? h("div", {}, h("h4", {}, T("LoRA files")), h("ul", {class: "nosnja-library-files"}, files.map((lora) =>
        h("li", {}, h("button", {type: "button", title: lora.name, onclick: () => { state.id.loras = lora.id; choose("loras"); loras.pick(lora.id); }}, lora.name),
          h("span", {class: "nosnja-muted"}, saved(lora)), h("span", {class: "nosnja-muted"}, nosnja.bytes(lora.bytes)))))) : "",
      details.read_back ? h("p", {class: "nosnja-muted"}, readBack(details.read_back)) : "",
      usedBy.length ? h("p", {class: "nosnja-muted"}, T("Used by the XYZ plots: {names}", {names: usedBy.join(", ")})) : "",
      details.yaml ? h("details", {}, h("summary", {}, T("Settings")), yamlCopy(details.yaml), yaml) : "");
  });
}

const readBack = ({ours, diffusers}) => {
  const share = (value) => value.toExponential(1);
  return diffusers === null
    ? T("Read back, the file is {ours} of its effect away from what was trained.", {ours: share(ours)})
    : T("Read back, the file is {ours} of its effect away from what was trained, by diffusers' reader {theirs}.", {ours: share(ours), theirs: share(diffusers)});
};

const withWarning = (form, text) => {
  if (text) form.prepend(h("p", {class: "nosnja-note warning"}, text));
  return form;
};

function yamlCopy(text) {
  const made = button(T("Copy"), null, "nosnja-library-yaml-copy");
  made.addEventListener("click", () => copy(text, made));
  return made;
}

// Several runs beside each other

function settingText(value) {
  if (value === null || value === "" || (Array.isArray(value) && !value.length)) return "–";
  if (typeof value === "number") return nosnja.number(value, 6);
  if (typeof value === "boolean") return value ? T("on") : T("off");
  return typeof value === "string" ? value : JSON.stringify(value);
}

async function drawComparison() {
  const ids = state.checked.slice(0, 6);
  const mark = ids.join("\n");
  if (shown.mark === mark) return;
  shown = {mark};
  const answer = await ask("compare", {ids});
  if (shown.mark !== mark) return;
  const clear = button(T("Clear"), () => { runs.uncheck(); drawDetails(); });
  if (answer.problem) return side.replaceChildren(h("p", {class: "nosnja-note error"}, answer.problem), clear);
  const rows = Object.entries(answer.rows);
  const results = [[T("Last loss"), (row) => (row.loss === null ? "" : row.loss.toFixed(4))], [T("Steps"), progress], [T("Took"), (row) => (row.seconds === null ? "" : nosnja.duration(row.seconds))]];
  side.replaceChildren(
    heading(T("What differs"), clear),
    h("div", {class: "nosnja-library-differences"}, h("table", {},
      h("thead", {}, h("tr", {}, h("th"), answer.names.map((name) => h("th", {title: name}, h("span", {}, name))))),
      h("tbody", {},
        results.map(([title, cell]) => h("tr", {class: "result"}, h("th", {}, title), answer.names.map((name) => h("td", {}, runs.get(name) ? cell(runs.get(name)) : "")))),
        rows.map(([name, values]) => h("tr", {}, h("th", {title: name}, name.replaceAll(".", ".\u200b")), values.map((value) => h("td", {}, settingText(value)))))))),
    rows.length ? "" : h("p", {class: "nosnja-muted"}, T("Their settings are the same.")));
}

// A LoRA

const LORA_TOOLS = ["convert", "resize", "rename", "strip", "into", "card", "publish"];
const PARTS = {unet: "UNet", transformer: T("Transformer"), text_encoder: T("text encoder"), text_encoder_2: T("second text encoder"), text_encoder_3: T("third text encoder")};
const GROUPS = {network: T("Network"), training: T("Training"), loss: T("Loss"), pictures: T("Pictures"), "base model": T("Base model"), other: T("Other settings")};

function drawLora(row) {
  const more = h("div", {class: "nosnja-library-more"});
  const [path, triggers, kinds, layout, precision, parts] = ["", row.trigger ? copyable(row.trigger) : "…", row.kind, "…", "…", "…"].map((text) => h("div", {}, text));
  const exporting = () => {
    const into = field("folder", T("Folder (empty: the models folder here)"), state.folder);
    const form = question([field("name", T("Name of the copy"), row.name), state.places.folders ? into : h("p", {class: "nosnja-muted"}, T("It is copied to the models folder.")), h("p", {class: "nosnja-muted"}, T("For A1111 and its kin that is models/Lora in their folder. The copy bears its name inside, too."))],
      T("Export"), async (asked, {go}) => {
        const answer = await ask("export", {id: row.id, name: asked.elements.name.value, folder: asked.elements.folder?.value || "", overwrite: go.dataset.taken === asked.elements.name.value + asked.elements.folder?.value});
        go.textContent = answer.taken ? T("Replace it") : T("Export");
        go.dataset.taken = answer.taken ? asked.elements.name.value + asked.elements.folder?.value : "";
        if (answer.problem) return answer.problem;
        state.folder = asked.elements.folder?.value || "";
        say(T("Copied to {file}", {file: answer.file}));
        await look(true);
      });
    return form;
  };
  const download = async (event) => {
    const pressed = event.currentTarget;
    pressed.disabled = true;
    const answer = await ask("download", {id: row.id});
    pressed.disabled = false;
    if (answer.problem) return say(answer.problem, null, true);
    h("a", {href: answer.url, download: answer.name}).click();
  };
  const inRun = runs.get(row.run);
  const lives = inRun && LIVES.includes(inRun.state);
  side.replaceChildren(
    heading(row.name, row.kind ? badge(row.kind) : "", row.family ? badge(row.family, "good") : "", row.problem ? badge(T("damaged"), "error") : ""),
    row.problem ? h("p", {class: "nosnja-note error nosnja-library-message"}, row.problem) : "",
    actions([
      row.problem ? null : () => button(T("Test in XYZ plot"), () => trigger("go", {to: "xyz", lora: row.id}), "primary"),
      row.problem ? null : (open) => button(T("Export"), () => open(exporting())),
      row.problem ? null : () => button(T("Download"), download),
      row.run || row.problem ? null : (open) => button(T("Rename"), () => open(renaming("loras", row))),
      lives ? null : (open) => button(T("Delete"), () => open(deleting("loras", row, row.run && row.last ? T("It is what the run {name} ended with.", {name: row.run}) : ""))),
    ]),
    row.problem ? "" : h("p", {class: "nosnja-library-snippet"}, h("span", {class: "nosnja-muted"}, T("For a prompt in A1111:")), copyable(`<lora:${row.name}:1>${row.trigger ? ` ${row.trigger}` : ""}`)),
    row.problem ? "" : h("div", {class: "nosnja-library-tools", role: "group", "aria-label": T("Tools")}, actions(LORA_TOOLS.filter((name) => state.places.folders || !nosnja.libraryTools[name].here).map((name) => (open) =>
      button(nosnja.libraryTools[name].title(), () => open(toolForm(name, {ids: [row.id]}, row, models.of(row.family))))))),
    facts([
      [T("Trigger word"), triggers],
      [T("Run"), row.run ? h("button", {type: "button", class: "nosnja-library-link", title: row.run, onclick: () => { state.id.runs = row.run; choose("runs"); runs.pick(row.run); }}, row.run) : ""],
      [T("Saved at"), [row.epoch === null ? null : T("epoch {epoch}", {epoch: row.epoch}), row.step === null ? null : T("step {step}", {step: row.step})].filter(Boolean).join(", ")],
      [T("Trained on"), row.base_name ? `${row.base_name}${row.base_hash ? ` (${row.base_hash})` : ""}` : ""],
      [T("For models"), row.family || (row.problem ? "" : T("not told by the file"))],
      [T("Kind"), kinds],
      [T("Layout"), layout],
      [T("Precision"), precision],
      [T("Modules"), parts],
      [T("Rank / alpha"), row.ranks.length ? `${numbers(row.ranks)} / ${row.alphas.length ? numbers(row.alphas) : "–"}` : ""],
      [T("Saved"), full(row.modified_at)],
      [T("Size"), nosnja.bytes(row.bytes)],
      [T("File"), path],
    ]), more);
  const { id } = row;
  ask("lora_details", {id}).then((details) => {
    if (shown.id !== id || !side.contains(more)) return;
    if (details.problem) return more.replaceChildren(h("p", {class: "nosnja-note error"}, details.problem));
    path.replaceChildren(copyable(details.path));
    triggers.replaceChildren(...(details.triggers.length ? eachOnce(details.triggers).map(triggerLine) : ["–"]));
    kinds.textContent = details.kinds.join(", ") || "–";
    layout.textContent = details.layout || "–";
    precision.textContent = details.precisions.join(", ") || "–";
    parts.textContent = Object.entries(details.parts).map(([part, count]) => `${PARTS[part] || part || T("unknown part")} ${count}`).join(", ") || "–";
    const entries = Object.entries(details.metadata).sort(([a], [b]) => a.localeCompare(b));
    more.replaceChildren(
      ...details.problems.filter((problem) => problem !== row.problem).map((problem) => h("p", {class: "nosnja-note error"}, problem)),
      differsByLayer(details.layers) ? layerTable(details.layers) : "",
      ...Object.entries(details.settings).map(([group, values]) => h("details", {open: true}, h("summary", {}, GROUPS[group] || group), pairs(Object.entries(values)))),
      entries.length
        ? h("details", {}, h("summary", {}, T("All that the file says ({count})", {count: entries.length})), pairs(entries))
        : h("p", {class: "nosnja-muted"}, T("The file says nothing about itself.")));
  });
}

const pairs = (entries) => h("dl", {class: "nosnja-library-facts all"}, entries.map(([name, value]) => [h("dt", {title: name}, name), h("dd", {}, value.length > 2000 ? `${value.slice(0, 2000)} …` : value)]));

/** What the file calls its trigger, with its count where it stands in the captions, too. */
const eachOnce = (found) => [...new Map(found.map((each) => [each.words, found.find((other) => other.words === each.words && other.count !== null) || each])).values()];

const triggerLine = (trigger) => h("div", {class: "nosnja-library-trigger"}, copyable(trigger.words),
  trigger.count === null ? "" : h("span", {class: "nosnja-muted", title: trigger.folder}, T("in {count} of {all} captions", {count: trigger.count, all: trigger.captions})));

const differsByLayer = (layers) => new Set(layers.map(({kind, rank, alpha}) => `${kind}/${rank}/${alpha}`)).size > 1;

const layerTable = (layers) => h("div", {class: "nosnja-library-differences nosnja-library-layers"}, h("table", {},
  h("thead", {}, h("tr", {}, [T("Part"), T("Kind"), T("Rank"), T("Alpha"), T("Modules")].map((title) => h("th", {}, title)))),
  h("tbody", {}, layers.map((row) => h("tr", {class: "result"}, [PARTS[row.part] || row.part || "–", row.kind, row.rank ?? "–", row.alpha === null ? "–" : nosnja.number(row.alpha), row.count].map((value) => h("td", {}, String(value))))))));

// Several LoRAs

function drawTogether() {
  const mark = `merge:${state.together.join("\n")}`;
  if (shown.mark === mark) return;
  shown = {mark};
  const rows = state.together.map((id) => loras.get(id)).filter(Boolean);
  const families = new Set(rows.map((row) => row.family).filter(Boolean));
  const form = toolForm("merge", {ids: rows.map((row) => row.id)}, rows, models.of([...families][0] || ""));
  form.addEventListener("reset", () => loras.uncheck());
  side.scrollTop = 0;
  side.replaceChildren(
    heading(T("{count} LoRAs", {count: rows.length})),
    families.size > 1 ? h("p", {class: "nosnja-note warning"}, T("They are made for different models: {families}.", {families: [...families].join(", ")})) : "",
    form);
}

// Base models

const models = nosnja.libraryModels({
  ask, say, button, badge, copyable, actions, tool: toolForm,
  fetched: (run) => {
    state.id.runs = run;
    choose("runs");
    look(true).then(() => runs.pick(run));
  },
}, () => state.places);

// Columns give way by the width of the list, which is not that of the screen.
new ResizeObserver(() => {
  const width = main.clientWidth / parseFloat(getComputedStyle(document.documentElement).fontSize);
  for (const limit of [62, 55, 53, 46, 40]) main.classList.toggle(`under-${limit}`, width > 0 && width < limit);
}).observe(main);

drawSection();
poll();
