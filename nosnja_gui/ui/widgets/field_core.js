// A field for a number: a box that takes any number ("1e-4", too), a slider over its usual range, a switch where it may be left empty.
(() => {
  const h = nosnja.h;
  const T = nosnja.T;
  const MANTISSAS = [1, 1.1, 1.2, 1.3, 1.5, 1.6, 1.8, 2, 2.2, 2.4, 2.7, 3, 3.3, 3.6, 4, 4.5, 5, 5.6, 6, 6.8, 7.5, 8, 9];
  let made = 0;

  /** Numbers as people write them; nothing is rounded, so that what is shown is what is meant. */
  const written = (value) => {
    if (typeof value !== "number") return value === null || value === undefined ? "" : String(value);
    return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : String(value);
  };

  /** The number that a text says, the text itself where it says none, "" for nothing. */
  const meant = (text) => {
    const trimmed = text.trim();
    return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(trimmed) ? Number(trimmed) : trimmed;
  };

  /** What a slider's positions stand for, in rising order. */
  const positions = ({low, high, step, logarithmic}) => {
    const values = [];
    if (!logarithmic) {
      const count = Math.round((high - low) / step);
      for (let index = 0; index <= count; index++) values.push(Number((low + index * step).toPrecision(10)));
      return values;
    }
    if (step) {
      for (let power = step; power <= high; power *= 2) values.push(power, power * 1.25, power * 1.5);
    } else {
      for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade++)
        for (const mantissa of MANTISSAS) values.push(Number(`${mantissa}e${decade}`));
    }
    const fits = (value) => value >= low && value <= high && (!step || Number.isInteger(value / step));
    return [...new Set(values.filter(fits))].sort((one, other) => one - other);
  };

  const nearest = (values, wanted, logarithmic) => {
    const scaled = (value) => (logarithmic ? Math.log(Math.max(value, 1e-300)) : value);
    let best = 0;
    values.forEach((value, index) => {
      if (Math.abs(scaled(value) - scaled(wanted)) < Math.abs(scaled(values[best]) - scaled(wanted))) best = index;
    });
    return best;
  };

  /** Draws the field into `element`; `props.value` is the number, "" for none. `changed` is called when the user changed it. */
  nosnja.numberField = (element, props, watch, changed, {label: title, help, whole, slider, optional, empty: nothing, start}) => {
    const root = element.firstElementChild;
    const values = slider ? positions(slider) : [];
    const name = `nosnja-number-${++made}`;
    const label = T(title);
    let last = null; // what the switch turns on again
    const usual = () => Number(root.dataset.usual) || start;

    const box = h("input", {
      type: "text", id: name, class: "nosnja-number-box", inputmode: whole ? "numeric" : "decimal", autocomplete: "off", spellcheck: "false",
      maxlength: 40, placeholder: nothing ? T(nothing) : "", "aria-describedby": help ? `${name}-help` : null,
    });
    const range = !slider ? null : h("input", {type: "range", min: 0, max: values.length - 1, step: 1, "aria-label": label, class: "nosnja-number-range"});
    const toggle = !optional
      ? null
      : h("button", {type: "button", role: "switch", class: "nosnja-switch", "aria-label": label, title: T("On or off")}, h("i"));
    root.replaceChildren(
      h("div", {class: "nosnja-number-head"}, h("label", {for: name, class: "nosnja-number-label"}, label), toggle),
      ...(help ? [h("div", {class: "nosnja-number-help", id: `${name}-help`}, T(help))] : []),
      h("div", {class: `nosnja-number-row ${slider ? "" : "bare"}`}, range, box),
    );

    const draw = () => {
      const value = props.value;
      if (nothing) {
        box.placeholder = root.dataset.usual || T(nothing);
        box.title = root.dataset.usual ? `${T(nothing)} (${root.dataset.usual})` : "";
      }
      const empty = value === "" || value === null || value === undefined;
      if (!(document.activeElement === box && meant(box.value) === (empty ? "" : value))) box.value = written(value);
      root.classList.toggle("off", Boolean(optional && empty));
      if (toggle) toggle.setAttribute("aria-checked", String(!empty));
      if (!empty && typeof value === "number") last = value;
      if (range) {
        const shown = typeof value === "number" ? value : typeof last === "number" ? last : usual() ?? values[0];
        range.value = nearest(values, shown, slider.logarithmic);
        range.setAttribute("aria-valuetext", empty ? T(nothing || "") : written(value));
        range.style.setProperty("--filled", `${(100 * range.value) / Math.max(1, values.length - 1)}%`);
      }
    };
    const set = (value) => {
      if (value === props.value) return;
      props.value = value;
      draw();
      changed();
    };
    box.addEventListener("input", () => set(meant(box.value)));
    box.addEventListener("blur", draw);
    range?.addEventListener("input", () => set(values[Number(range.value)]));
    toggle?.addEventListener("click", () => set(root.classList.contains("off") ? last ?? usual() ?? values[0] ?? 1 : ""));
    watch("value", draw);
    root.addEventListener("nosnja-usual", draw);
    draw();
  };

  /** Tells the field of that dotted setting what it comes to when it is left empty. */
  nosnja.usual = (setting, value, prefix = "field") => {
    const field = document.querySelector(`#${prefix}-${setting.replaceAll(".", "-")} .nosnja-field-number`);
    if (!field || field.dataset.usual === String(value)) return;
    field.dataset.usual = value;
    field.dispatchEvent(new Event("nosnja-usual"));
  };
})();
