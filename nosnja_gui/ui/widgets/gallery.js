// The tab "Dataset & captions": a paged gallery at the left, the editor of one caption at the right, drawers for all else above.
// What is shown comes from the server functions of ui/dataset.py; `props.value` says which dataset is open and when to ask again.
const T = nosnja.T;
const h = nosnja.h;
const root = element.querySelector(".nosnja-gallery");

const SAVE_AFTER = 700; // ms without a key
const COUNT_AFTER = 250;
const ASK_AGAIN_AFTER = 3000; // while pictures are still looked into

/** Kind of problem -> its name, what it means, how it can be mended. */
const KINDS = {
  damaged: {name: T("Damaged"), means: T("This file cannot be read as a picture, so training leaves it out."), error: true},
  duplicate: {name: T("Duplicate"), means: T("The very same file is here more than once: it would count double."), error: true},
  similar: {name: T("Nearly the same"), means: T("Looks almost like another picture: too many alike teach nothing new.")},
  small: {name: T("Too small"), means: T("Training must enlarge it, so it will look soft.")},
  long: {name: T("Too long"), means: T("Far from a square, so much of it is cut off in training.")},
  colours: {name: T("Odd colours"), means: T("Print colours, transparency or 16 bits: training converts it; convert it here to see what it gets."), convert: true},
  grey: {name: T("Black and white"), means: T("Fine if you want that; otherwise it teaches greyness.")},
  no_caption: {name: T("No caption"), means: T("Write one, or let a captioner do it.")},
  same_caption: {name: T("Same caption"), means: T("Another picture has the same words, so they cannot be told apart by them.")},
  long_caption: {name: T("Caption too long"), means: T("The model sees the first 75 tokens only.")},
};
const SHOWS = {all: T("All pictures"), problems: T("With problems"), captioned: T("With a caption"), left_out: T("Left out")};
const COLOURS = {cmyk: T("print colours (CMYK)"), transparent: T("transparent"), deep: T("more than 8 bits")};

let view = props.value || {};
let page = null; // the last answer of server.page
let filter = {show: "all", search: "", tag: "", word: ""};
let number = 0;
let current = ""; // name of the picture in the editor
let chosen = new Set();
let anchor = "";
let drawer = "";
let shownIssues = "";
let asked = 0; // serial number of the last question for a page: later answers to earlier questions are dropped
let askedAt = 0;
let askTimer = 0;
const drafts = new Map(); // name -> {text, before, version, timer, saving, conflict}
const tiles = new Map();

/** Asks the server; what went wrong is shown and comes back as null, unless the caller wants to see it. */
async function ask(name, values = {}, quiet = false) {
  let answer;
  try {
    answer = await server[`gallery_${name}`]({key: view.key, ...values});
  } catch (error) {
    answer = {error: T("The window does not answer: is it still running?")};
  }
  if (answer && answer.error && !quiet) {
    say(answer.error, {error: true});
    return null;
  }
  return answer;
}

// Toast: one line at the bottom, with what can be done about it.

const toast = h("div", {class: "toast", role: "status", "aria-live": "polite"});
let toastTimer = 0;
function say(text, {error = false, action = "", act = null} = {}) {
  clearTimeout(toastTimer);
  toast.className = `toast shown${error ? " error" : ""}`;
  const close = h("button", {class: "plain", "aria-label": T("Close"), onclick: hush}, "×");
  toast.replaceChildren(h("span", {}, text), ...(act ? [h("button", {class: "nosnja-button", onclick: () => (hush(), act())}, action)] : []), close);
  toastTimer = setTimeout(hush, error ? 12000 : act ? 9000 : Math.max(4000, 70 * text.length));
}
function hush() {
  toast.className = "toast";
}

// The bar: which dataset, and the drawers.

const choose = h("select", {id: "gallery-dataset", "aria-label": T("Dataset"), onchange: () => open(choose.value)});
const undoButton = h("button", {class: "nosnja-button", id: "gallery-undo", onclick: () => undo()}, T("Undo"));
const drawerButtons = {};
function drawerButton(name, text, attributes = {}) {
  drawerButtons[name] = h("button", {class: "nosnja-button", id: `gallery-${name}`, "aria-expanded": "false", onclick: () => toggle(name), ...attributes}, text);
  return drawerButtons[name];
}
const folderLine = h("span", {class: "folder nosnja-muted"});
const bar = h(
  "div",
  {class: "bar"},
  choose,
  drawerButton("bring", T("Add pictures…")),
  drawerButton("path", T("Open a folder…")),
  folderLine,
  h("span", {class: "gap"}),
  drawerButton("caption", T("Captioner…")),
  drawerButton("edit", T("Find & replace…")),
  drawerButton("tags", T("Tags…")),
  drawerButton("history", T("History…")),
  undoButton,
);
const drawerBox = h("div", {class: "drawer nosnja-card", hidden: true});
const jobBox = h("div", {class: "job nosnja-card", hidden: true});

// Tools of the gallery.

const searchBox = h("input", {type: "search", id: "gallery-search", placeholder: T("Search captions and names"), "aria-label": T("Search captions and names")});
let searchTimer = 0;
searchBox.addEventListener("input", () => {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(() => filterBy({search: searchBox.value}), 250);
});
const showBox = h("select", {id: "gallery-show", "aria-label": T("Show"), onchange: () => filterBy({show: showBox.value})});
const sideBox = h("select", {
  id: "gallery-side",
  "aria-label": T("Resolution of the training"),
  title: T("Side in pixels that training will use: smaller pictures count as too small."),
  onchange: async () => (await ask("judge_by", {side: Number(sideBox.value)})) && fetchPage(),
});
const tagChip = h("button", {class: "chip", hidden: true, title: T("Show all again"), onclick: () => filterBy({tag: "", word: ""})});
const tools = h("div", {class: "tools"}, searchBox, showBox, h("label", {class: "nosnja-muted side"}, T("trained at"), sideBox, "px"), tagChip);
const grid = h("div", {class: "grid", id: "gallery-grid", role: "listbox", "aria-multiselectable": "true", "aria-label": T("Pictures"), tabindex: "0"});
const pagerLine = h("span", {class: "nosnja-muted"});
const previousPage = h("button", {class: "nosnja-button", onclick: () => turn(-1), "aria-label": T("Previous page")}, "‹");
const nextPage = h("button", {class: "nosnja-button", onclick: () => turn(1), "aria-label": T("Next page")}, "›");
const actions = h("div", {class: "actions"});
const foot = h("div", {class: "foot"}, actions, h("span", {class: "gap"}), previousPage, pagerLine, nextPage);
const left = h("section", {class: "left"}, tools, grid, foot);

