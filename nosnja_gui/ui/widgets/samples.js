// What a run painted: samples as a grid of step x prompt, one prompt through all steps, and each of them large with how it was
// made. For a captioner's run its newest captions, for an XYZ plot its newest pictures. props.value: see Monitor.samples.
const { h, T } = nosnja;
const root = element.firstElementChild;
const FETCH_AT_ONCE = 24;

let value = {};
let rows = new Map(); // step -> {row, version}
let known = new Map(); // step -> [[small, large, file], ...]
let asked = new Set();
let chosen = { step: null, prompt: 0, follow: true }; // what the large views show; `follow`: always the newest step
let mode = "grid";

// ---------------------------------------------------------------- elements

const tab = (name, label) => h("button", { type: "button", class: "nosnja-samples-tab", dataset: { mode: name }, onclick: () => { mode = name; draw(); } }, label);
const tabs = h("div", { class: "nosnja-samples-tabs", role: "group", "aria-label": T("How samples are shown") }, tab("grid", T("Grid")), tab("one", T("One prompt")));
const title = h("h3", {}, T("Samples"));
const note = h("span", { class: "nosnja-muted nosnja-samples-count" });
const elsewhere = h("button", { type: "button", class: "nosnja-button nosnja-samples-go", onclick: () => trigger("go", value.kind === "grid" ? { tab: "xyz", grid: value.run } : { tab: "dataset" }) });
const heads = h("div", { class: "nosnja-samples-heads" });
const list = h("div", { class: "nosnja-samples-list" });
const grid = h("div", { class: "nosnja-samples-grid", tabindex: 0, role: "region", "aria-label": T("Samples by step and prompt") }, heads, list);
const empty = h("div", { class: "nosnja-samples-empty nosnja-muted" });
const feed = h("div", { class: "nosnja-samples-feed" });

/** The large picture with its slider; once in the card, once in the dialog. */
const makeViewer = (large) => {
  const made = {};
  made.picture = h("img", { alt: "", draggable: "false", onclick: () => (large ? null : openDialog()) });
  made.slider = h("input", { type: "range", min: 0, max: 0, step: 1, "aria-label": T("Step"), oninput: () => choose(Number(made.slider.value), chosen.prompt) });
  made.step = h("output", {});
  made.prompts = h("div", { class: "nosnja-samples-prompts" });
  made.root = h(
    "div", { class: "nosnja-samples-viewer", tabindex: 0, onkeydown: keys },
    made.prompts, h("div", { class: "stage" }, made.picture), h("div", { class: "scrub" }, made.slider, made.step),
  );
  return made;
};
const keys = (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], Home: [-1e9, 0], End: [1e9, 0] }[event.key];
  if (!move) return;
  event.preventDefault();
  choose(index() + move[0], chosen.prompt + move[1]);
};
const viewer = makeViewer(false);
const shown = makeViewer(true);
const settings = h("pre", { class: "nosnja-samples-text", id: "monitor-infotext" });
const copy = h("button", { type: "button", class: "nosnja-button", onclick: () => copyText() }, T("Copy"));
const whole = h("a", { class: "nosnja-button", target: "_blank", rel: "noopener" }, T("Open the file"));
const dialog = h(
  "dialog", { class: "nosnja-samples-dialog", "aria-label": T("Sample"), onclick: (event) => event.target === dialog && dialog.close() },
  h("div", { class: "inner" }, shown.root, h("div", { class: "about" }, h("h4", {}, T("How it was painted")), settings, h("div", { class: "buttons" }, copy, whole, h("button", { type: "button", class: "nosnja-button", onclick: () => dialog.close() }, T("Close"))))),
);
const card = h("div", { class: "nosnja-card nosnja-samples-card" }, h("div", { class: "nosnja-samples-head" }, title, note, tabs, elsewhere), grid, viewer.root, feed, empty);
root.replaceChildren(card, dialog);

// ---------------------------------------------------------------- pictures on demand

const fetchSoon = (() => {
  let wanted = new Set(), waiting = false;
  return (steps) => {
    steps.filter((step) => !known.has(step) && !asked.has(step)).forEach((step) => wanted.add(step));
    if (waiting || !wanted.size) return;
    waiting = true;
    setTimeout(async () => {
      waiting = false;
      const run = value.run, now = [...wanted].slice(0, FETCH_AT_ONCE);
      wanted = new Set([...wanted].slice(FETCH_AT_ONCE));
      now.forEach((step) => asked.add(step));
      const found = await server.sample_pictures({ run, steps: now }).catch(() => ({}));
      if (run !== value.run) return;
      now.forEach((step) => asked.delete(step));
      for (const [step, pictures] of Object.entries(found)) {
        known.set(Number(step), pictures);
        fillRow(Number(step));
      }
      drawViewers();
      if (wanted.size) fetchSoon([]);
    }, 30);
  };
})();

