// An XYZ plot to look at: a table of cells with labels that stay in sight, one cell in large, two of them under a slider.
// Used by the window and, word for word, by the page that a grid leaves behind; so it needs nothing but common.js.
(() => {
  const { h, T } = nosnja;
  const PLACES = ["x", "y", "z"];
  const SMALLEST = 64;
  const LARGEST = 720;
  const THUMBNAIL = 320;
  /** Labels of more characters are set smaller, and have a line of their own where they would not fit. */
  const LONG = 50;
  const isLong = (label) => label.length > LONG;

  /** Columns and rows into which `count` pictures fit without holes, else nearly a square whose last row is centred. */
  const blockShape = (count) => {
    for (let columns = 1; columns <= count; columns += 1) {
      const ratio = (columns * columns) / count;
      if (count % columns === 0 && ratio >= 1 && ratio <= 3) return [columns, count / columns];
    }
    const columns = Math.ceil(Math.sqrt(count));
    return [columns, Math.ceil(count / columns)];
  };

  const icon = (path) => h("svg:svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, h("svg:path", { d: path }));
  const PAGES = "M5.5 2.5h8v8h-8zM10.5 10.5v3h-8v-8h3";
  const HIDDEN = "M1 8c2-3.3 4.3-5 7-5s5 1.7 7 5c-2 3.3-4.3 5-7 5s-5-1.7-7-5zM8 5.8a2.2 2.2 0 1 1 0 4.4 2.2 2.2 0 0 1 0-4.4zM2.5 14L13.5 2";

  /**
   * Draws `record` (grid.json) into `root`. Of the options, `picture(file, large)` gives a picture's address or "" where there is
   * none yet; `infotext(file)` its text or a promise of it; `use(cell)` takes a cell's settings over, if that is possible here;
   * `busy()` says whether cells are still being painted. Gives {update(record)}: call it whenever a picture has come.
   */
  nosnja.grid = (root, record, options) => {
    const view = { columns: null, rows: null, pages: null, page: 0, stacked: false, side: 0, hidden: { x: new Set(), y: new Set(), z: new Set() } };
    const tiles = new Map(); // "i,j,k" -> {button, cell, signature}
    let cells = new Map(); // "i,j,k" -> cell
    let shape = "";
    let picking = null; // {first: position and number of a picture} while two are being chosen

    const busy = () => Boolean(options.busy && options.busy());
    const labels = (place) => (place && record.axes[place] ? record.axes[place].labels : [""]);
    const titleOf = (place) => (place && record.axes[place] ? T(record.axes[place].title) : "");
    const shown = (place) => labels(place).map((_, index) => index).filter((index) => !place || !view.hidden[place].has(index));
    const at = (position) => cells.get(position.join(","));
    const place = (column, row, page) => {
      const position = [0, 0, 0];
      for (const [axis, index] of [[view.columns, column], [view.rows, row], [view.pages, page]]) if (axis) position[PLACES.indexOf(axis)] = index;
      return position;
    };
    const indexOn = (axis, position) => (axis ? position[PLACES.indexOf(axis)] : 0);

    // ---------------------------------------------------------------- the frame, made once

    const bar = h("div", { class: "nosnja-grid-bar" });
    const values = h("div", { class: "nosnja-grid-values", hidden: true });
    const hint = h("div", { class: "nosnja-grid-hint", role: "status", hidden: true });
    const tabs = h("div", { class: "nosnja-grid-tabs", role: "tablist" });
    const sheet = h("div", { class: "nosnja-grid-scroll", tabindex: "-1" });
    const large = h("dialog", { class: "nosnja-grid-dialog" });
    const twoUp = h("dialog", { class: "nosnja-grid-dialog" });
    const frame = h("div", { class: "nosnja-grid-viewer" }, bar, values, hint, tabs, sheet, large, twoUp);
    root.replaceChildren(frame);
    for (const dialog of [large, twoUp]) {
      dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    }

    // ---------------------------------------------------------------- which axis goes where

    const assignAxes = () => {
      const given = PLACES.filter((axis) => record.axes[axis]);
      view.columns = given.includes("x") ? "x" : given[0] || null;
      view.rows = given.includes("y") && view.columns !== "y" ? "y" : given.find((axis) => axis !== view.columns && axis !== "z") || null;
      view.pages = given.find((axis) => axis !== view.columns && axis !== view.rows) || null;
      if (view.pages && !view.rows) [view.rows, view.pages] = [view.pages, null];
      view.page = 0;
      for (const axis of PLACES) view.hidden[axis].clear();
      view.side = 0;
    };

    /** Puts an axis where another one was; the two change places. */
    const assign = (where, axis) => {
      const other = ["columns", "rows", "pages"].find((name) => view[name] === axis);
      if (other) view[other] = view[where];
      view[where] = axis;
      // A grid without columns is shown as one that goes down; the table needs to know no other case.
      view.page = 0;
      rebuild();
    };

    const naturalSize = () => {
      let width = 1;
      let height = 1;
      for (const cell of cells.values()) {
        width = Math.max(width, cell.width || 1);
        height = Math.max(height, cell.height || 1);
      }
      return [width, height];
    };

    const cellShape = () => {
      const [width, height] = naturalSize();
      const count = Math.max(1, record.images_per_cell || 1);
      const [columns, rows] = blockShape(count);
      return { columns, rows, ratio: (columns * width) / (rows * height), picture: width / height, natural: columns * width };
    };

    /** About how wide the labels of the rows are. */
    const rowHeads = () => Math.min(200, 70 + 7 * Math.max(titleOf(view.rows).length, ...labels(view.rows).map((label) => label.length)));

    const usualSide = () => {
      const { columns, natural } = cellShape();
      const across = view.rows ? Math.max(1, shown(view.columns).length) : Math.min(5, Math.max(1, shown(view.columns).length));
      const room = Math.max(320, (sheet.clientWidth || root.clientWidth || 900) - (view.rows ? rowHeads() : 20)) / across - 12;
      return Math.round(Math.max(96 * Math.min(2, columns), Math.min(room, Math.max(natural, 200), 420)));
    };

    // ---------------------------------------------------------------- the bar

    const drawBar = () => {
      const given = PLACES.filter((axis) => record.axes[axis]);
      // Where the mark stands for the word, the word is still read out to those who cannot see.
      const named = (mark, name) => [h("span", { class: "nosnja-grid-mark", "aria-hidden": "true" }, mark), h("span", { class: "nosnja-grid-word" }, name)];
      const chooser = (where, mark, name) =>
        h("label", { class: "nosnja-grid-field", title: name }, named(mark, name),
          h("select", { onchange: (event) => assign(where, event.target.value || null), "aria-label": name, "data-control": where },
            h("option", { value: "", selected: !view[where] }, "–"),
            given.map((axis) => h("option", { value: axis, selected: view[where] === axis }, titleOf(axis)))));
      const range = h("input", {
        type: "range", min: SMALLEST, max: LARGEST, step: 4, value: view.side, "aria-label": T("Size of the cells"), "data-control": "size",
        oninput: (event) => { view.side = Number(event.target.value); resize(); },
      });
      const hiding = h("button", { type: "button", class: "nosnja-button", title: T("Hide values"), "aria-expanded": String(!values.hidden), "data-control": "hide", onclick: () => {
        values.hidden = !values.hidden;
        hiding.setAttribute("aria-expanded", String(!values.hidden));
      } }, named(icon(HIDDEN), T("Hide values")));
      bar.replaceChildren(
        ...(given.length > 1 ? [chooser("columns", "→", T("Columns")), chooser("rows", "↓", T("Rows"))] : []),
        ...(given.length > 2 ? [chooser("pages", icon(PAGES), T("Pages"))] : []),
        h("label", { class: "nosnja-grid-field", title: T("Size of the cells") }, named("", T("Size")), range),
        h("span", { class: "nosnja-grid-space" }),
        hiding,
        h("button", { type: "button", class: "nosnja-button nosnja-grid-compare", "data-control": "compare", onclick: () => pick(picking ? null : {}) }, T("Compare two")),
      );
      fitBar();
    };

    /** One row: words where there is room for them, in whatever language, else their marks. */
    const fitBar = () => {
      bar.classList.remove("narrow");
      const [first, last] = [bar.firstElementChild, bar.lastElementChild];
      bar.classList.toggle("narrow", Boolean(first) && last.offsetTop >= first.offsetTop + first.offsetHeight);
    };
    new ResizeObserver(fitBar).observe(bar);

    const drawValues = () => {
      const rows = PLACES.filter((axis) => record.axes[axis]).map((axis) =>
        h("div", { class: "nosnja-grid-value-row" }, h("b", {}, titleOf(axis)),
          labels(axis).map((label, index) =>
            h("button", { type: "button", class: "nosnja-grid-value", "aria-pressed": String(!view.hidden[axis].has(index)), title: label, "data-control": `${axis} ${index}`, onclick: () => {
              const hidden = view.hidden[axis];
              if (hidden.has(index)) hidden.delete(index);
              else if (hidden.size < labels(axis).length - 1) hidden.add(index);
              rebuild();
            } }, label || "–"))));
      values.replaceChildren(h("div", { class: "nosnja-muted" }, T("Click a value to hide it, again to show it.")), ...rows);
    };

    const drawTabs = () => {
      const pages = view.pages ? shown(view.pages) : [];
      tabs.hidden = pages.length < 2;
      if (pages.length && !pages.includes(view.page)) view.page = pages[0];
      if (tabs.hidden) { tabs.replaceChildren(); return; }
      const tab = (name, selected, open) => h("button", {
        type: "button", role: "tab", class: "nosnja-grid-tab", title: name, "aria-selected": String(selected), "data-control": `page ${name}`, onclick: () => { open(); rebuild(); },
      }, name || "–");
      tabs.replaceChildren(
        h("span", { class: "nosnja-muted" }, `${titleOf(view.pages)}:`),
        ...pages.map((index) => tab(labels(view.pages)[index], !view.stacked && index === view.page, () => { view.page = index; view.stacked = false; })),
        tab(T("All pages"), view.stacked, () => { view.stacked = true; }),
      );
    };

    // ---------------------------------------------------------------- the table

    const tile = (position) => {
      const key = position.join(",");
      const button = h("button", { type: "button", class: "nosnja-grid-tile", "data-cell": key, onclick: (event) => {
        const number = Number(event.target.dataset?.number || 0);
        if (picking) picked({ position, number });
        else openLarge(position, number);
      } });
      const made = { button, position, signature: null };
      tiles.set(key, made);
      drawTile(made);
      return button;
    };

    /** What has changed in a tile, and only that: a picture that is there already stays as it is. */
    const drawTile = (made) => {
      const cell = at(made.position);
      const large = view.side / cellShape().columns > THUMBNAIL;
      const files = cell ? cell.files : [];
      const addresses = files.map((file) => options.picture(file, large));
      const lacking = addresses.some((address) => !address);
      const signature = JSON.stringify([addresses, lacking && busy(), cell && cell.error]);
      if (signature === made.signature) return;
      made.signature = signature;
      const name = describe(made.position);
      made.button.setAttribute("aria-label", name);
      made.button.classList.toggle("failed", Boolean(cell && cell.error && lacking));
      const kept = new Map([...made.button.querySelectorAll("img")].map((image) => [image.getAttribute("src"), image]));
      made.button.replaceChildren(...files.map((file, number) => {
        if (addresses[number]) {
          return kept.get(addresses[number]) ||
            h("img", { src: addresses[number], alt: "", loading: "lazy", decoding: "async", draggable: "false", "data-number": number });
        }
        const failed = cell.error && (!cell.failed || cell.failed.includes(file) || !busy());
        if (failed) return h("span", { class: "nosnja-grid-error", "data-number": number, title: cell.error }, cell.error);
        return h("span", { class: `nosnja-grid-open${busy() ? " busy" : ""}`, "data-number": number });
      }));
    };

    const heading = (label) => h("div", { class: isLong(label) ? "long" : "", title: label }, label);

    const table = (page) => {
      const columns = shown(view.columns);
      const rows = shown(view.rows);
      if (!view.rows) {
        // One axis: cells follow each other, each under its label.
        return h("div", { class: "nosnja-grid-flow" }, columns.map((column) =>
          h("figure", {}, h("figcaption", {}, heading(view.columns ? labels(view.columns)[column] : "")), tile(place(column, 0, page)))));
      }
      const head = h("tr", {},
        h("th", { class: "corner", scope: "col" },
          view.columns ? h("span", { class: "across" }, `${titleOf(view.columns)} →`) : "", h("span", { class: "down" }, `${titleOf(view.rows)} ↓`)),
        columns.map((column) => h("th", { scope: "col" }, heading(view.columns ? labels(view.columns)[column] : ""))));
      const body = rows.map((row) =>
        h("tr", {}, h("th", { scope: "row" }, heading(labels(view.rows)[row])),
          columns.map((column) => h("td", {}, tile(place(column, row, page))))));
      return h("table", { class: "nosnja-grid-table" }, h("thead", {}, head), h("tbody", {}, body));
    };

    const rebuild = () => {
      if (!view.columns && view.rows) [view.columns, view.rows] = [view.rows, null];
      if (!view.side) view.side = usualSide();
      const held = frame.contains(document.activeElement) ? document.activeElement.dataset : {};
      tiles.clear();
      drawTabs();
      drawBar();
      drawValues();
      const stacked = view.stacked && shown(view.pages).length > 1;
      const pages = view.pages ? (stacked ? shown(view.pages) : [view.page]) : [0];
      // A tab has no room for a long label.
      const titled = view.pages && (stacked || labels(view.pages).some(isLong));
      const scrolled = [sheet.scrollLeft, sheet.scrollTop];
      sheet.replaceChildren(...pages.map((page) =>
        h("section", {}, titled ? h("h4", { class: isLong(labels(view.pages)[page]) ? "long" : "" }, `${titleOf(view.pages)}: ${labels(view.pages)[page]}`) : "",
          !view.rows && view.columns ? h("div", { class: "nosnja-grid-axis" }, titleOf(view.columns)) : "", table(page))));
      [sheet.scrollLeft, sheet.scrollTop] = scrolled;
      resize();
      // What had the keyboard was made anew.
      const again = held.control ? `[data-control="${CSS.escape(held.control)}"]` : held.cell ? `[data-cell="${held.cell}"]` : "";
      if (again) frame.querySelector(again)?.focus({ preventScroll: true });
    };

    const resize = () => {
      const { columns, ratio, picture: one } = cellShape();
      frame.style.setProperty("--side", `${view.side}px`);
      frame.style.setProperty("--ratio", String(ratio));
      frame.style.setProperty("--picture", String(one));
      frame.style.setProperty("--across", String(columns));
      for (const made of tiles.values()) drawTile(made);
    };

    // ---------------------------------------------------------------- moving about

    const describe = (position) =>
      PLACES.filter((axis) => record.axes[axis]).map((axis) => `${titleOf(axis)}: ${labels(axis)[indexOn(axis, position)]}`).join(", ");

    /** The position `by` places further on that axis, among the values that are shown; stays at the ends. */
    const moved = (position, axis, by) => {
      if (!axis) return position;
      const visible = shown(axis);
      const now = visible.indexOf(indexOn(axis, position));
      const next = [...position];
      next[PLACES.indexOf(axis)] = visible[Math.max(0, Math.min(visible.length - 1, now + by))];
      return next;
    };

    const KEYS = { ArrowLeft: ["columns", -1], ArrowRight: ["columns", 1], ArrowUp: ["rows", -1], ArrowDown: ["rows", 1], PageUp: ["pages", -1], PageDown: ["pages", 1] };

    sheet.addEventListener("keydown", (event) => {
      const now = event.target.closest && event.target.closest(".nosnja-grid-tile");
      const [where, by] = KEYS[event.key] || [];
      if (!now || !where || where === "pages") return;
      const next = tiles.get(moved(now.dataset.cell.split(",").map(Number), view[where], by).join(","));
      if (!next) return;
      event.preventDefault();
      next.button.focus();
      next.button.scrollIntoView({ block: "nearest", inline: "nearest" });
    });

    // ---------------------------------------------------------------- one cell in large

    let open = null; // {position, number}

    const openLarge = (position, number) => {
      open = { position, number };
      if (!large.open) {
        frameLarge();
        large.showModal();
        large.querySelector(".nosnja-grid-figure").focus();
      }
      drawLarge();
    };

    large.addEventListener("close", () => {
      const now = open && tiles.get(open.position.join(","));
      open = null;
      now?.button.focus();
    });

    large.addEventListener("keydown", (event) => {
      if (!open || event.target.matches("input, select, textarea")) return;
      const [where, by] = KEYS[event.key] || [];
      if (where) {
        event.preventDefault();
        openLarge(moved(open.position, view[where], by), open.number);
      } else if (/^[1-9]$/.test(event.key)) {
        const cell = at(open.position);
        if (cell && Number(event.key) <= cell.files.length) openLarge(open.position, Number(event.key) - 1);
      }
    });

    /** A picture as large as there is room, or why there is none; the room is taken either way. */
    const picture = (position, number) => {
      const cell = at(position);
      const address = cell && cell.files[number] ? options.picture(cell.files[number], true) : "";
      const ratio = cell ? `${cell.width || 1} / ${cell.height || 1}` : "1 / 1";
      if (address) return h("img", { src: address, alt: describe(position), draggable: "false", style: { aspectRatio: ratio } });
      const text = cell && cell.error ? cell.error : busy() ? T("Not painted yet; it appears here by itself.") : T("Not painted.");
      return h("div", { class: `nosnja-grid-none${cell && cell.error ? " failed" : ""}`, style: { aspectRatio: ratio } }, text);
    };

    /** A slider per axis. They stay the same elements while they are moved, or the hand would lose them. */
    const scrubbers = (change) => {
      let position = [0, 0, 0];
      const rows = PLACES.filter((axis) => labels(axis).length > 1).map((axis) => {
        const value = h("b", { class: labels(axis).some(isLong) ? "long" : "" });
        const range = h("input", { type: "range", min: 0, max: labels(axis).length - 1, step: 1, "data-axis": axis, "aria-label": titleOf(axis), oninput: () => {
          const next = [...position];
          next[PLACES.indexOf(axis)] = Number(range.value);
          change(next);
        } });
        return { axis, value, range, node: h("label", { class: "nosnja-grid-scrub" }, h("span", {}, titleOf(axis)), value, range) };
      });
      const show = (now) => {
        position = now;
        for (const { axis, value, range } of rows) {
          const label = labels(axis)[indexOn(axis, now)];
          range.value = indexOn(axis, now);
          range.setAttribute("aria-valuetext", label);
          value.textContent = value.title = label;
        }
      };
      return { show, nodes: rows.map((row) => row.node) };
    };

    const settingsOf = (cell, number) => {
      const loras = (cell.loras || []).map((lora) => `${lora.file.replace(/\.safetensors$/, "")} × ${nosnja.number(lora.weight)}`);
      return [
        [T("Model"), cell.model],
        [T("LoRA"), loras.join(", ") || T("none")],
        [T("Seed"), (cell.seed + number) % 2 ** 32],
        [T("Sampler"), (record.samplers || {})[cell.sampler] || cell.sampler],
        [T("Steps"), cell.steps],
        [T("CFG scale"), nosnja.number(cell.cfg_scale)],
        [T("Size"), `${cell.width} × ${cell.height}`],
        [T("Clip skip"), cell.clip_skip],
      ];
    };

    const copy = async (area, button) => {
      try {
        await navigator.clipboard.writeText(area.value);
      } catch {
        area.select(); // no clipboard for pages that came without encryption from another machine
        document.execCommand("copy");
      }
      const before = button.textContent;
      button.textContent = T("Copied");
      setTimeout(() => { button.textContent = before; }, 1500);
    };

    let largeParts = null;

    const frameLarge = () => {
      const scrub = scrubbers((next) => openLarge(next, open.number));
      largeParts = { scrub, figure: h("div", { class: "nosnja-grid-figure", tabindex: "-1" }), details: h("div", { class: "nosnja-grid-details" }) };
      large.replaceChildren(h("div", { class: "nosnja-grid-large" }, largeParts.figure,
        h("aside", {}, h("div", { class: "nosnja-grid-dialog-head" }, h("h3", { title: record.name || "" }, record.name || ""), closer(large)), scrub.nodes, largeParts.details)));
    };

    const drawLarge = () => {
      const { position, number } = open;
      const cell = at(position);
      const there = cell && cell.files[number] && options.picture(cell.files[number], true);
      largeParts.scrub.show(position);
      largeParts.figure.replaceChildren(picture(position, number), cell && cell.files.length > 1
        ? h("div", { class: "nosnja-grid-numbers" }, cell.files.map((file, index) =>
            h("button", { type: "button", "aria-pressed": String(index === number), "aria-label": `${index + 1}`, onclick: () => openLarge(position, index) },
              options.picture(file, false) ? h("img", { src: options.picture(file, false), alt: "" }) : h("span", {}, index + 1))))
        : "");
      const area = h("textarea", { readonly: true, rows: 6, "aria-label": T("Infotext") });
      if (there && options.infotext) Promise.resolve(options.infotext(cell.files[number])).then((text) => { area.value = text || ""; });
      const copyButton = h("button", { type: "button", class: "nosnja-button", disabled: !there, onclick: () => copy(area, copyButton) }, T("Copy infotext"));
      largeParts.details.replaceChildren(...[
        cell && cell.error && !there ? h("div", { class: "nosnja-note error" }, cell.error) : "",
        cell ? [h("h4", {}, T("Prompt")), h("p", { class: "nosnja-grid-prompt" }, cell.prompt || "–")] : "",
        cell && cell.negative_prompt ? [h("h4", {}, T("Negative prompt")), h("p", { class: "nosnja-grid-prompt" }, cell.negative_prompt)] : "",
        cell ? h("dl", {}, settingsOf(cell, number).map(([name, value]) => [h("dt", {}, name), h("dd", { title: String(value) }, String(value))])) : "",
        h("h4", {}, T("Infotext")), area,
        h("div", { class: "nosnja-grid-buttons" }, copyButton,
          h("button", { type: "button", class: "nosnja-button", onclick: () => { large.close(); pick({ first: { position, number } }); } }, T("Compare with another")),
          options.use && cell
            ? h("button", { type: "button", class: "nosnja-button", onclick: () => { large.close(); options.use(cell, number); } }, T("Use these settings"))
            : ""),
        h("p", { class: "nosnja-muted" }, T("Arrow keys go to the next cell, Page up and Page down to the next page, Esc closes.")),
      ].flat(3));
    };

    const closer = (dialog) => h("button", { type: "button", class: "nosnja-grid-close", "aria-label": T("Close"), onclick: () => dialog.close() }, "×");

    // ---------------------------------------------------------------- two under a slider

    const pick = (wanted) => {
      picking = wanted;
      frame.classList.toggle("picking", Boolean(picking));
      hint.hidden = !picking;
      hint.replaceChildren(
        picking && picking.first ? T("Now click the picture to compare it with.") : T("Click the first of two pictures."), " ",
        h("button", { type: "button", class: "nosnja-button", onclick: () => pick(null) }, T("Cancel")));
      for (const made of tiles.values()) made.button.classList.toggle("first", Boolean(picking?.first && picking.first.position.join() === made.position.join()));
    };

    frame.addEventListener("keydown", (event) => { if (event.key === "Escape" && picking && !large.open && !twoUp.open) pick(null); });

    const picked = (one) => {
      if (!picking.first) { pick({ first: one }); return; }
      const first = picking.first;
      pick(null);
      openTwo(first, one);
    };

    let two = null; // {a, b: position and number of a picture, show}

    const openTwo = (a, b) => {
      two = { a, b };
      frameTwo();
      if (!twoUp.open) twoUp.showModal();
    };

    const frameTwo = () => {
      const scrub = {};
      const held = { a: h("div", { class: "a" }), b: h("div", { class: "b" }) };
      const sides = ["a", "b"].map((name) => {
        scrub[name] = scrubbers((position) => { two[name] = { ...two[name], position }; two.show(); });
        return h("div", { class: "nosnja-grid-side", "data-two": name }, scrub[name].nodes);
      });
      const stage = h("div", { class: "nosnja-grid-stage" }, held.a, held.b, h("i", { class: "nosnja-grid-line" }));
      const cut = h("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50, class: "nosnja-grid-cut", "aria-label": T("How much of each is seen"),
        oninput: () => stage.style.setProperty("--cut", `${cut.value}%`) });
      stage.append(cut);
      two.show = () => {
        for (const name of ["a", "b"]) {
          scrub[name].show(two[name].position);
          held[name].replaceChildren(picture(two[name].position, two[name].number));
        }
      };
      const beside = h("button", { type: "button", class: "nosnja-button", onclick: () => {
        stage.classList.toggle("beside");
        beside.textContent = stage.classList.contains("beside") ? T("Under a slider") : T("Side by side");
      } }, T("Side by side"));
      twoUp.replaceChildren(h("div", { class: "nosnja-grid-two" },
        h("div", { class: "nosnja-grid-dialog-head" }, h("h3", {}, T("Two pictures")),
          h("button", { type: "button", class: "nosnja-button", onclick: () => { [two.a, two.b] = [two.b, two.a]; two.show(); } }, T("Swap")), beside, closer(twoUp)),
        h("div", { class: "nosnja-grid-pair" }, sides[0], stage, sides[1])));
      two.show();
    };

    twoUp.addEventListener("close", () => { two = null; });

    // ---------------------------------------------------------------- what is new

    const update = (next) => {
      record = next;
      cells = new Map(record.cells.map((cell) => [cell.position.join(","), cell]));
      const before = shape;
      shape = JSON.stringify([record.axes, record.images_per_cell, ...naturalSize()]);
      if (shape !== before) {
        const axes = JSON.parse(before || "[null]")[0];
        const same = axes && Object.keys(axes).join() === Object.keys(record.axes).join() && PLACES.every((axis) => axes[axis]?.name === record.axes[axis]?.name);
        // A grid that has grown is looked at as before; another one is not.
        if (!same) { assignAxes(); pick(null); }
        for (const axis of PLACES) for (const index of [...view.hidden[axis]]) if (index >= labels(axis).length) view.hidden[axis].delete(index);
        rebuild();
      } else {
        for (const made of tiles.values()) drawTile(made);
      }
      // Someone who looks at a picture or moves a slider is not to be disturbed; what was missing there is put in.
      if (open && large.querySelector(".nosnja-grid-none")) drawLarge();
      if (two && twoUp.querySelector(".nosnja-grid-none")) two.show();
    };

    update(record);
    // In a tab that is not open there is no width to fit the cells into.
    if (!sheet.clientWidth) {
      const watcher = new ResizeObserver(() => {
        if (!sheet.clientWidth) return;
        watcher.disconnect();
        view.side = 0;
        rebuild();
      });
      watcher.observe(sheet);
    }
    return { update };
  };
})();