// The editor.

const nameLine = h("b", {class: "name"});
const placeLine = h("span", {class: "nosnja-muted place"});
const previousButton = h("button", {class: "nosnja-button", id: "gallery-previous", title: T("Previous picture (Alt+← or PageUp while typing)"), onclick: () => step(-1)}, "‹");
const nextButton = h("button", {class: "nosnja-button", id: "gallery-next", title: T("Next picture (Alt+→ or PageDown while typing)"), onclick: () => step(1)}, "›");
const large = h("img", {class: "large", alt: "", onclick: () => large.src && window.open(large.src, "_blank", "noopener")});
const box = h("textarea", {id: "gallery-text", rows: "4", spellcheck: "true", "aria-label": T("Caption"), placeholder: T("What is in this picture?")});
const savedLine = h("span", {class: "saved", id: "gallery-saved", role: "status"});
const tokenLine = h("span", {class: "tokens", id: "gallery-tokens"});
const cutLine = h("div", {class: "cut"});
const conflictBox = h("div", {class: "nosnja-note warning conflict", hidden: true});
const issueBox = h("ul", {class: "issues"});
const sizeLine = h("span", {class: "nosnja-muted"});
const captionOne = h("button", {class: "nosnja-button", id: "gallery-caption-one", onclick: () => captionThis()}, T("Caption this picture"));
const leaveOne = h("button", {class: "nosnja-button", id: "gallery-leave-out", onclick: () => leaveOut([current])}, T("Leave out"));
const editor = h(
  "section",
  {class: "editor"},
  h("div", {class: "head"}, nameLine, placeLine, h("span", {class: "gap"}), previousButton, nextButton),
  h("div", {class: "frame"}, large),
  box,
  h("div", {class: "status"}, tokenLine, h("span", {class: "gap"}), savedLine),
  cutLine,
  conflictBox,
  issueBox,
  h("div", {class: "status"}, sizeLine, h("span", {class: "gap"}), captionOne, leaveOne),
);

const main = h("div", {class: "main", hidden: true}, left, editor);
const empty = h("div", {class: "empty", hidden: true});
const dropping = h("div", {class: "dropping"}, h("b", {}, T("Drop pictures, captions, a folder or a zip")));
root.append(bar, drawerBox, jobBox, main, empty, toast, dropping);

// Opening

let news = ""; // to be said when the dataset that was asked for is open
function open(id, said = "") {
  flushAll();
  news = said;
  trigger("open", {id});
}

function drawBar() {
  const groups = [
    [T("Your datasets"), (view.datasets || []).filter((entry) => entry.group === "own")],
    [T("Drawn by the demo"), (view.datasets || []).filter((entry) => entry.group === "demo")],
  ];
  const known = (view.datasets || []).some((entry) => entry.id === view.id);
  if (view.id && !known) groups.push([T("Elsewhere"), [{id: view.id, title: view.title}]]);
  const options = [h("option", {value: ""}, (view.datasets || []).length ? T("Choose a dataset…") : T("No dataset yet"))];
  for (const [title, entries] of groups) {
    if (entries.length) options.push(h("optgroup", {label: title}, entries.map((entry) => h("option", {value: entry.id}, entry.title))));
  }
  if (document.activeElement !== choose || choose.dataset.id !== view.id) choose.replaceChildren(...options);
  choose.value = view.id || "";
  choose.dataset.id = view.id || "";
  folderLine.textContent = view.folder || "";
  folderLine.title = view.folder || "";
  drawerButtons.path.hidden = Boolean(view.listens);
  for (const name of ["caption", "edit", "tags", "history"]) drawerButtons[name].hidden = !view.key;
  undoButton.hidden = !view.key;
  undoButton.disabled = !view.undo;
  undoButton.title = view.undo ? T("Takes back: {what}", {what: view.undo}) : T("There is nothing to undo.");
}

function drawEmpty() {
  main.hidden = !view.key;
  empty.hidden = Boolean(view.key);
  if (view.key) return;
  const entries = view.datasets || [];
  const picker = h("input", {type: "file", multiple: true, hidden: true, accept: "image/*,.txt,.csv,.json,.jsonl,.zip", onchange: () => bringFiles(picked(picker))});
  empty.replaceChildren(
    h(
      "div",
      {class: "nosnja-empty"},
      h("h2", {}, T("Start with your pictures")),
      h("p", {class: "nosnja-muted"}, T("A dataset is a folder of 10 to 100 pictures of what you want to teach, each with a caption that says what is in it.")),
      h("button", {class: "well", id: "gallery-well", onclick: () => picker.click()}, h("b", {}, T("Drop pictures, a folder or a zip here")), h("span", {class: "nosnja-muted"}, T("or click to choose files; captions as .txt files may come along"))),
      picker,
      entries.length ? h("p", {class: "nosnja-muted"}, T("Or open one of these:")) : null,
      h("div", {class: "choices"}, entries.slice(0, 12).map((entry) => h("button", {class: "nosnja-button", title: entry.title, onclick: () => open(entry.id)}, entry.title, entry.group === "demo" ? h("span", {class: "nosnja-badge"}, T("demo")) : null))),
    ),
  );
}

// Pages

function filterBy(change) {
  filter = {...filter, ...change};
  number = 0;
  chosen.clear();
  drawChip();
  fetchPage();
}

function drawChip() {
  const what = filter.tag || filter.word;
  tagChip.hidden = !what;
  tagChip.textContent = what ? `${what} ×` : "";
}

function turn(by) {
  if (!page || number + by < 0 || number + by >= page.pages) return;
  number += by;
  fetchPage().then(() => (grid.scrollTop = 0));
}

async function fetchPage(values = {}) {
  if (!view.key) return;
  const mine = ++asked;
  const key = view.key;
  askedAt = Date.now();
  const answer = await ask("page", {...filter, page: number, ...values}, true);
  if (mine !== asked || key !== view.key || !answer) return;
  if (answer.error) {
    page = null;
    grid.replaceChildren(h("p", {class: "nosnja-muted none"}, answer.error));
    tiles.clear();
    return;
  }
  page = answer;
  number = page.page;
  drawPage();
  if (page.unseen) askSoon(400);
  if (!current || !drafts.get(current)?.timer) {
    const still = page.items.find((item) => item.name === current);
    if (!still && page.items.length && !(await keepsCurrent())) edit(page.items[0].name);
    else if (still) refreshEditor(still);
    else if (!page.items.length) edit("");
  }
}