const sight = new IntersectionObserver((entries) => fetchSoon(entries.filter((entry) => entry.isIntersecting).map((entry) => Number(entry.target.dataset.step))), { root: grid, rootMargin: "300px" });

const steps = () => (value.steps || []).map(([step]) => step);
const index = () => Math.max(0, steps().indexOf(chosen.step));

// ---------------------------------------------------------------- the grid

const fillRow = (step) => {
  const row = rows.get(step)?.row;
  const pictures = known.get(step);
  if (!row || !pictures) return;
  pictures.forEach(([small], column) => {
    const cell = row.children[column + 1];
    if (!cell) return;
    const image = cell.firstChild || cell.appendChild(h("img", { alt: "", loading: "lazy", decoding: "async" }));
    if (small && image.getAttribute("src") !== small) image.src = small;
    cell.classList.toggle("lost", !small);
  });
};

const drawGrid = () => {
  const columns = Math.max(1, value.prompts?.length || 0, ...(value.steps || []).map(([, count]) => count));
  grid.style.setProperty("--columns", columns);
  const shape = JSON.stringify([value.run, value.prompts, columns]);
  if (shape !== grid.dataset.shape) {
    grid.dataset.shape = shape;
    heads.replaceChildren(
      h("div", { class: "corner" }, T("Step")),
      ...Array.from({ length: columns }, (_, column) => h("div", { class: "prompt", title: value.prompts?.[column] || "" }, value.prompts?.[column] || `${T("Prompt")} ${column + 1}`)),
    );
  }
  const there = new Set();
  // The newest first: what one waits for appears where one looks.
  let before = null;
  for (const [step, count, version] of [...(value.steps || [])].reverse()) {
    there.add(step);
    let entry = rows.get(step);
    if (!entry || entry.version !== version || entry.count !== count) {
      known.delete(step);
      const row = h(
        "div", { class: "nosnja-samples-row", dataset: { step } }, h("div", { class: "step" }, String(step)),
        Array.from({ length: count }, (_, column) => h("button", { type: "button", class: "cell", "aria-label": `${T("Step")} ${step}, ${value.prompts?.[column] || column + 1}`, onclick: () => { choose(steps().indexOf(step), column); openDialog(); } })),
      );
      if (entry) {
        sight.unobserve(entry.row);
        entry.row.replaceWith(row);
      }
      entry = { row, version, count };
      rows.set(step, entry);
      sight.observe(row);
    }
    const follower = before ? before.nextSibling : list.firstChild;
    if (follower !== entry.row) list.insertBefore(entry.row, follower);
    before = entry.row;
  }
  for (const [step, entry] of rows) {
    if (there.has(step)) continue;
    sight.unobserve(entry.row);
    entry.row.remove();
    rows.delete(step);
  }
};

// ---------------------------------------------------------------- one prompt, large

const choose = (place, prompt) => {
  const all = steps();
  if (!all.length) return;
  const at = Math.min(all.length - 1, Math.max(0, place));
  const count = value.steps[at][1];
  chosen = { step: all[at], prompt: Math.min(Math.max(0, count - 1), Math.max(0, prompt)), follow: at === all.length - 1 };
  drawViewers();
};

const drawViewers = () => {
  const all = steps();
  if (!all.length) return;
  if (chosen.follow || !all.includes(chosen.step)) chosen.step = all[all.length - 1];
  const at = all.indexOf(chosen.step);
  // Its neighbours, too, so that scrubbing does not wait.
  if (mode === "one" || dialog.open) fetchSoon(all.slice(Math.max(0, at - 6), at + 7));
  for (const made of [viewer, shown]) {
    made.slider.max = Math.max(0, all.length - 1);
    made.slider.value = at;
    made.slider.disabled = all.length < 2;
    made.step.textContent = `${T("Step")} ${chosen.step}`;
    const names = value.prompts?.length ? value.prompts : Array.from({ length: value.steps[at][1] }, (_, column) => `${T("Prompt")} ${column + 1}`);
    const shape = JSON.stringify(names);
    if (shape !== made.prompts.dataset.shape) {
      made.prompts.dataset.shape = shape;
      made.prompts.replaceChildren(...names.map((name, column) => h("button", { type: "button", title: name, onclick: () => choose(index(), column) }, name)));
    }
    [...made.prompts.children].forEach((node, column) => node.setAttribute("aria-pressed", String(column === chosen.prompt)));
    const [small, large] = known.get(chosen.step)?.[chosen.prompt] || [];
    if (large && made.picture.dataset.wanted !== large) {
      // The old picture stays until the new one is there: no white flash between two steps.
      made.picture.dataset.wanted = large;
      const next = new Image();
      next.onload = next.onerror = () => { if (made.picture.dataset.wanted === large) made.picture.src = large; };
      if (!made.picture.getAttribute("src")) made.picture.src = small;
      next.src = large;
    }
    made.picture.alt = `${T("Step")} ${chosen.step}: ${names[chosen.prompt] || ""}`;
  }
  if (mode === "one" || dialog.open) for (const place of [at - 1, at + 1]) {
    const url = known.get(all[place])?.[chosen.prompt]?.[1];
    if (url) new Image().src = url;
  }
  if (dialog.open) drawText();
};

