// The head of the monitor: which run, how far it is, what can be done with it. props.value: see Monitor.head in ui/monitor.py.
// Everything is made once and then only filled in, so that nothing jumps and what is being typed stays.
const { h, T, number, duration } = nosnja;
const root = element.firstElementChild;

const { STATES } = nosnja;
const KINDS = { train: T("Training"), caption: T("Captioning"), grid: T("XYZ plot"), demo: T("Demo"), download: T("Download"), damaged: T("Damaged") };
// What the engine calls its stages.
const STAGES = {
  "Loading the model": T("Loading the model"), "Encoding pictures": T("Encoding pictures"), "Encoding captions": T("Encoding captions"),
  "Reading masks": T("Reading masks"),
  Training: T("Training"), "Painting previews": T("Painting previews"), "Checking the grid": T("Checking the grid"), Painting: T("Painting"),
  "Setting the sheet": T("Setting the sheet"), "Loading the captioner": T("Loading the captioner"), Captioning: T("Captioning"),
  "asking the hub": T("Asking the hub"), "Drawing the pictures": T("Drawing the pictures"), "Putting in the trigger word": T("Putting in the trigger word"),
  "Painting with and without the trigger word": T("Painting with and without the trigger word"),
};
const ASKED = {
  stop: T("Stop was asked for: it finishes its step, saves and ends."),
  save: T("Save was asked for."),
  sample: T("Previews were asked for: they are painted after the step."),
  learning_rate: T("The new learning rate was asked for: it holds from the next step."),
};
const UNITS = { train: T("Step"), caption: T("Picture"), grid: T("Picture"), demo: T("Stage"), download: T("Downloaded") };

const text = (node, words) => {
  if (node.textContent !== words) node.textContent = words;
};
const show = (node, visible) => {
  node.hidden = !visible;
};

let value = {};
let pending = {}; // what was pressed a moment ago: heard at once, whatever the next tick says
let confirming = false;

// ---------------------------------------------------------------- elements