/** Whether the picture in the editor is to stay there though this page does not have it: while somebody types. */
async function keepsCurrent() {
  return current && editor.contains(document.activeElement) && filter.show !== "left_out";
}

function drawPage() {
  const names = new Set(page.items.map((item) => item.name));
  for (const [name, tile] of tiles) {
    if (!names.has(name)) {
      tile.remove();
      tiles.delete(name);
    }
  }
  grid.querySelector(".none")?.remove();
  page.items.forEach((item, at) => {
    let tile = tiles.get(item.name);
    if (!tile) {
      tile = makeTile(item.name);
      tiles.set(item.name, tile);
    }
    fillTile(tile, item);
    // Only what stands elsewhere is moved, so that nothing flickers and the scroll stays.
    if (grid.children[at] !== tile) grid.insertBefore(tile, grid.children[at] || null);
  });
  if (!page.items.length) grid.append(h("p", {class: "nosnja-muted none"}, filter.show === "left_out" ? T("Nothing was left out.") : T("No picture fits. Change the search or the filter above.")));
  for (const name of [...chosen]) if (!names.has(name)) chosen.delete(name);
  drawCounts();
  drawMarks();
  pagerLine.textContent = page.total ? T("{first}–{last} of {total}", {first: page.first + 1, last: page.first + page.items.length, total: page.total}) : "";
  previousPage.disabled = number === 0;
  nextPage.disabled = number >= page.pages - 1;
  previousPage.hidden = nextPage.hidden = page.pages < 2;
}

function makeTile(name) {
  const picture = h("img", {loading: "lazy", decoding: "async", alt: "", draggable: "false"});
  picture.addEventListener("error", () => picture.classList.add("broken"));
  const tile = h("div", {class: "tile", role: "option", tabindex: "-1", title: name, dataset: {name}}, h("div", {class: "thumb"}, picture, h("div", {class: "badges"})), h("div", {class: "text"}));
  tile.addEventListener("click", (event) => pick(name, event));
  return tile;
}

function fillTile(tile, item) {
  const picture = tile.querySelector("img");
  if (item.url && picture.getAttribute("src") !== item.url) {
    picture.classList.remove("broken");
    picture.src = item.url;
  }
  picture.hidden = !item.url;
  const text = tile.querySelector(".text");
  const draft = drafts.get(item.name);
  const caption = draft ? draft.text : item.caption || "";
  drawText(text, caption, Boolean(item.left_out));
  const badges = tile.querySelector(".badges");
  const mark = item.issues.join(",");
  if (badges.dataset.mark !== mark) {
    badges.dataset.mark = mark;
    badges.replaceChildren(...item.issues.filter((kind) => kind !== "no_caption").map((kind) => h("span", {class: `mark ${KINDS[kind].error ? "error" : kind === "grey" ? "" : "warning"}`, title: KINDS[kind].means}, KINDS[kind].name)));
  }
}

function drawText(text, caption, silent) {
  const shown = caption || (silent ? "" : T("No caption"));
  if (text.textContent !== shown) text.textContent = shown;
  text.classList.toggle("lacking", !caption);
}

function drawCounts() {
  const counts = page.counts;
  const kinds = [...Object.keys(SHOWS), ...Object.keys(KINDS)];
  const text = (name) => `${SHOWS[name] || KINDS[name].name} (${counts[name]})`;
  const wanted = kinds.filter((name) => name === "all" || counts[name] || name === filter.show);
  const mark = JSON.stringify([wanted.map(text)]);
  if (showBox.dataset.mark !== mark) {
    showBox.dataset.mark = mark;
    showBox.replaceChildren(...wanted.map((name) => h("option", {value: name}, text(name))));
  }
  showBox.value = filter.show;
  const sides = page.sides.map((side) => h("option", {value: side}, String(side)));
  if (sideBox.dataset.mark !== page.sides.join()) {
    sideBox.dataset.mark = page.sides.join();
    sideBox.replaceChildren(...sides);
  }
  sideBox.value = String(page.side);
}

/** Which tile is in the editor, which ones are chosen, and what can be done with those. */
function drawMarks() {
  for (const [name, tile] of tiles) {
    tile.classList.toggle("current", name === current);
    tile.classList.toggle("chosen", chosen.has(name));
    tile.setAttribute("aria-selected", String(chosen.has(name) || name === current));
  }
  const names = [...chosen];
  if (filter.show === "left_out") {
    const back = names.length ? names : page ? page.items.map((item) => item.name) : [];
    actions.replaceChildren(...(back.length ? [h("button", {class: "nosnja-button primary", id: "gallery-put-back", onclick: () => putBack(back)}, T("Put back ({count})", {count: back.length}))] : []));
  } else if (names.length > 1) {
    actions.replaceChildren(
      h("span", {}, T("Chosen: {count}", {count: names.length})),
      h("button", {class: "nosnja-button", onclick: () => leaveOut(names)}, T("Leave out")),
      h("button", {class: "nosnja-button", onclick: () => convert(names)}, T("Convert to RGB PNG")),
      h("button", {class: "nosnja-button", onclick: () => (chosen.clear(), drawMarks())}, T("Choose none")),
    );
  } else if (["duplicate", "damaged"].includes(filter.show) && page && page.total) {
    const spare = filter.show === "damaged" ? page.items.map((item) => item.name) : spareDuplicates();
    actions.replaceChildren(...(spare.length ? [h("button", {class: "nosnja-button", onclick: () => leaveOut(spare)}, filter.show === "damaged" ? T("Leave all of them out ({count})", {count: spare.length}) : T("Keep the first of each ({count} left out)", {count: spare.length}))] : []));
  } else if (filter.show === "colours" && page && page.total) {
    const all = page.items.map((item) => item.name);
    actions.replaceChildren(h("button", {class: "nosnja-button", onclick: () => convert(all)}, T("Convert to RGB PNG ({count})", {count: all.length})));
  } else {
    const [done, total] = view.looked || [0, 0];
    const hint = done < total ? T("Looking for problems: {done} of {total}", {done, total}) : T("Ctrl or Shift + click chooses several; arrow keys move.");
    if (actions.textContent !== hint) actions.replaceChildren(h("span", {class: "nosnja-muted hint"}, hint));
  }
}

function spareDuplicates() {
  const seen = new Set();
  return page.items.filter((item) => item.twin && (seen.has(item.twin) || !seen.add(item.twin))).map((item) => item.name);
}

