// Line charts for all widgets: nosnja.chart(root, value) draws `value` into `root`; called again, it updates in place.
//
// value: {
//   series: [{name, label, color, x: [...], y: [...] (null: a gap), raw (never smoothed), dashed, points (dots), low, high (a band)}],
//   marks: [{x, label, color, quiet}],   // vertical lines; of a quiet one only the crosshair tells the label
//   x_label, y_label, log, smoothing (0..0.99), height (px), clip (leave outliers out of the range),
//   x_range: [from, to], y_zero (range begins at 0), empty ("No points yet"), label (for screen readers),
//   tools: ["smoothing", "log", "clip"], // controls above the chart; what the user sets there is kept in this browser under `remember`
//   remember: "loss", link: "run",       // charts of one link share zoom and crosshair
// }
// color: accent, blue, green, amber, mauve, grey, or any CSS colour. Only drawn from `value`: whoever has it has the chart.
(() => {
  const { h, T } = nosnja;
  const COLORS = ["accent", "blue", "green", "amber", "mauve", "grey"];
  const MARGIN = { left: 54, right: 20, top: 8, bottom: 34 };
  const NAME_HEIGHT = 14;
  const charts = new WeakMap();
  const links = new Map();
  let count = 0;

  nosnja.chart = (root, value) => {
    let chart = charts.get(root);
    if (!chart) charts.set(root, (chart = new Chart(root)));
    chart.update(value || {});
    return chart;
  };

  // ---------------------------------------------------------------- arithmetic, without the page

  /** Steps of 1, 2 or 5 times a power of ten: about `wanted` of them inside [low, high]. */
  const linearTicks = (low, high, wanted, whole = false) => {
    const span = high - low;
    if (!(span > 0) || !Number.isFinite(span)) return [low];
    const rough = span / Math.max(1, wanted);
    const power = 10 ** Math.floor(Math.log10(rough));
    let size = [1, 2, 5, 10].map((part) => part * power).find((part) => part >= rough * 0.999);
    if (whole) size = Math.max(1, size);
    const ticks = [];
    for (let at = Math.ceil(low / size - 1e-9); at <= high / size + 1e-9; at++) ticks.push(Number((at * size).toPrecision(12)));
    return ticks;
  };

  /** Decades; with 2 and 5 between them where there are few. */
  const logTicks = (low, high, wanted) => {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const every = Math.max(1, Math.ceil((last - first) / Math.max(1, wanted)));
    for (const parts of last - first > wanted ? [[1]] : [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 7, 8]]) {
      const ticks = [];
      for (let power = first; power <= last; power += every) for (const part of parts) ticks.push(Number((part * 10 ** power).toPrecision(6)));
      const inside = ticks.filter((tick) => tick >= low * 0.9999 && tick <= high * 1.0001);
      if (inside.length >= Math.min(3, wanted) || inside.length > wanted) return inside;
    }
    return linearTicks(low, high, wanted).filter((tick) => tick > 0);
  };

  /** Exponential moving average, freed of its bias towards the start; gaps stay gaps. */
  const smooth = (values, weight) => {
    let sum = 0, mass = 0;
    return values.map((value) => {
      if (value === null || value === undefined || !Number.isFinite(value)) return null;
      sum = weight * sum + (1 - weight) * value;
      mass = weight * mass + (1 - weight);
      return sum / mass;
    });
  };

  const quantile = (sorted, share) => {
    const at = (sorted.length - 1) * share, low = Math.floor(at);
    return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (at - low);
  };

  /** Index of the x nearest to `wanted` in a sorted list. */
  const nearest = (xs, wanted) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < wanted) low = middle;
      else high = middle;
    }
    return high >= 0 && Math.abs(xs[high] - wanted) < Math.abs(xs[low] - wanted) ? high : low;
  };

  const valid = (value, log) => value !== null && value !== undefined && Number.isFinite(value) && (!log || value > 0);
  const stepText = (value) =>
    Math.abs(value) >= 1e6 ? `${Number((value / 1e6).toPrecision(4))}M` : Math.abs(value) >= 1e4 ? `${Number((value / 1e3).toPrecision(5))}k` : String(Number(value.toPrecision(6)));
  const valueText = (value) => (Math.abs(value) >= 1e5 ? value.toExponential(1) : nosnja.number(value, 4));
  nosnja.chartMath = { linearTicks, logTicks, smooth, quantile, nearest };

  // ---------------------------------------------------------------- what the user set, kept in this browser

  const remembered = (name) => {
    try {
      return (name && JSON.parse(localStorage.getItem(`nosnja-chart-${name}`))) || {};
    } catch {
      return {};
    }
  };
  const remember = (name, values) => {
    try {
      if (name) localStorage.setItem(`nosnja-chart-${name}`, JSON.stringify(values));
    } catch {
      // A browser that keeps nothing is fine: the setting lasts as long as the page.
    }
  };

  // ---------------------------------------------------------------- one chart

  class Chart {
    constructor(root) {
      this.root = root;
      this.id = `nosnja-chart-${++count}`;
      this.hidden = new Set();
      this.zoom = null;
      this.pointer = null;
      this.value = {};
      this.chosen = null;
      root.classList.add("nosnja-plot");
      this.tools = h("div", { class: "nosnja-plot-tools" });
      this.legend = h("div", { class: "nosnja-plot-legend" });
      this.head = h("div", { class: "nosnja-plot-head" }, this.legend, this.tools);
      this.clipRect = h("svg:rect", {});
      this.layers = Object.fromEntries(["grid", "bands", "raw", "lines", "marks", "cross"].map((name) => [name, h("svg:g", { class: `nosnja-plot-${name}` })]));
      this.brush = h("svg:rect", { class: "nosnja-plot-brush", visibility: "hidden" });
      const inside = h("svg:g", { "clip-path": `url(#${this.id})` }, this.layers.bands, this.layers.raw, this.layers.lines, this.layers.marks, this.brush);
      this.svg = h(
        "svg:svg", { class: "nosnja-plot-svg", role: "img", "aria-label": "" },
        h("svg:defs", {}, h("svg:clipPath", { id: this.id }, this.clipRect)), this.layers.grid, inside, this.layers.cross,
      );
      this.tip = h("div", { class: "nosnja-plot-tip", hidden: true });
      this.note = h("div", { class: "nosnja-plot-empty", hidden: true });
      this.reset = h("button", { type: "button", class: "nosnja-plot-reset", onclick: () => this.zoomTo(null), title: T("Or double-click the chart") }, T("Reset zoom"));
      this.reset.addEventListener("pointerdown", (event) => event.stopPropagation());
      this.body = h("div", { class: "nosnja-plot-body" }, this.svg, this.note, this.reset, this.tip);
      root.replaceChildren(this.head, this.body);
      this.listen();
      new ResizeObserver(() => this.schedule()).observe(this.body);
    }

    update(value) {
      const before = this.value;
      this.value = value;
      if (this.chosen === null || before.remember !== value.remember) this.chosen = remembered(value.remember);
      if (before.link !== value.link) {
        links.get(before.link)?.delete(this);
        if (value.link) links.set(value.link, (links.get(value.link) || new Set()).add(this));
      }
      // Another run begins unzoomed; the same one keeps what the user looks at.
      if (before.key !== value.key) this.zoom = null;
      const [low, high] = this.extent();
      if (this.zoom && (this.zoom[1] <= low || this.zoom[0] >= high)) this.zoom = null;
      this.body.style.height = `${this.value.height || 260}px`;
      this.drawTools();
      this.drawLegend();
      this.schedule();
    }

    /** What the user chose above the chart, else what `value` says. */
    setting(name) {
      return (this.value.tools || []).includes(name) && name in this.chosen ? this.chosen[name] : this.value[name] || 0;
    }

    set(name, value) {
      this.chosen = { ...this.chosen, [name]: value };
      remember(this.value.remember, this.chosen);
      this.schedule();
    }

    series() {
      return (this.value.series || []).map((one, index) => ({ ...one, name: one.name ?? String(index), color: color(one.color ?? COLORS[index % COLORS.length]) }));
    }

    extent() {
      let low = Infinity, high = -Infinity;
      for (const one of this.value.series || []) {
        if (one.x.length) [low, high] = [Math.min(low, one.x[0]), Math.max(high, one.x[one.x.length - 1])];
      }
      if (this.value.x_range) [low, high] = [Math.min(low, this.value.x_range[0]), Math.max(high, this.value.x_range[1])];
      return low <= high ? [low, high] : [0, 1];
    }

    schedule() {
      if (this.waiting) return;
      this.waiting = true;
      requestAnimationFrame(() => {
        this.waiting = false;
        this.draw();
      });
    }

    // -------------------------------------------------------------- head: legend and tools

    drawLegend() {
      const series = this.series();
      const shape = JSON.stringify(series.map((one) => [one.name, one.label, one.color, one.dashed]));
      if (shape !== this.legendShape) {
        this.legendShape = shape;
        this.legend.replaceChildren(
          ...series.map((one) =>
            h(
              "button", { type: "button", class: "nosnja-plot-entry", dataset: { name: one.name }, title: T("Show or hide"), onclick: () => this.toggle(one.name) },
              h("i", { class: one.dashed ? "dashed" : "", style: { borderColor: one.color } }), h("span", {}, one.label ?? one.name),
            ),
          ),
        );
      }
      for (const entry of this.legend.children) entry.setAttribute("aria-pressed", String(!this.hidden.has(entry.dataset.name)));
      this.head.hidden = !(series.length > 1 || (this.value.tools || []).length || (series.length && this.value.legend));
    }

    toggle(name) {
      this.hidden.has(name) ? this.hidden.delete(name) : this.hidden.add(name);
      this.drawLegend();
      this.schedule();
    }

    drawTools() {
      const names = this.value.tools || [];
      const shape = names.join();
      if (shape === this.toolShape) return;
      this.toolShape = shape;
      const box = (name, text, title) =>
        h("label", { title }, h("input", { type: "checkbox", checked: Boolean(this.setting(name)), onchange: (event) => this.set(name, event.target.checked) }), text);
      const made = {
        smoothing: () => {
          const shown = h("output", {}, Number(this.setting("smoothing")).toFixed(2));
          const slide = (event) => {
            const wanted = Number(event.target.value);
            shown.textContent = wanted.toFixed(2);
            this.set("smoothing", wanted);
          };
          return h(
            "label", { title: T("How much the thick line is smoothed; 0 shows the values as they are") }, T("Smoothing"),
            h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: this.setting("smoothing"), oninput: slide }), shown,
          );
        },
        log: () => box("log", T("Log scale"), T("Each step up the axis multiplies the value: shows small values better")),
        clip: () => box("clip", T("Hide outliers"), T("The axis fits most of the values; a few far ones run out of the picture")),
      };
      this.tools.replaceChildren(...names.map((name) => made[name]()));
    }

    // -------------------------------------------------------------- drawing

    draw() {
      const width = this.body.clientWidth, height = this.body.clientHeight;
      if (!width || !height) return;
      const all = this.series(), log = Boolean(this.setting("log"));
      const weight = Math.min(0.999, Math.max(0, Number(this.setting("smoothing")) || 0));
      const plot = { left: MARGIN.left, top: MARGIN.top + (this.value.y_label ? NAME_HEIGHT : 0), right: Math.max(MARGIN.left + 10, width - MARGIN.right), bottom: height - MARGIN.bottom };
      const [low, high] = this.zoom || this.extent();
      const shown = all
        .filter((one) => !this.hidden.has(one.name))
        .map((one) => ({ ...one, smooth: weight && !one.raw ? smooth(one.y, weight) : null }));
      const any = all.some((one) => one.y.some((y) => valid(y, false)));
      this.note.hidden = any;
      this.note.textContent = this.value.empty || T("No points yet");
      this.reset.hidden = !this.zoom;
      const [bottom, top] = this.range(shown, low, high, log);
      const x = (at) => plot.left + ((at - low) / (high - low || 1)) * (plot.right - plot.left);
      const up = log ? Math.log : (value) => value;
      const y = (at) => plot.bottom - ((up(at) - up(bottom)) / (up(top) - up(bottom) || 1)) * (plot.bottom - plot.top);
      this.view = { plot, low, high, x, y, shown, log };

      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      this.svg.setAttribute("width", width);
      this.svg.setAttribute("height", height);
      set(this.clipRect, { x: plot.left, y: plot.top - 2, width: plot.right - plot.left, height: plot.bottom - plot.top + 4 });
      this.drawGrid(plot, low, high, bottom, top, x, y, log, any);
      this.drawLines(shown, x, y, low, high, log);
      this.drawMarks(plot, low, high, x);
      this.drawCross();
      this.svg.setAttribute("aria-label", this.inWords(all));
    }

    range(shown, low, high, log) {
      const values = [], certain = [];
      for (const one of shown) {
        one.x.forEach((at, index) => {
          if (at < low || at > high) return;
          for (const value of [one.y[index], one.low?.[index], one.high?.[index]]) if (valid(value, log)) values.push(value);
          const sure = one.smooth ? one.smooth[index] : one.raw ? one.y[index] : null; // what is never an outlier
          if (valid(sure, log)) certain.push(sure);
        });
      }
      let kept = values;
      if (this.setting("clip") && values.length > 20) {
        const sorted = Float64Array.from(values).sort();
        kept = [quantile(sorted, 0.02), quantile(sorted, 0.96), ...certain];
      }
      let bottom = Infinity, top = -Infinity;
      for (const value of kept) [bottom, top] = [Math.min(bottom, value), Math.max(top, value)];
      if (!(bottom <= top)) return log ? [0.1, 1] : [0, 1];
      if (log) {
        const space = Math.max(0.05, (Math.log(top) - Math.log(bottom)) * 0.06);
        return [bottom * Math.exp(-space), top * Math.exp(space)];
      }
      const space = (top - bottom || Math.abs(top) || 1) * 0.06;
      // A value that is never negative has no room below zero.
      const least = bottom >= 0 && bottom - space < 0 ? 0 : bottom - space;
      return [this.value.y_zero ? Math.min(0, bottom) : least, top + space];
    }

    drawGrid(plot, low, high, bottom, top, x, y, log, any) {
      const rows = Math.max(2, Math.round((plot.bottom - plot.top) / 36)), columns = Math.max(2, Math.round((plot.right - plot.left) / 90));
      const parts = [];
      if (any) {
        for (const tick of log ? logTicks(bottom, top, rows) : linearTicks(bottom, top, rows)) {
          const at = Math.round(y(tick)) + 0.5;
          parts.push(["line", { x1: plot.left, x2: plot.right, y1: at, y2: at }], ["text", { x: plot.left - 8, y: at + 3.5, "text-anchor": "end" }, valueText(tick)]);
        }
        for (const tick of linearTicks(low, high, columns, true)) {
          const at = Math.round(x(tick)) + 0.5;
          parts.push(["line", { x1: at, x2: at, y1: plot.bottom, y2: plot.bottom + 4, class: "tick" }], ["text", { x: at, y: plot.bottom + 16, "text-anchor": "middle" }, stepText(tick)]);
        }
      }
      if (any) parts.push(["line", { x1: plot.left, x2: plot.right, y1: plot.bottom + 0.5, y2: plot.bottom + 0.5, class: "axis" }]);
      if (any && this.value.x_label) parts.push(["text", { x: plot.right, y: plot.bottom + 30, "text-anchor": "end", class: "name" }, this.value.x_label]);
      if (any && this.value.y_label) parts.push(["text", { x: 8, y: plot.top - 8, "text-anchor": "start", class: "name" }, this.value.y_label]);
      fill(this.layers.grid, parts);
    }

    drawLines(shown, x, y, low, high, log) {
      const bands = [], raw = [], lines = [];
      for (const one of shown) {
        if (one.low && one.high) bands.push(["path", { d: band(one, x, y, log), fill: one.color }]);
        const main = one.smooth || one.y;
        if (one.smooth) raw.push(["path", { d: path(one.x, one.y, x, y, low, high, log), stroke: one.color }]);
        lines.push(["path", { d: path(one.x, main, x, y, low, high, log), stroke: one.color, "stroke-dasharray": one.dashed ? "5 4" : "none" }]);
        const alone = one.points ? one.x.map((_, index) => index) : lonely(one.x, main, log);
        for (const index of alone) {
          if (valid(main[index], log)) lines.push(["circle", { cx: x(one.x[index]), cy: y(main[index]), r: one.points ? 3 : 2, fill: one.color }]);
        }
      }
      fill(this.layers.bands, bands);
      fill(this.layers.raw, raw);
      fill(this.layers.lines, lines);
    }

    drawMarks(plot, low, high, x) {
      const parts = [];
      const ends = [];
      const marks = (this.value.marks || []).filter((mark) => mark.x >= low && mark.x <= high).sort((one, other) => one.x - other.x);
      for (const mark of marks) {
        const at = Math.round(x(mark.x)) + 0.5, ink = color(mark.color ?? "grey");
        parts.push(["line", { x1: at, x2: at, y1: plot.top, y2: plot.bottom, stroke: ink }]);
        if (!mark.label || mark.quiet) continue;
        // A label goes into the first row where it has room; where none has, the crosshair still tells it.
        const long = mark.label.length * 6.1 + 10, left = at + long > plot.right;
        const from = left ? at - long : at, row = [0, 1, 2].find((number) => (ends[number] ?? -Infinity) <= from);
        if (row === undefined) continue;
        ends[row] = from + long;
        parts.push(["text", { x: left ? at - 4 : at + 4, y: plot.top + 10 + 13 * row, "text-anchor": left ? "end" : "start", class: "halo", fill: ink }, mark.label]);
      }
      fill(this.layers.marks, parts);
    }

    // -------------------------------------------------------------- pointer

    listen() {
      const body = this.body;
      let from = null;
      const at = (event) => {
        const { plot, low, high } = this.view;
        const place = event.clientX - body.getBoundingClientRect().left;
        return low + ((Math.min(plot.right, Math.max(plot.left, place)) - plot.left) / (plot.right - plot.left)) * (high - low);
      };
      body.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || !this.view || !this.note.hidden) return;
        from = at(event);
        body.setPointerCapture(event.pointerId);
      });
      body.addEventListener("pointermove", (event) => {
        if (!this.view) return;
        this.point(at(event));
        if (from === null) return;
        const { plot, x } = this.view;
        const [left, right] = [x(from), x(at(event))].sort((one, other) => one - other);
        set(this.brush, { x: left, y: plot.top, width: right - left, height: plot.bottom - plot.top, visibility: right - left > 4 ? "visible" : "hidden" });
      });
      const end = (event) => {
        if (from === null) return;
        const [low, high] = [from, at(event)].sort((one, other) => one - other);
        const wide = this.view.x(high) - this.view.x(low) > 8;
        from = null;
        this.brush.setAttribute("visibility", "hidden");
        if (wide && event.type === "pointerup") this.zoomTo([low, high]);
      };
      body.addEventListener("pointerup", end);
      body.addEventListener("pointercancel", end);
      body.addEventListener("pointerleave", () => this.point(null));
      body.addEventListener("dblclick", () => this.zoomTo(null));
    }

    linked() {
      return this.value.link ? links.get(this.value.link) : [this];
    }

    zoomTo(range) {
      for (const chart of this.linked()) {
        chart.zoom = range;
        chart.schedule();
      }
    }

    point(at) {
      for (const chart of this.linked()) {
        chart.pointer = at === null ? null : { x: at, own: chart === this };
        chart.drawCross();
      }
    }

    drawCross() {
      const { pointer, view } = this;
      if (!pointer || !view || !this.note.hidden) {
        this.tip.hidden = true;
        fill(this.layers.cross, []);
        return;
      }
      const { plot, low, high, x, y, shown, log } = view;
      // The crosshair snaps to the points there are: the nearest x of the longest series.
      const longest = shown.reduce((best, one) => (one.x.length > (best?.x.length ?? 0) ? one : best), null);
      if (!longest) return;
      const where = longest.x[nearest(longest.x, pointer.x)];
      if (where < low || where > high) {
        this.tip.hidden = true;
        fill(this.layers.cross, []);
        return;
      }
      const place = Math.round(x(where)) + 0.5;
      const parts = [["line", { x1: place, x2: place, y1: plot.top, y2: plot.bottom }]];
      const rows = [];
      for (const one of shown) {
        const index = nearest(one.x, where);
        const value = one.x.length ? one.y[index] : null;
        const main = one.smooth ? one.smooth[index] : value;
        if (valid(main, log)) parts.push(["circle", { cx: x(one.x[index]), cy: Math.min(plot.bottom, Math.max(plot.top, y(main))), r: 3.5, fill: one.color }]);
        const near = valid(value, false) && Math.abs(x(one.x[index]) - place) < Math.max(6, (plot.right - plot.left) / 40);
        const text = !near ? "–" : one.smooth ? `${valueText(main)} (${valueText(value)})` : valueText(value);
        rows.push(h("span", { class: "key" }, h("i", { style: { background: one.color } }), one.label ?? one.name), h("b", {}, text));
      }
      const close = (this.value.marks || []).filter((mark) => mark.label && Math.abs(x(mark.x) - place) < 5);
      fill(this.layers.cross, parts);
      this.tip.hidden = !pointer.own;
      if (!pointer.own) return;
      this.tip.replaceChildren(
        h("div", { class: "at" }, `${this.value.x_label || T("Step")} ${Number(where.toPrecision(8))}`),
        h("div", { class: "rows" }, rows),
        ...close.map((mark) => h("div", { class: "mark" }, mark.label)),
      );
      const wide = this.tip.offsetWidth;
      const left = place + 12 + wide > this.body.clientWidth ? Math.max(0, place - 12 - wide) : place + 12;
      this.tip.style.transform = `translate(${left}px, ${plot.top + 6}px)`;
    }

    /** What a screen reader says: each series with its last value. */
    inWords(all) {
      const parts = all.map((one) => {
        const last = one.y.findLastIndex((value) => valid(value, false));
        return last < 0 ? null : `${one.label ?? one.name}: ${valueText(one.y[last])} (${this.value.x_label || T("Step")} ${one.x[last]})`;
      });
      return [this.value.label || this.value.y_label, ...parts].filter(Boolean).join("; ") || T("No points yet");
    }
  }

  // ---------------------------------------------------------------- shapes

  const color = (name) => (COLORS.includes(name) ? `var(--nosnja-${name})` : name);
  const set = (element, attributes) => {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  };

  /** Makes a layer's children what `parts` says, using again those that are there: nothing flickers. */
  const fill = (layer, parts) => {
    parts.forEach(([tag, attributes, text], index) => {
      let element = layer.children[index];
      if (!element || element.tagName !== tag) {
        const made = h(`svg:${tag}`);
        element ? element.replaceWith(made) : layer.append(made);
        element = made;
      }
      for (const { name } of [...element.attributes]) if (!(name in attributes)) element.removeAttribute(name);
      set(element, attributes);
      if ((text ?? "") !== element.textContent) element.textContent = text ?? "";
    });
    while (layer.children.length > parts.length) layer.lastChild.remove();
  };

  /** A line through the values; begins anew after a gap. What lies outside [low, high] is left out, but for its nearest points. */
  const path = (xs, ys, x, y, low, high, log) => {
    const first = Math.max(0, xs.findIndex((at) => at >= low) - 1);
    let pen = "M", text = "";
    for (let index = first; index < xs.length; index++) {
      if (!valid(ys[index], log)) {
        pen = "M";
        continue;
      }
      text += `${pen}${x(xs[index]).toFixed(1)} ${y(ys[index]).toFixed(1)}`;
      pen = "L";
      if (xs[index] > high) break;
    }
    return text;
  };

  const band = (one, x, y, log) => {
    const inside = one.x.map((_, index) => index).filter((index) => valid(one.low[index], log) && valid(one.high[index], log));
    if (!inside.length) return "";
    const upper = inside.map((index) => `${x(one.x[index]).toFixed(1)} ${y(one.high[index]).toFixed(1)}`);
    const lower = inside.reverse().map((index) => `${x(one.x[index]).toFixed(1)} ${y(one.low[index]).toFixed(1)}`);
    return `M${[...upper, ...lower].join("L")}Z`;
  };

  /** Points without neighbours, which no line shows. */
  const lonely = (xs, ys, log) => xs.map((_, index) => index).filter((index) => valid(ys[index], log) && !valid(ys[index - 1], log) && !valid(ys[index + 1], log));
})();
