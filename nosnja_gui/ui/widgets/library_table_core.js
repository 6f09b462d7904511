// A table of rows by key that may be hundreds: sorted by a click on a head, moved through by the arrow keys, changed in place.
(() => {
  const h = nosnja.h;
  const SHOWN = 300;

  /**
   * columns: [{name, title, value: row => what it is sorted by, cell: row => text or element, width: CSS, right: bool, low: first click sorts upwards}]
   * options: {label, sort: {name, up}, check: row => bool (has a box), onpick(key), oncheck(keys), onsort(sort)}
   */
  nosnja.libraryTable = (columns, options) => {
    const T = nosnja.T;
    const rows = new Map(); // key -> {row, stale, line, cells, tick, drawn}; the elements only of what was shown once
    const checked = new Set();
    const marked = new Set(); // new ones, until they are looked at
    let sort = options.sort;
    let picked = "";
    let limit = SHOWN;
    let wanted = () => true;

    const heads = columns.map((column) =>
      h("th", {class: `c-${column.name}${column.right ? " right" : ""}`, scope: "col"},
        h("button", {type: "button", title: column.title, onclick: () => sortBy(column)}, column.title)));
    const box = options.check ? [h("col", {class: "c-box", style: {width: "2rem"}})] : [];
    const body = h("tbody", {tabindex: "0", "aria-label": options.label, onkeydown: moveBy});
    const more = h("button", {type: "button", class: "nosnja-button", hidden: true, onclick: () => { limit += SHOWN; arrange(); }});
    const nothing = h("p", {class: "nosnja-muted nosnja-library-nothing", hidden: true}, T("Nothing matches what you search for."));
    const element = h("div", {class: "nosnja-library-list"},
      h("table", {},
        h("colgroup", {}, box, columns.map((column) => h("col", {class: `c-${column.name}`, style: column.width ? {width: column.width} : {}}))),
        h("thead", {}, h("tr", {}, options.check ? h("th", {class: "c-box"}) : null, heads)),
        body),
      nothing, more);

    function sortBy(column) {
      sort = {name: column.name, up: sort.name === column.name ? !sort.up : Boolean(column.low)};
      options.onsort?.(sort);
      arrange();
    }

    function make(entry, key) {
      const cells = columns.map((column) => h("td", {class: `c-${column.name}${column.right ? " right" : ""}`}));
      const tick = options.check && h("td", {class: "c-box"});
      const line = h("tr", {class: marked.has(key) ? "fresh" : null, dataset: {key}, "aria-selected": String(key === picked), onclick: (event) => { if (!event.target.closest(".c-box")) pick(key); }}, tick || null, cells);
      Object.assign(entry, {line, cells, tick, drawn: []});
    }

    function paint(entry) {
      const key = entry.key;
      if (!entry.line) make(entry, key);
      if (!entry.stale) return;
      entry.stale = false;
      if (entry.tick && options.check(entry.row) !== Boolean(entry.tick.firstChild)) {
        const ticked = () => { checked[entry.tick.firstChild.checked ? "add" : "delete"](key); options.oncheck([...checked]); };
        entry.tick.replaceChildren(...(options.check(entry.row) ? [h("input", {type: "checkbox", "aria-label": T("Choose {name}", {name: key}), onchange: ticked})] : []));
      }
      columns.forEach((column, place) => {
        const shown = column.cell(entry.row);
        // An element is drawn anew only where its text or class changed.
        const mark = shown instanceof Node ? shown.outerHTML : String(shown);
        if (entry.drawn[place] === mark) return;
        entry.drawn[place] = mark;
        entry.cells[place].replaceChildren(shown);
        entry.cells[place].title = entry.cells[place].textContent;
      });
    }

    function compare(a, b) {
      const column = columns.find((each) => each.name === sort.name) || columns[0];
      const left = column.value(a.row), right = column.value(b.row);
      const none = (value) => value === null || value === undefined || value === "";
      if (none(left) || none(right)) return none(left) - none(right); // what is missing stands last, either way
      const order = typeof left === "string" ? left.localeCompare(right, undefined, {numeric: true}) : left - right;
      return sort.up ? order : -order;
    }

    /** Put the rows that are wanted into their order, touching only what stands elsewhere. */
    function arrange() {
      const found = [...rows.values()].filter((entry) => wanted(entry.row)).sort(compare);
      const shown = found.slice(0, limit);
      shown.forEach(paint);
      shown.forEach((entry, place) => { if (body.children[place] !== entry.line) body.insertBefore(entry.line, body.children[place] || null); });
      while (body.children.length > shown.length) body.lastChild.remove();
      more.hidden = found.length <= limit;
      more.textContent = T("Show more ({count} left)", {count: found.length - shown.length});
      nothing.hidden = found.length > 0 || rows.size === 0;
      heads.forEach((head, place) => head.setAttribute("aria-sort", columns[place].name !== sort.name ? "none" : sort.up ? "ascending" : "descending"));
    }

    function pick(key, silently) {
      rows.get(picked)?.line?.setAttribute("aria-selected", "false");
      picked = key;
      marked.delete(key);
      rows.get(picked)?.line?.setAttribute("aria-selected", "true");
      rows.get(picked)?.line?.classList.remove("fresh");
      if (!silently) options.onpick(key);
    }

    function moveBy(event) {
      const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
      if (!step || event.target.closest("input, button")) return;
      event.preventDefault();
      const lines = [...body.children];
      const now = lines.findIndex((line) => line.dataset.key === picked);
      const next = lines[Math.max(0, Math.min(lines.length - 1, now + step))];
      if (!next) return;
      pick(next.dataset.key);
      next.scrollIntoView({block: "nearest"});
    }

    return {
      element,
      arrange,
      pick,
      size: () => rows.size,
      get: (key) => rows.get(key)?.row,
      rows: () => [...rows.values()].map((entry) => entry.row),
      /** Takes a row in; `arrange` shows it. */
      put(key, row) {
        const entry = rows.get(key) || {key};
        rows.set(key, Object.assign(entry, {row, stale: true}));
      },
      remove(key) {
        rows.get(key)?.line?.remove();
        rows.delete(key);
        if (checked.delete(key)) options.oncheck?.([...checked]);
      },
      clear() {
        for (const key of [...rows.keys()]) this.remove(key);
      },
      /** Stands out until it is picked. */
      mark(key) {
        marked.add(key);
        const line = rows.get(key)?.line;
        line?.classList.add("fresh");
        line?.scrollIntoView({block: "nearest"});
      },
      filter(test) {
        wanted = test;
        limit = SHOWN;
        arrange();
      },
      sortedBy(given) {
        if (given && columns.some((column) => column.name === given.name)) sort = given;
      },
      uncheck() {
        checked.clear();
        for (const entry of rows.values()) if (entry.tick && entry.tick.firstChild) entry.tick.firstChild.checked = false;
        options.oncheck?.([]);
      },
    };
  };
})();