const picker = h("select", { class: "nosnja-mon-picker", id: "monitor-picker", "aria-label": T("Run"), onchange: () => trigger("pick", { run: picker.value }) });
const badge = h("span", { class: "nosnja-state", id: "monitor-state" });
const kind = h("span", { class: "nosnja-muted nosnja-mon-kind" });
const parts = h("span", { class: "nosnja-mon-parts" });
const other = h("button", { type: "button", class: "nosnja-button nosnja-mon-other", hidden: true });
const fill = h("i", {});
const bar = h("div", { class: "nosnja-mon-bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
const stage = h("span", { class: "nosnja-mon-stage", id: "monitor-stage" });
const share = h("span", { class: "nosnja-mon-share" });
const fact = (name, label, title) => {
  const shown = h("dd", { id: `monitor-${name}` }, "–");
  const heading = h("dt", {}, label);
  return { shown, heading, box: h("div", { title }, heading, shown) };
};
const facts = {
  step: fact("step", T("Step")),
  epoch: fact("epoch", T("Epoch"), T("One epoch shows every picture of the dataset, with its repeats")),
  speed: fact("speed", T("Speed")),
  loss: fact("loss", T("Loss"), T("How far the model is off; the mean of the last reports")),
  elapsed: fact("elapsed", T("Worked")),
  eta: fact("eta", T("Left")),
};
const button = (action, label, kind, title) =>
  h("button", { type: "button", class: `nosnja-button ${kind}`, id: `monitor-${action.replace(" ", "-")}`, title, onclick: () => press(action) }, label);
const buttons = {
  "go on": button("go on", "", "primary"),
  stop: button("stop", T("Stop"), "", T("Saves first, so that it can go on later")),
  kill: button("kill", T("End at once"), "", T("Without saving: what was done since the last save is lost")),
  save: button("save", T("Save now"), "", T("Writes the LoRA as it is now, and a state to go on from")),
  sample: button("sample", T("Sample now"), "", T("Paints the preview prompts with the LoRA as it is now")),
  remove: button("remove", T("Take out of the queue"), ""),
};
const confirm = h(
  "span", { class: "nosnja-mon-confirm", hidden: true }, h("span", {}, T("End without saving?")),
  h("button", { type: "button", class: "nosnja-button", id: "monitor-kill-yes", onclick: () => press("kill yes") }, T("Yes, end it")),
  h("button", { type: "button", class: "nosnja-button", onclick: () => { confirming = false; draw(); buttons.kill.focus(); } }, T("No")),
);
const rate = h("input", {
  type: "text", id: "monitor-rate", class: "nosnja-mon-rate", inputmode: "decimal", size: 9, "aria-label": T("Learning rate"), autocomplete: "off",
  onkeydown: (event) => { if (event.key === "Enter") press("learning_rate"); if (event.key === "Escape") { rate.value = ""; rate.blur(); } },
});
const apply = h("button", { type: "button", class: "nosnja-button", id: "monitor-rate-apply", onclick: () => press("learning_rate") }, T("Apply"));
const rateBox = h("span", { class: "nosnja-mon-ratebox" }, h("label", { for: "monitor-rate" }, T("Learning rate")), rate, apply);
const controls = h("div", { class: "nosnja-mon-controls" }, buttons["go on"], buttons.stop, buttons.kill, confirm, buttons.save, buttons.sample, buttons.remove, rateBox);
const told = h("div", { class: "nosnja-mon-told", role: "status", id: "monitor-told" });
const trouble = h("div", { class: "nosnja-note error nosnja-mon-trouble", id: "monitor-trouble", hidden: true });
const warned = h("details", { class: "nosnja-note warning nosnja-mon-warned", hidden: true }, h("summary", {}), h("ul", {}));
const result = h("div", { class: "nosnja-note nosnja-mon-result", hidden: true });
const body = h(
  "div", { class: "nosnja-card nosnja-mon" },
  h("div", { class: "nosnja-mon-title" }, picker, badge, kind, parts, h("span", { class: "nosnja-mon-space" }), other),
  h("div", { class: "nosnja-mon-progress" }, bar, h("div", { class: "nosnja-mon-line" }, stage, share)),
  h("dl", { class: "nosnja-mon-facts" }, Object.values(facts).map((one) => one.box)),
  controls, told, trouble, warned, result,
);
const empty = h(
  "div", { class: "nosnja-empty", hidden: true }, h("h2", {}, T("Nothing has run yet")),
  h("p", {}, T("Here you watch a training as it goes: its loss, its samples and what it prints. Start one in the tab Train, or try the demo on the start page.")),
  h("button", { type: "button", class: "nosnja-button primary", onclick: () => trigger("go", { tab: "train" }) }, T("Open Train")),
);
root.replaceChildren(body, empty);

// ---------------------------------------------------------------- pressing

const press = async (action) => {
  if (action === "kill") {
    confirming = true;
    draw();
    confirm.querySelector("button").focus();
    return;
  }
  if (action === "kill yes") {
    confirming = false;
    action = "kill";
  }
  const run = value.run;
  const wished = rate.value.trim();
  if (action === "learning_rate" && !wished) {
    rate.focus();
    return;
  }
  pending = { run, action, at: Date.now() };
  draw();
  const answer = await server.act({ run, action, value: wished }).catch(() => ({ error: T("The window does not answer: is it still open?") }));
  if (run !== value.run) return;
  if (answer.error) pending = { run, error: answer.error, field: action === "learning_rate", at: Date.now() };
  else {
    pending.heard = true;
    if (action === "learning_rate") rate.value = "";
  }
  draw();
};

// ---------------------------------------------------------------- drawing

const stageName = (name) => STAGES[name] || name;

const drawPicker = () => {
  const shape = JSON.stringify(value.choices);
  if (shape !== picker.dataset.shape) {
    picker.dataset.shape = shape;
    const groups = [
      [T("Running"), ["running"]], [T("Waiting"), ["queued"]], [T("Earlier runs"), ["new", "finished", "stopped", "failed", "crashed"]],
    ];
    picker.replaceChildren(
      ...groups
        .map(([label, states]) => [label, value.choices.filter(([, , state]) => states.includes(state))])
        .filter(([, runs]) => runs.length)
        .map(([label, runs]) => h("optgroup", { label }, runs.map(([name, what, state]) => h("option", { value: name, dataset: { state } }, name)))),
    );
  }
  if (picker.value !== value.run) picker.value = value.run;
  // The closed list shows the name alone, the state stands beside it.
  for (const option of picker.options) {
    const words = option.selected || option.dataset.state === "running" ? option.value : `${option.value} · ${STATES[option.dataset.state]}`;
    if (option.textContent !== words) option.textContent = words;
  }
  picker.title = value.run;
};

const drawProgress = () => {
  const running = value.state === "running";
  const inStage = running && value.stage && value.stage !== "Training";
  let done = value.step, total = value.total;
  // While pictures are encoded there are no steps yet: the bar shows the stage.
  if (inStage && value.kind !== "demo" && value.stage_total) [done, total] = [value.stage_done, value.stage_total];
  if (running && value.inner && value.inner[1]) {
    const [step, steps] = value.inner;
    if (value.kind === "demo" && total) done = value.step + Math.min(1, step / steps);
  }
  const percent = value.state === "finished" ? 100 : total ? Math.min(100, (100 * done) / total) : 0;
  fill.style.width = `${percent}%`;
  bar.className = `nosnja-mon-bar ${value.state} ${running && !total ? "unknown" : ""} ${inStage ? "stage" : ""}`;
  bar.setAttribute("aria-valuenow", Math.round(percent));
  text(share, total ? `${percent < 99.95 && percent > 0 ? percent.toFixed(percent < 10 ? 1 : 0) : Math.round(percent)} %` : "");
  let line = "";
  if (running && value.stage) line = stageName(value.stage);
  else if (running) line = value.total ? KINDS[value.kind] || "" : T("Starting …");
  else if (value.state === "finished") line = T("Done");
  else if (value.state === "queued") line = T("Waits for its turn");
  else if (value.state === "new") line = T("Was never started");
  else if (value.state === "stopped") line = T("Stopped and saved; it can go on from here");
  if (inStage && value.stage_total && value.kind !== "demo") line += ` ${value.stage_done}/${value.stage_total}`;
  if (running && value.inner_stage && value.inner_stage !== value.stage) line += ` – ${stageName(value.inner_stage)}`;
  text(stage, line);
};

const drawFacts = () => {
  const speed = value.seconds_per_step;
  const [step, total] = value.inner && value.inner[1] ? value.inner : [value.step, value.total];
  text(facts.step.heading, UNITS[value.inner && value.inner[1] ? "train" : value.kind] || T("Step"));
  text(facts.step.shown, total || step ? nosnja.amount(value.kind, step, total) : "–");
  show(facts.epoch.box, value.epochs || value.epoch || value.kind === "train");
  text(facts.epoch.shown, value.epoch ? (value.epochs ? `${Math.min(value.epoch, value.epochs)} / ${value.epochs}` : String(value.epoch)) : "–");
  text(facts.speed.shown, !speed ? "–" : value.kind === "download" ? T("{size} / s", { size: nosnja.bytes(1 / speed) }) : speed < 1 ? T("{count} / s", { count: number(1 / speed) }) : T("{count} s each", { count: number(speed) }));
  show(facts.loss.box, value.loss !== null && value.loss !== undefined ? true : value.kind === "train");
  text(facts.loss.shown, number(value.loss, 4));
  text(facts.elapsed.shown, duration(value.elapsed));
  text(facts.eta.shown, value.state === "running" ? duration(value.eta) : "–");
};

const drawControls = () => {
  const can = value.can || [], asked = new Set(value.asked || []);
  show(controls, can.length);
  const fresh = pending.run === value.run && pending.action && Date.now() - pending.at < 4500;
  if (fresh && pending.action in ASKED) asked.add(pending.action);
  const starting = pending.run === value.run && ["go on", "kill", "remove"].includes(pending.action) && Date.now() - pending.at < 15000 && pending.state === undefined;
  for (const [action, node] of Object.entries(buttons)) {
    show(node, can.includes(action) && !(action === "kill" && confirming));
    node.disabled = asked.has(action) || (starting && pending.action === action) || (action !== "kill" && asked.has("stop"));
    node.classList.toggle("asked", asked.has(action));
  }
  show(confirm, confirming && can.includes("kill"));
  const label = value.state === "new" ? T("Start") : value.state === "failed" ? T("Try again") : value.kind === "train" ? T("Go on from the last save") : T("Go on");
  text(buttons["go on"], label);
  show(rateBox, can.includes("learning_rate"));
  rate.placeholder = value.rate ? number(value.rate) : "1e-4";
  apply.disabled = rate.disabled = asked.has("stop");
  rate.classList.toggle("nosnja-invalid", Boolean(pending.run === value.run && pending.error && pending.field));

  let words = "", wrong = false;
  if (pending.run === value.run && pending.error && Date.now() - pending.at < 12000) [words, wrong] = [pending.error, true];
  else if (starting && pending.action === "go on") words = T("Starting …");
  else if (starting && pending.action === "kill") words = T("Ending …");
  else if (["stop", "learning_rate", "save", "sample"].some((what) => asked.has(what))) words = ASKED[["stop", "learning_rate", "save", "sample"].find((what) => asked.has(what))];
  else if (value.state === "running" && (value.rate_changes?.length || value.saved)) {
    // What was done last of what one can ask for.
    const [from, now] = value.rate_changes?.[0] || [-1, 0], [step, file] = value.saved || [-2, ""];
    words = step > from ? T("Saved {file} at step {step}", { file, step }) : T("Learning rate {rate} from step {step} on", { rate: number(now), step: from });
  } else if (value.state === "running" && can.includes("save") && !can.includes("sample")) words = T("Without preview prompts there are no samples to paint.");
  text(told, words);
  told.classList.toggle("error", wrong);
  told.classList.toggle("kept", value.state === "running"); // there, words come and go
};

const drawTrouble = () => {
  const bad = value.state === "failed" || value.state === "crashed";
  show(trouble, bad);
  const shape = JSON.stringify([value.run, value.state, value.message, value.detail]);
  if (bad && shape !== trouble.dataset.shape) {
    trouble.dataset.shape = shape;
    // The last words of a process that died follow its sentence: they are for who wants to know more.
    const [first, ...rest] = (value.message || T("It gave no reason.")).split("\n");
    const more = [rest.join("\n"), value.detail].filter(Boolean).join("\n\n");
    const next = value.state === "crashed" ? T("What was saved is not lost.") : T("What was saved is not lost. Once the cause is gone, Try again goes on from there; other settings need a new training.");
    trouble.replaceChildren(
      h("b", {}, first.replace(/ Its last words:$/, "")), h("div", { class: "nosnja-muted" }, next),
      ...(more ? [h("details", {}, h("summary", {}, T("Details, for a bug report")), h("pre", {}, more))] : []),
    );
  }
  const warnings = value.warnings || [];
  show(warned, warnings.length);
  const said = JSON.stringify(warnings);
  if (warnings.length && said !== warned.dataset.shape) {
    warned.dataset.shape = said;
    text(warned.firstChild, warnings.length === 1 ? warnings[0] : `${T("Warnings")}: ${warnings.length}`);
    warned.lastChild.replaceChildren(...(warnings.length === 1 ? [] : warnings.map((one) => h("li", {}, one))));
    warned.classList.toggle("single", warnings.length === 1);
  }
  const files = value.files || [];
  show(result, value.state === "finished" && files.length);
  const made = JSON.stringify([value.run, value.kind, files]);
  if (made !== result.dataset.shape) {
    result.dataset.shape = made;
    const open = (label, wish) => h("button", { type: "button", class: "nosnja-button", onclick: () => trigger("go", wish) }, label);
    result.replaceChildren(
      h("span", { class: "nosnja-mon-file", title: files.join("\n") }, files.length ? `${T("Result")}: ${files.slice(0, 3).join(", ")}` : T("Done")),
      ...(value.kind === "train" ? [open(T("Compare its epochs in an XYZ plot"), { tab: "xyz", compare: value.run }), open(T("Runs & models"), { tab: "library" })] : []),
      ...(value.kind === "download" ? [open(T("Open Train"), { tab: "train" })] : []),
      ...(value.kind === "caption" ? [open(T("See the captions"), { tab: "dataset" })] : []),
    );
  }
};

const drawTitle = () => {
  badge.className = `nosnja-state ${value.state}`;
  text(badge, STATES[value.state] || value.state);
  text(kind, [KINDS[value.kind] || value.kind, value.kind === "download" ? "" : value.device].filter(Boolean).join(" · "));
  const shape = JSON.stringify([value.run, value.parts]);
  if (shape !== parts.dataset.shape) {
    parts.dataset.shape = shape;
    parts.replaceChildren(...(value.parts || []).map((name) => h("button", { type: "button", class: "nosnja-mon-part", title: name, onclick: () => trigger("pick", { run: name }) }, name.includes("/") ? name.split("/").pop() : name)));
  }
  const running = (value.running || [])[0];
  show(other, running);
  if (running && other.dataset.run !== running) {
    other.dataset.run = running;
    other.title = running;
    text(other, T("{run} is running: watch it", { run: running }));
  }
};
other.addEventListener("click", () => trigger("pick", { run: other.dataset.run }));

const draw = () => {
  show(body, value.run);
  show(empty, !value.run);
  if (!value.run) return;
  drawPicker();
  drawTitle();
  drawProgress();
  drawFacts();
  drawControls();
  drawTrouble();
};

const take = () => {
  const next = props.value;
  if (!next) {
    show(body, false);
    return;
  }
  if (next.run !== value.run) confirming = false;
  // A pressed button has been answered when the state is another one, or when its wish waits no more.
  if (pending.run === next.run && pending.action in ASKED) {
    // The first value after the answer may be an older one that was under way.
    if (pending.heard) pending.values = (pending.values || 0) + 1;
    if (pending.values > 1 && !(next.asked || []).includes(pending.action)) pending = {};
  }
  if (pending.run === next.run && pending.action && value.state !== next.state) pending = {};
  if (next.state !== "running") confirming = false;
  value = next;
  draw();
  // The list of all runs (monitor_runs.js) shows these in the row of this run, and so need not be sent anew at each step.
  nosnja.watched = { run: value.run, step: value.step, total: value.total, loss: value.loss, seconds: value.elapsed };
  window.dispatchEvent(new Event("nosnja-watched"));
};
watch("value", take);
take();
