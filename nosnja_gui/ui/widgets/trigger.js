// Every caption of the set before and after: a paged list, with what goes out struck through and what comes in underlined.
const T = nosnja.T;
const h = nosnja.h;
const root = element.querySelector(".nosnja-trigger");

const state = {filter: "all", start: 0, key: "", folder: "", asked: 0};
const titles = {all: T("All"), changed: T("Changed"), unchanged: T("Unchanged"), without: T("Without caption")};

const filters = Object.fromEntries(Object.keys(titles).map((name) => [name,
  h("button", {type: "button", role: "tab", class: "nosnja-filter", dataset: {filter: name}, onclick: () => choose(name)},
    h("span", {}, titles[name]), h("b", {}, "–"))]));
const write = h("button", {type: "button", class: "nosnja-button primary", id: "trigger-write", onclick: () => trigger("write", {})});
const undo = h("button", {type: "button", class: "nosnja-button", id: "trigger-undo", onclick: () => trigger("undo", {})});
const said = h("div", {class: "nosnja-said", role: "status", "aria-live": "polite"});
const list = h("div", {class: "nosnja-changes", tabindex: "0", role: "list", "aria-label": T("Captions before and after")});
const back = h("button", {type: "button", class: "nosnja-button", "aria-label": T("Previous page"), onclick: () => turn(-1)}, "‹");
const forth = h("button", {type: "button", class: "nosnja-button", "aria-label": T("Next page"), onclick: () => turn(1)}, "›");
const place = h("span", {class: "nosnja-muted"});
const pages = h("div", {class: "nosnja-pages"}, back, place, forth);
const empty = h("div", {class: "nosnja-empty"},
  h("h2", {}, T("No dataset is open")),
  h("p", {}, T("The trigger word goes into the captions of a dataset: open one first, or try the demo on the Start tab.")),
  h("p", {}, h("button", {type: "button", class: "nosnja-button primary", onclick: () => trigger("dataset", {})}, T("Open a dataset"))));
const filled = h("div", {class: "nosnja-preview"},
  h("div", {class: "nosnja-preview-head"}, h("div", {class: "nosnja-filters", role: "tablist"}, Object.values(filters)), write),
  h("div", {class: "nosnja-preview-under"}, said, undo),
  list, pages);
root.append(empty, filled);

function draw() {
  const value = props.value || {};
  const open = Boolean(value.folder);
  empty.hidden = open;
  filled.hidden = !open;
  if (!open) return;
  if (value.folder !== state.folder) Object.assign(state, {folder: value.folder, start: 0, filter: "all", key: ""});
  for (const [name, button] of Object.entries(filters)) {
    button.querySelector("b").textContent = value.counts ? value.counts[name].toLocaleString() : "–";
    button.setAttribute("aria-selected", name === state.filter ? "true" : "false");
  }
  const count = value.counts ? value.counts.changed : 0;
  write.textContent = T("Write to {count} captions", {count: count.toLocaleString()});
  write.disabled = !count || Boolean(value.stale);
  undo.hidden = !value.undo;
  undo.textContent = T("Undo: {note}", {note: value.undo || ""});
  undo.title = undo.textContent;
  say(value);
  if (value.stale) look();
  else if (value.key !== state.key) ask();
}

/** One line above the list: what was done, or what there is to do. */
function say(value) {
  const told = value.said;
  let text = "";
  if (told) text = told.text;
  else if (value.counts && !value.ready) text = T("Type a trigger word: the list then shows every caption as it would be. Nothing is written before you say so.");
  else if (value.counts && !value.counts.changed) {
    text = value.form.action === "insert" ? T("Nothing to write: all captions are like this already.") : T("Nothing to write: no caption holds this word.");
  }
  else if (value.counts) text = T("Nothing is written yet: look through the list, then write.");
  const train = told && told.train
    ? h("button", {type: "button", class: "nosnja-button primary", onclick: () => trigger("train", {})}, T("Open Train")) : null;
  said.className = `nosnja-said ${told ? told.kind : ""}`;
  said.replaceChildren(...[h("span", {}, text), train].filter(Boolean));
}

/** Captions are not what they were when they were read: ask anew, but only if somebody looks. */
function look() {
  if (root.offsetParent !== null && props.value && props.value.stale && state.looked !== props.value) {
    state.looked = props.value;
    trigger("fresh", {});
  }
}

function choose(name) {
  Object.assign(state, {filter: name, start: 0, key: ""});
  list.scrollTop = 0;
  draw();
}

function turn(pages_on) {
  state.start = Math.max(0, state.start + pages_on * (state.page || 50));
  list.scrollTop = 0;
  state.key = "";
  draw();
}

async function ask() {
  const {key} = props.value;
  if (!key) {
    list.replaceChildren();
    pages.hidden = true;
    return;
  }
  state.key = key;
  const number = ++state.asked;
  const answer = await server.rows({key, filter: state.filter, start: state.start});
  if (number !== state.asked) return; // a later question is under way
  if (!answer) {
    // So many other previews were made meanwhile that this one is gone.
    trigger("fresh", {});
    return;
  }
  Object.assign(state, {start: answer.start, page: answer.page});
  show(answer);
}

/** Rows are changed in place: pictures don't flicker, and the list stays where it was scrolled to. */
function show(answer) {
  answer.rows.forEach((row, index) => {
    const before = list.children[index];
    const line = before && before.dataset.name === row.name ? before : made(row);
    if (line !== before) before ? before.replaceWith(line) : list.append(line);
    line.dataset.state = row.state;
    const text = line.querySelector("p");
    text.replaceChildren(...row.parts.flatMap(([kind, words]) => (kind === "same" ? words : marked(kind, words))));
    if (!row.parts.length) text.append(h("span", {class: "nosnja-muted"}, T("no caption")));
  });
  while (list.children.length > answer.rows.length) list.lastChild.remove();
  if (!answer.rows.length) list.append(h("div", {class: "nosnja-muted none"}, T("There are none of these.")));
  pages.hidden = answer.count <= answer.page;
  place.textContent = T("{first} to {last} of {count}", {
    first: answer.start + 1, last: answer.start + answer.rows.length, count: answer.count.toLocaleString()});
  back.disabled = answer.start === 0;
  forth.disabled = answer.start + answer.page >= answer.count;
}

function made(row) {
  return h("div", {class: "nosnja-change", role: "listitem", dataset: {name: row.name}},
    h("img", {src: row.picture, alt: "", loading: "lazy"}),
    h("div", {}, h("small", {title: row.name}, row.name), h("p")));
}

/** Not by colour alone: what goes out is struck through, what comes in is underlined. The blank before it is neither. */
function marked(kind, words) {
  const blank = words.length - words.trimStart().length;
  return [words.slice(0, blank), h(kind === "out" ? "del" : "ins", {}, words.slice(blank))];
}

watch("value", draw);
new IntersectionObserver(look).observe(root);
draw();