function pick(name, event) {
  const names = page.items.map((item) => item.name);
  if (event.shiftKey && names.includes(anchor)) {
    const [from, to] = [names.indexOf(anchor), names.indexOf(name)].sort((a, b) => a - b);
    chosen = new Set(names.slice(from, to + 1));
  } else if (event.ctrlKey || event.metaKey) {
    if (!chosen.size && current && current !== name) chosen.add(current);
    if (!chosen.delete(name)) chosen.add(name);
    anchor = name;
  } else {
    chosen.clear();
    anchor = name;
  }
  grid.focus({preventScroll: true});
  edit(name);
}

// The picture in the editor

function itemOf(name) {
  return page?.items.find((item) => item.name === name);
}

function edit(name) {
  if (current && current !== name) flush(current);
  current = name;
  drawMarks();
  const item = itemOf(name);
  editor.classList.toggle("nothing", !item);
  if (!item) {
    nameLine.textContent = "";
    placeLine.textContent = "";
    large.removeAttribute("src");
    return;
  }
  const away = filter.show === "left_out";
  box.disabled = away;
  captionOne.hidden = leaveOne.hidden = away;
  nameLine.textContent = name;
  nameLine.title = name;
  placeLine.textContent = T("{number} of {total}", {number: page.first + page.items.indexOf(item) + 1, total: page.total});
  const draft = drafts.get(name);
  box.value = draft ? draft.text : item.caption || "";
  box.scrollTop = 0;
  if (item.url) large.src = item.url;
  else large.removeAttribute("src");
  large.alt = item.caption || name;
  sizeLine.textContent = "";
  drawSaved(name);
  drawTokens({tokens: item.tokens, limit: page.limit});
  drawIssues(issuesOf(item));
  tiles.get(name)?.scrollIntoView({block: "nearest"});
  details(name);
}

async function details(name) {
  const answer = await ask("picture", {name, left_out: filter.show === "left_out"}, true);
  if (name !== current || !answer) return;
  if (answer.error) return;
  const loaded = new Image();
  loaded.onload = () => {
    if (name === current) large.src = answer.url;
  };
  if (answer.url) loaded.src = answer.url;
  if (answer.left_out) return;
  sizeLine.textContent = answer.width ? `${answer.width} × ${answer.height} · ${nosnja.bytes(answer.bytes)}` : nosnja.bytes(answer.bytes);
  // The answer may be about a caption that has changed since; what the page says of the picture is newer then.
  const item = itemOf(name);
  const stale = item && item.issues.join() !== answer.issues.map((issue) => issue.kind).join();
  drawIssues(stale ? issuesOf(item) : answer.issues);
  const draft = drafts.get(name);
  if (!draft) drawTokens(answer);
  else countTokens();
  // The neighbours' pictures are there when they are asked for.
  const at = page ? page.items.findIndex((item) => item.name === name) : -1;
  if (at >= 0 && at + 1 < page.items.length && page.items[at + 1].url) new Image().src = page.items[at + 1].url;
}

/** A page came anew while this picture is in the editor. */
function refreshEditor(item) {
  const draft = drafts.get(item.name);
  if (!draft && box.value !== (item.caption || "")) {
    box.value = item.caption || "";
    drawTokens({tokens: item.tokens, limit: page.limit});
    countTokens();
  }
  if (item.issues.join() !== shownIssues) details(item.name);
  placeLine.textContent = T("{number} of {total}", {number: page.first + page.items.indexOf(item) + 1, total: page.total});
  drawMarks();
}

function step(by) {
  if (!page || !page.items.length) return;
  const at = page.items.findIndex((item) => item.name === current);
  const next = at + by;
  if (next >= 0 && next < page.items.length) {
    chosen.clear();
    anchor = page.items[next].name;
    edit(anchor);
  } else if (by < 0 ? number > 0 : number < page.pages - 1) {
    flush(current);
    current = "";
    number += by < 0 ? -1 : 1;
    fetchPage().then(() => page && page.items.length && edit(page.items[by < 0 ? page.items.length - 1 : 0].name));
  }
}

/** What the page says is wrong with a picture: the kinds alone. */
const issuesOf = (item) => item.issues.map((kind) => ({kind, others: [], detail: ""}));

function drawIssues(issues) {
  shownIssues = issues.map((issue) => issue.kind).join();
  const mark = JSON.stringify([current, issues]);
  if (issueBox.dataset.mark === mark) return;
  issueBox.dataset.mark = mark;
  issueBox.replaceChildren(
    ...issues.map((issue) => {
      const kind = KINDS[issue.kind];
      const detail = issue.kind === "damaged" ? issue.detail : COLOURS[issue.detail] || issue.detail;
      const others = issue.others.map((other) => h("button", {class: "link", onclick: () => goTo(other)}, other));
      const fixes = [];
      if (kind.convert) fixes.push(h("button", {class: "nosnja-button", onclick: () => convert([current])}, T("Convert to RGB PNG")));
      return h(
        "li",
        {title: kind.means},
        h("span", {class: `nosnja-badge ${kind.error ? "error" : issue.kind === "grey" ? "" : "warning"}`}, kind.name),
        h("span", {class: "what"}, detail ? `${detail} – ${kind.means}` : kind.means, others.length ? [" ", others.flatMap((other, at) => (at ? [", ", other] : [other]))] : null),
        fixes,
      );
    }),
  );
}

async function goTo(name) {
  flush(current);
  filter = {show: "all", search: "", tag: "", word: ""};
  searchBox.value = "";
  drawChip();
  current = name;
  await fetchPage({around: name});
  if (itemOf(name)) edit(name);
}

// Writing

box.addEventListener("input", () => {
  const item = itemOf(current);
  if (!item) return;
  let draft = drafts.get(current);
  if (!draft) {
    draft = {before: item.caption, version: item.version || ""};
    drafts.set(current, draft);
  }
  draft.text = box.value;
  const name = current;
  clearTimeout(draft.timer);
  draft.timer = draft.conflict === undefined ? setTimeout(() => flush(name), SAVE_AFTER) : 0;
  const tile = tiles.get(name);
  if (tile) drawText(tile.querySelector(".text"), draft.text, false);
  drawSaved(name);
  countTokens();
});
box.addEventListener("blur", () => flush(current));

let countTimer = 0;
function countTokens() {
  clearTimeout(countTimer);
  countTimer = setTimeout(async () => {
    const text = box.value;
    const answer = await ask("count", {text}, true);
    if (answer && !answer.error && text === box.value) drawTokens(answer);
  }, COUNT_AFTER);
}