let textOf = "";
const drawText = async () => {
  const [, large, file] = known.get(chosen.step)?.[chosen.prompt] || [];
  if (!file || textOf === `${value.run} ${file}`) return;
  textOf = `${value.run} ${file}`;
  const mine = textOf;
  whole.href = large;
  settings.textContent = "…";
  const text = await server.infotext({ run: value.run, file }).catch(() => "");
  if (mine !== textOf) return;
  settings.textContent = text || T("The file does not say.");
  copy.disabled = !text;
};
const copyText = async () => {
  try {
    await navigator.clipboard.writeText(settings.textContent);
    copy.textContent = T("Copied");
  } catch {
    getSelection().selectAllChildren(settings);
    copy.textContent = T("Selected: press Ctrl+C");
  }
  setTimeout(() => (copy.textContent = T("Copy")), 2000);
};
const openDialog = () => {
  if (!dialog.open) dialog.showModal();
  textOf = "";
  drawViewers();
  shown.root.focus();
};

// ---------------------------------------------------------------- captions and cells

const feedRows = new Map();
const drawFeed = () => {
  const items = value.kind === "caption" ? value.captions || [] : value.cells || [];
  const there = new Set();
  let before = null;
  for (const item of items) {
    const key = JSON.stringify(value.kind === "caption" ? [item.picture, item.caption] : [item.file, item.error, item.large]);
    if (there.has(key)) continue;
    there.add(key);
    let row = feedRows.get(key);
    if (!row) {
      row =
        value.kind === "caption"
          ? h("div", { class: "caption" }, item.small ? h("img", { src: item.small, alt: "", loading: "lazy" }) : h("i", {}), h("div", {}, h("div", { class: "nosnja-muted name", title: item.picture }, item.picture), h("div", {}, item.caption)))
          : item.small
            ? h("a", { class: "painted", href: item.large, target: "_blank", rel: "noopener", title: item.file }, h("img", { src: item.small, alt: item.file, loading: "lazy" }))
            : h("div", { class: "painted lost", title: item.error }, item.error);
      feedRows.set(key, row);
    }
    const follower = before ? before.nextSibling : feed.firstChild;
    if (follower !== row) feed.insertBefore(row, follower);
    before = row;
  }
  for (const [key, row] of feedRows) if (!there.has(key)) { row.remove(); feedRows.delete(key); }
  feed.classList.toggle("cells", value.kind === "grid");
};

// ---------------------------------------------------------------- drawing

const draw = () => {
  card.hidden = !value.run || value.kind === "download";
  card.closest(".column")?.classList.toggle("nosnja-away", value.kind === "download");
  if (card.hidden) return;
  const feeds = value.kind === "caption" || value.kind === "grid";
  const count = feeds ? (value.captions || value.cells || []).length : (value.steps || []).length;
  title.textContent = value.kind === "caption" ? T("Newest captions") : value.kind === "grid" ? T("Newest pictures") : T("Samples");
  tabs.hidden = feeds || !count;
  elsewhere.hidden = !feeds;
  elsewhere.textContent = value.kind === "grid" ? T("Open in the tab XYZ plot") : T("See the captions");
  note.textContent = !feeds && count ? T("Steps painted: {count}", { count }) : "";
  for (const node of tabs.children) node.setAttribute("aria-pressed", String(node.dataset.mode === mode));
  grid.hidden = feeds || !count || mode !== "grid";
  viewer.root.hidden = feeds || !count || mode !== "one";
  feed.hidden = !feeds || !count;
  empty.hidden = Boolean(count);
  const live = value.state === "running";
  empty.textContent =
    value.kind === "caption" ? T("Captions appear here as they are written.")
    : value.kind === "grid" ? T("Pictures appear here as they are painted.")
    : !(value.prompts || []).length ? T("This training paints no samples: it has no preview prompts. Give some in the tab Train, under previews, before the next one.")
    : live ? T("Samples appear here as they are painted.")
    : T("No samples were painted.");
  if (feeds) return drawFeed();
  drawGrid();
  drawViewers();
};

const take = () => {
  const next = props.value || {};
  if (next.run !== value.run) {
    for (const entry of rows.values()) { sight.unobserve(entry.row); entry.row.remove(); }
    for (const row of feedRows.values()) row.remove();
    rows = new Map();
    known = new Map();
    asked = new Set();
    feedRows.clear();
    chosen = { step: null, prompt: 0, follow: true };
    for (const made of [viewer, shown]) { made.picture.removeAttribute("src"); delete made.picture.dataset.wanted; }
    if (dialog.open) dialog.close();
  }
  value = next;
  draw();
};
watch("value", take);
take();