function drawTokens({tokens, cut, limit}) {
  if (tokens === null || tokens === undefined) {
    tokenLine.textContent = "";
    cutLine.textContent = "";
    return;
  }
  tokenLine.textContent = T("Tokens: {tokens} of {limit}", {tokens, limit});
  tokenLine.title = T("The model reads a caption as tokens, pieces of words, and sees the first {limit} only.", {limit});
  tokenLine.classList.toggle("over", tokens > limit);
  const lost = cut === undefined ? "" : box.value.slice(cut).trim();
  cutLine.replaceChildren(...(tokens > limit && lost ? [h("b", {}, T("Not seen by the model:")), " ", h("span", {}, lost)] : []));
  cutLine.title = lost;
}

function drawSaved(name) {
  if (name !== current) return;
  const draft = drafts.get(name);
  const conflict = draft?.conflict;
  conflictBox.hidden = conflict === undefined;
  if (conflict !== undefined) {
    conflictBox.replaceChildren(
      h("b", {}, T("Somebody else changed this caption meanwhile. Theirs:")),
      h("div", {class: "theirs"}, conflict || T("(no caption)")),
      h("button", {class: "nosnja-button", id: "gallery-keep-mine", onclick: () => settle(name, true)}, T("Keep mine")),
      " ",
      h("button", {class: "nosnja-button", id: "gallery-take-theirs", onclick: () => settle(name, false)}, T("Take theirs")),
    );
  }
  const failed = draft?.failed;
  savedLine.classList.toggle("bad", Boolean(failed || conflict !== undefined));
  savedLine.textContent = conflict !== undefined ? T("Conflict") : failed ? T("Not saved") : draft ? T("Saving…") : itemOf(name)?.saved ? T("Saved") : "";
}

function settle(name, mine) {
  const draft = drafts.get(name);
  if (!draft) return;
  const theirs = draft.conflict;
  draft.conflict = undefined;
  if (mine) {
    draft.before = theirs;
    flush(name);
  } else {
    drafts.delete(name);
    const item = itemOf(name);
    if (item) item.caption = theirs;
    if (name === current) box.value = theirs;
    fetchPage();
  }
  drawSaved(name);
}

/** Saves what was typed at a picture. One save at a time for each: what is typed meanwhile follows. */
async function flush(name) {
  const draft = drafts.get(name);
  if (!draft || draft.saving || draft.conflict !== undefined) return;
  clearTimeout(draft.timer);
  draft.timer = 0;
  draft.saving = true;
  const text = draft.text;
  const answer = await ask("save", {name, caption: text, before: draft.before, version: draft.version}, true);
  draft.saving = false;
  if (!answer || (answer.error && answer.conflict === undefined)) {
    draft.failed = true;
    if (answer) say(answer.error, {error: true});
    drawSaved(name);
    return;
  }
  draft.failed = false;
  if (answer.conflict !== undefined) {
    draft.conflict = answer.conflict;
    if (name !== current) say(T("{name}: somebody else changed this caption meanwhile.", {name}), {error: true, action: T("Look"), act: () => goTo(name)});
    drawSaved(name);
    return;
  }
  draft.before = answer.caption;
  draft.version = answer.version;
  const item = itemOf(name);
  if (item) {
    item.caption = answer.caption;
    item.version = answer.version;
    item.saved = true;
    item.tokens = answer.tokens;
    item.issues = item.issues.filter((kind) => !["no_caption", "same_caption", "long_caption"].includes(kind));
    if (!answer.caption) item.issues.push("no_caption");
    if (answer.tokens > (page?.limit || 75)) item.issues.push("long_caption");
  }
  if (draft.text === text) drafts.delete(name);
  else draft.timer = setTimeout(() => flush(name), SAVE_AFTER);
  if (item && tiles.has(name)) fillTile(tiles.get(name), item);
  if (item && name === current) drawIssues(issuesOf(item));
  if (answer.version) {
    view.undo = T("caption of {name}", {name});
    drawBar();
  }
  drawSaved(name);
}

function flushAll() {
  return Promise.all([...drafts.keys()].map(flush));
}

async function undo(count = 1) {
  await flushAll();
  const answer = await ask("undo", {count});
  if (!answer) return;
  for (const item of page?.items || []) item.version = "";
  say(T("Taken back: {what}", {what: answer.undone[answer.undone.length - 1]}));
  await fetchPage();
  if (drawer === "history") drawHistory();
}

// Mending

async function leaveOut(names) {
  await flushAll();
  const answer = await ask("leave_out", {names});
  if (!answer) return;
  const at = page.items.findIndex((item) => item.name === current);
  if (names.includes(current)) {
    const next = page.items.slice(at).find((item) => !names.includes(item.name)) || page.items.slice(0, at).reverse().find((item) => !names.includes(item.name));
    current = next ? next.name : "";
  }
  chosen.clear();
  say(T("Left out: {count}. Nothing is deleted.", {count: answer.moved.length}), {action: T("Put back"), act: () => putBack(answer.moved)});
  await fetchPage();
  if (current && itemOf(current)) edit(current);
}

async function putBack(names) {
  const answer = await ask("put_back", {names});
  if (!answer) return;
  chosen.clear();
  say(T("Put back: {count}", {count: answer.back.length}));
  fetchPage();
}

async function convert(names) {
  await flushAll();
  const answer = await ask("convert", {names});
  if (!answer) return;
  chosen.clear();
  if (answer.renamed[current]) current = answer.renamed[current];
  say(T("Converted: {count}. The originals are kept in .nosnja/originals.", {count: Object.keys(answer.renamed).length}));
  await fetchPage();
  if (current && itemOf(current)) edit(current);
}

// Drawers

function toggle(name) {
  drawer = drawer === name ? "" : name;
  for (const [other, button] of Object.entries(drawerButtons)) button.setAttribute("aria-expanded", String(other === drawer));
  drawerBox.hidden = !drawer;
  fit();
  drawerBox.className = `drawer nosnja-card of-${drawer}`;
  if (!drawer) return;
  drawerBox.replaceChildren();
  ({bring: () => drawBring((pending = [])), path: drawPath, caption: drawCaption, edit: drawEdit, tags: drawTags, history: drawHistory})[drawer]();
  drawerBox.querySelector("input:not([type=file]), textarea, select")?.focus();
  fit();
}

function labelled(text, ...fields) {
  return h("label", {}, h("span", {}, text), fields);
}

function scopeBox(id, extra = []) {
  const shown = page && (filter.show !== "all" || filter.search || filter.tag || filter.word);
  const made = h("select", {id}, h("option", {value: "all"}, T("All pictures ({count})", {count: page?.counts.all ?? 0})));
  if (shown && filter.show !== "left_out") made.append(h("option", {value: "shown"}, T("Those shown ({count})", {count: page.total})));
  if (chosen.size > 1) made.append(h("option", {value: "chosen"}, T("Those chosen ({count})", {count: chosen.size})));
  made.append(...extra);
  made.value = chosen.size > 1 ? "chosen" : shown && filter.show !== "left_out" ? "shown" : "all";
  return made;
}

function drawPath() {
  const path = h("input", {type: "text", id: "gallery-path-text", placeholder: T("Path of a folder of pictures, such as D:\\photos\\dress")});
  const go = () => path.value.trim() && open(`path:${path.value.trim()}`);
  path.addEventListener("keydown", (event) => event.key === "Enter" && go());
  drawerBox.append(
    h("div", {class: "row"}, path, h("button", {class: "nosnja-button primary", id: "gallery-path-open", onclick: go}, T("Open"))),
    h("p", {class: "nosnja-muted"}, T("The pictures stay where they are. Captions are read from .txt files beside them, metadata.csv, metadata.jsonl or a kohya .json.")),
    h("div", {class: "nosnja-field-error", id: "gallery-path-error"}),
  );
}

let pending = []; // {path, file}: what is to be imported
let copying = false;

const picked = (picker) => [...picker.files].map((file) => ({path: file.name, file}));
const suffixOf = (path) => path.slice(path.lastIndexOf(".")).toLowerCase();
const isJunk = (path) => path.split("/").some((part) => (view.junk || []).includes(part));

/** What was chosen or dropped waits, beside what waits already, for its name and the button. */
function bringFiles(files) {
  if (copying) return say(T("The files before are still being copied: drop these when they are done."), {error: true});
  if (drawer !== "bring") toggle("bring");
  const known = new Set(pending.map(({path, file}) => `${file.size} ${path}`));
  const wanted = files.filter(({path, file}) => !isJunk(path) && !known.has(`${file.size} ${path}`));
  const takes = ({path}) => view.takes.includes(suffixOf(path));
  drawBring([...pending, ...wanted.filter(takes)], wanted.filter((file) => !takes(file)));
}

function drawBring(files, refused = []) {
  const typed = pending.length ? drawerBox.querySelector("#gallery-new-name")?.value : "";
  const into = drawerBox.querySelector("#gallery-target")?.value;
  pending = files;
  const picker = h("input", {type: "file", multiple: true, hidden: true, accept: "image/*,.txt,.csv,.json,.jsonl,.zip", id: "gallery-files", onchange: () => bringFiles(picked(picker))});
  const target = h("select", {id: "gallery-target"}, h("option", {value: "new"}, T("A new dataset")), view.key ? h("option", {value: "into"}, T("Into {name}", {name: view.title})) : null);
  const name = h("input", {type: "text", id: "gallery-new-name", placeholder: T("Name, such as my-dress"), maxlength: "60", onkeydown: (event) => event.key === "Enter" && files.length && !copying && send()});
  const named = files.find(({path}) => suffixOf(path) === ".zip") || files.find(({path}) => path.includes("/"));
  name.value = typed || (named ? named.path.split("/")[0].replace(/\.zip$/i, "") : "");
  if (into && view.key) target.value = into;
  const follow = () => (name.hidden = target.value !== "new");
  target.addEventListener("change", follow);
  follow();
  const bytes = files.reduce((sum, {file}) => sum + file.size, 0);
  const progress = h("div", {class: "nosnja-progress wide"}, h("i", {style: {width: "0%"}}));
  const line = h("span", {class: "nosnja-muted total"}, files.length ? T("Files: {count} ({size})", {count: files.length, size: nosnja.bytes(bytes)}) : T("Pictures, .txt captions, metadata files, or a zip of them."));
  const go = h("button", {class: "nosnja-button primary", id: "gallery-import", disabled: !files.length, onclick: send}, T("Import"));
  const tell = (text) => (line.title = line.textContent = text);
  async function send() {
    go.disabled = copying = true;
    const arrived = [];
    try {
      for (const {path, file} of files) {
        tell(T("Copying {number} of {total}: {name}", {number: arrived.length + 1, total: files.length, name: path}));
        try {
          arrived.push({name: path, path: (await upload(file)).path});
        } catch (error) {
          tell(T("{name} could not be copied.", {name: path}));
          go.disabled = false;
          return;
        }
        progress.firstChild.style.width = `${Math.round((100 * arrived.length) / files.length)}%`;
      }
      tell(T("Checking and sorting…"));
      const answer = await ask("bring", {files: arrived, name: name.value, ...(target.value === "into" ? {} : {key: ""})});
      if (drawer === "bring") answer ? toggle("bring") : drawBring([]);
      if (!answer) return;
      const done = [T("Imported: pictures {pictures}, captions {captions}.", answer), ...answer.notes.slice(0, 3)].join(" ");
      if (answer.id !== view.id) return open(answer.id, done);
      say(done);
      fetchPage();
    } finally {
      copying = false;
    }
  }
  const few = refused.slice(0, 5).map(({path}) => path).join(", ") + (refused.length > 5 ? ", …" : "");
  drawerBox.replaceChildren(
    h("div", {class: "row"}, h("button", {class: "nosnja-button", onclick: () => picker.click()}, T("Choose files…")), picker, line, h("span", {class: "gap"}), target, name, go),
    progress,
    ...(refused.length ? [h("p", {class: "nosnja-muted refused", title: refused.map(({path}) => path).join("\n")}, T("Neither pictures nor captions, so left out: {count} ({names})", {count: refused.length, names: few}))] : []),
  );
  if (files.length) (name.hidden ? go : name).focus();
}

let captionWish = {captioner: "", model: "", existing: "keep", prompt: ""};
function drawCaption() {
  const captioner = h("select", {id: "gallery-captioner"}, (view.captioners || []).map((entry) => h("option", {value: entry.name}, entry.title)));
  if (captionWish.captioner) captioner.value = captionWish.captioner;
  const models = view.models || [];
  const model = models.length
    ? h("select", {id: "gallery-model"}, models.map((entry) => h("option", {value: entry.name, disabled: Boolean(entry.problem), title: entry.problem || ""}, entry.title)))
    : h("input", {type: "text", id: "gallery-model", placeholder: T("Empty: the usual one")});
  if (captionWish.model) model.value = captionWish.model;
  const only = current ? [h("option", {value: "one"}, T("This picture"))] : [];
  const scope = scopeBox("gallery-scope", only);
  const existing = h("select", {id: "gallery-existing"}, h("option", {value: "keep"}, T("Keep captions that are there")), h("option", {value: "overwrite"}, T("Overwrite them")));
  existing.value = captionWish.existing;
  const prompt = h("input", {type: "text", id: "gallery-prompt", placeholder: T("a photo of"), value: captionWish.prompt});
  const go = h("button", {class: "nosnja-button primary", id: "gallery-caption-start", onclick: start}, T("Caption"));
  async function start() {
    captionWish = {captioner: captioner.value, model: model.value, existing: existing.value, prompt: prompt.value};
    go.disabled = true;
    await flushAll();
    const answer = await ask("caption", {...captionWish, ...filter, scope: scope.value, names: scope.value === "one" ? [current] : [...chosen]});
    go.disabled = false;
    if (!answer) return;
    toggle("caption");
    say(answer.started === "queued" ? T("Another job is running: the captioner waits its turn.") : T("The captioner starts…"));
  }
  drawerBox.append(
    h("div", {class: "fields"}, labelled(T("Captioner"), captioner), labelled(T("Model"), model), labelled(T("Which pictures"), scope), labelled(T("Captions that are there"), existing), labelled(T("Begin each with (may be empty)"), prompt), go),
    h("p", {class: "nosnja-muted"}, T("A captioner is a model that looks at a picture and says in a sentence what is in it. You can go on working meanwhile, and undo takes all of it back.")),
  );
}

async function captionThis() {
  await flushAll();
  const wish = {...captionWish, captioner: captionWish.captioner || view.captioners?.[0]?.name || "", model: captionWish.model || view.models?.find((entry) => !entry.problem)?.name || ""};
  const answer = await ask("caption", {...wish, existing: "overwrite", scope: "one", names: [current]});
  if (answer) say(answer.started === "queued" ? T("Another job is running: the captioner waits its turn.") : T("The captioner starts…"));
}

function drawEdit() {
  const field = (id, placeholder) => h("input", {type: "text", id: `gallery-${id}`, placeholder, oninput: later});
  const find = field("find", T("a folk costume"));
  const replacement = field("replacement", T("nosnjaoutfit"));
  const prepend = field("prepend", T("nosnjaoutfit, "));
  const append = field("append", T(", studio light"));
  const whole = h("input", {type: "checkbox", id: "gallery-whole-words", checked: true, onchange: later});
  const same = h("input", {type: "checkbox", id: "gallery-same-case", onchange: later});
  const scope = scopeBox("gallery-edit-scope");
  scope.addEventListener("change", later);
  const count = h("b", {id: "gallery-edit-count"});
  const list = h("div", {class: "changes"});
  const go = h("button", {class: "nosnja-button primary", id: "gallery-edit-apply", disabled: true, onclick: apply}, T("Change them"));
  let timer = 0;
  let planned = 0;
  const wish = () => ({
    find: find.value, replacement: replacement.value, prepend: prepend.value, append: append.value,
    whole_words: whole.checked, same_case: same.checked, ...filter, scope: scope.value, names: [...chosen],
  });
  function later() {
    clearTimeout(timer);
    go.disabled = true;
    timer = setTimeout(preview, 250);
  }
  async function preview() {
    await flushAll();
    const wanted = wish();
    const answer = wanted.find || wanted.prepend || wanted.append ? await ask("edit", wanted) : {count: 0, changes: []};
    if (!answer || JSON.stringify(wanted) !== JSON.stringify(wish())) return;
    planned = answer.count;
    go.disabled = !planned;
    count.textContent = wanted.find || wanted.prepend || wanted.append ? T("Captions that change: {count}", {count: planned}) : T("Say what to find, or what to put in front or behind.");
    list.replaceChildren(...answer.changes.map((change) => h("div", {class: "change"}, h("span", {class: "nosnja-muted"}, change.name), h("del", {}, change.before || T("(no caption)")), h("ins", {}, change.after))));
  }
  async function apply() {
    go.disabled = true;
    const answer = await ask("edit", {...wish(), apply: true, count: planned});
    if (!answer) return preview();
    say(T("Captions changed: {count}", {count: answer.changed}), {action: T("Undo"), act: () => undo()});
    await fetchPage();
    if (current && itemOf(current)) edit(current);
    preview();
  }
  drawerBox.append(
    h("div", {class: "fields"}, labelled(T("Find"), find), labelled(T("Replace with"), replacement), labelled(T("Put in front"), prepend), labelled(T("Put behind"), append), labelled(T("Which pictures"), scope)),
    h("div", {class: "row"}, h("label", {class: "tick"}, whole, T("Whole words")), h("label", {class: "tick"}, same, T("Same upper and lower case")), h("span", {class: "gap"}), count, go),
    list,
  );
  preview();
}

let tagKind = "tag";
async function drawTags() {
  const answer = await ask("tags", {...filter, kind: tagKind});
  if (!answer || drawer !== "tags") return;
  const kinds = h("select", {id: "gallery-tag-kind", onchange: () => ((tagKind = kinds.value), drawTags())}, h("option", {value: "tag"}, T("Phrases between commas")), h("option", {value: "word"}, T("Words")));
  kinds.value = tagKind;
  drawerBox.replaceChildren(
    h("div", {class: "row"}, kinds, h("span", {class: "nosnja-muted"}, T("Click one to see its pictures."))),
    h("div", {class: "tags"}, answer.counted.map(([text, count]) => h("button", {class: "chip", title: text, onclick: () => filterBy({tag: "", word: "", [tagKind]: text})}, h("span", {}, text), h("b", {}, String(count))))),
  );
  if (!answer.counted.length) drawerBox.append(h("p", {class: "nosnja-muted"}, T("There are no captions yet.")));
}

async function drawHistory() {
  const answer = await ask("versions");
  if (!answer || drawer !== "history") return;
  const rows = answer.versions.map((version, at) =>
    h("li", {}, h("span", {class: "nosnja-muted"}, new Date(version.at * 1000).toLocaleString()), h("b", {title: version.note}, version.note), h("button", {class: "nosnja-button", onclick: () => undo(at + 1)}, at ? T("Back to before this") : T("Undo"))),
  );
  drawerBox.replaceChildren(
    h("p", {class: "nosnja-muted"}, rows.length ? T("Every change of captions can be taken back, the newest first. What is taken back is kept in .nosnja/undone.") : T("No caption was changed yet.")),
    h("ul", {class: "versions"}, rows),
  );
}

// The captioner at work

function drawJob() {
  const job = view.job;
  const was = jobBox.dataset.run;
  jobBox.hidden = !job;
  if (!job) return;
  const going = ["new", "running", "queued"].includes(job.state);
  const share = job.total ? (100 * job.done) / job.total : 0;
  const bad = ["failed", "crashed"].includes(job.state);
  if (was !== job.run || jobBox.dataset.going !== String(going)) {
    jobBox.dataset.run = job.run;
    jobBox.dataset.going = String(going);
    jobBox.replaceChildren(
      h("b", {class: "title"}),
      h("div", {class: "nosnja-progress wide"}, h("i")),
      h("span", {class: "figures"}),
      h("span", {class: "newest nosnja-muted"}),
      going ? h("button", {class: "nosnja-button", id: "gallery-caption-stop", onclick: (event) => ((event.target.disabled = true), ask("stop"))}, T("Stop")) : h("button", {class: "nosnja-button", id: "gallery-caption-close", onclick: () => ((jobBox.hidden = true), ask("dismiss"))}, T("Close")),
    );
  }
  const titles = {new: T("Captioner starts"), queued: T("Captioner waits"), running: T("Captioning"), finished: T("Captioned"), stopped: T("Captioner stopped"), failed: T("Captioner failed"), crashed: T("Captioner ended unexpectedly")};
  jobBox.classList.toggle("bad", bad);
  jobBox.querySelector(".title").textContent = titles[job.state] || job.state;
  jobBox.querySelector(".nosnja-progress i").style.width = `${job.state === "finished" ? 100 : share}%`;
  const eta = job.eta !== null && job.state === "running" ? ` · ${T("{time} left", {time: nosnja.duration(job.eta)})}` : "";
  jobBox.querySelector(".figures").textContent = job.total ? `${T("{done} of {total}", job)}${eta}` : "";
  const newest = jobBox.querySelector(".newest");
  newest.textContent = bad ? job.message : job.state === "running" && job.stage && !job.newest ? job.stage : job.newest ? `${job.newest[0]}: ${job.newest[1]}` : "";
  newest.title = newest.textContent;
  // Captions are written a few at a time; what the captioner has just said is shown before.
  if (!going) return;
  for (const [name, caption] of job.captions) {
    const tile = tiles.get(name);
    if (tile && !drafts.has(name)) drawText(tile.querySelector(".text"), caption, false);
  }
}

// Keyboard and dropping

root.addEventListener("keydown", (event) => {
  const typing = event.target === box;
  const field = !typing && event.target.closest("input, select, textarea, .drawer");
  if (field || !view.key) return;
  const by = {ArrowLeft: -1, ArrowRight: 1, PageUp: -1, PageDown: 1}[event.key];
  const plain = !event.ctrlKey && !event.metaKey && !event.shiftKey;
  if (typing) {
    if (by && plain && (event.altKey || event.key.startsWith("Page"))) {
      event.preventDefault();
      step(by);
      box.focus();
    } else if (event.key === "Escape") {
      grid.focus();
    }
    return;
  }
  if (event.target.closest("button") && [" ", "Enter"].includes(event.key)) return;
  const columns = Math.max(1, getComputedStyle(grid).gridTemplateColumns.split(" ").length);
  const rows = {ArrowUp: -columns, ArrowDown: columns}[event.key];
  if (by && plain) {
    event.preventDefault();
    step(by);
  } else if (rows && plain && page) {
    event.preventDefault();
    const at = page.items.findIndex((item) => item.name === current);
    const next = page.items[Math.min(page.items.length - 1, Math.max(0, at + rows))];
    if (next) edit((anchor = next.name));
  } else if ((event.key === "Home" || event.key === "End") && page?.items.length) {
    event.preventDefault();
    edit(page.items[event.key === "Home" ? 0 : page.items.length - 1].name);
  } else if (event.key === "Enter" && current) {
    event.preventDefault();
    box.focus();
  } else if (event.key === "Delete" && current && filter.show !== "left_out") {
    leaveOut(chosen.size ? [...chosen] : [current]);
  } else if (event.key.toLowerCase() === "a" && (event.ctrlKey || event.metaKey) && page) {
    event.preventDefault();
    chosen = new Set(page.items.map((item) => item.name));
    drawMarks();
  } else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey) && view.undo) {
    event.preventDefault();
    undo();
  } else if (event.key === "Escape") {
    chosen.clear();
    drawMarks();
  }
});

nosnja.takeDrops(root, async (reading) => {
  let files;
  try {
    files = await reading;
  } catch (error) {
    say(T("What was dropped cannot be read ({reason}): choose the files with the button.", {reason: error.message || error.name}), {error: true});
    return;
  }
  bringFiles(files);
});

// What the server says

function draw() {
  drawBar();
  drawEmpty();
  drawJob();
  fit();
}

function isVisible() {
  return root.offsetParent !== null && !document.hidden;
}

/** Ask for the page again, now or when the last time is long enough ago. */
function askSoon(wait) {
  clearTimeout(askTimer);
  askTimer = setTimeout(() => (isVisible() ? fetchPage() : askSoon(1000)), wait);
}

watch("value", () => {
  const before = view;
  view = props.value || {};
  if (view.error) {
    const place = root.querySelector("#gallery-path-error");
    if (place && drawer === "path") place.textContent = view.error;
    else if (before.error !== view.error || before.at !== view.at) say(view.error, {error: true});
  }
  if (view.key !== before.key) {
    page = null;
    current = "";
    number = 0;
    drafts.clear();
    chosen.clear();
    filter = {show: "all", search: "", tag: "", word: ""};
    searchBox.value = "";
    drawChip();
    tiles.clear();
    grid.replaceChildren();
    editor.classList.add("nothing");
    if (drawer) toggle(drawer);
    hush();
    if (news) say(news);
    news = "";
    draw();
    fetchPage();
    return;
  }
  draw();
  if (view.key && (before.state !== view.state || before.job?.done !== view.job?.done)) askSoon(150);
  else if (view.key && JSON.stringify(before.looked) !== JSON.stringify(view.looked)) {
    drawMarks();
    askSoon(Math.max(0, view.looked[0] === view.looked[1] ? 100 : ASK_AGAIN_AFTER - (Date.now() - askedAt)));
  }
});
window.addEventListener("focus", () => view.key && isVisible() && fetchPage());
window.addEventListener("pagehide", flushAll);
document.addEventListener("visibilitychange", () => document.hidden && flushAll());

/** Gallery and editor reach down to the window's lower edge, whatever stands above them. */
function fit() {
  if (main.hidden || root.offsetParent === null) return;
  const top = main.getBoundingClientRect().top + window.scrollY;
  main.style.height = `${Math.max(440, Math.round(window.innerHeight - top - 14))}px`;
}
new ResizeObserver(fit).observe(root);
window.addEventListener("resize", fit);

editor.classList.add("nothing");
draw();
fetchPage();
