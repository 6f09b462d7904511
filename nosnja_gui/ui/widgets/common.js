// What all widgets share: texts in the browser's language, elements without innerHTML, numbers and times as people write them.
(() => {
  // In the window the page brings the texts of its browser's language along; elsewhere `nosnja.texts` holds all languages.
  const brought = ((window.gradio_config || {}).i18n_translations || {}).en;
  const wanted = navigator.languages && navigator.languages.length ? navigator.languages : [navigator.language || "en"];
  const known = Object.keys(nosnja.texts || {});
  const found = wanted.map((wish) => known.find((name) => name === wish) || known.find((name) => name === wish.split("-")[0])).find(Boolean);
  const catalogue = brought || (nosnja.texts || {})[found] || {};
  nosnja.language = (brought ? brought["nosnja:language"] : found) || "en";

  /** The text in the user's language, with {names} filled in. */
  nosnja.T = (text, values = {}) =>
    (catalogue[text] || text).replace(/\{(\w+)\}/g, (mark, name) => (name in values ? values[name] : mark));

  /** What the state of a run is called, on every tab. */
  nosnja.STATES = {
    new: nosnja.T("Not started"), queued: nosnja.T("Waiting"), running: nosnja.T("Running"), finished: nosnja.T("Finished"),
    stopped: nosnja.T("Stopped"), failed: nosnja.T("Failed"), crashed: nosnja.T("Crashed"),
  };

  /** h("button", {class: "x", onclick: f, dataset: {id: 1}}, "text", child): an element; texts stay texts. */
  nosnja.h = (tag, attributes = {}, ...children) => {
    const svg = tag.startsWith("svg:");
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on") && typeof value === "function") made.addEventListener(name.slice(2), value);
      else if (name === "dataset") Object.assign(made.dataset, value);
      else if (name === "style" && typeof value === "object") Object.assign(made.style, value);
      else if (name === "value" && !svg) made.value = value;
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
    return made;
  };

  /** 0.000123456 -> "1.23e-4", 0.0312 -> "0.0312". */
  nosnja.number = (value, digits = 3) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(Math.max(0, digits - 1)).replace(/\.?0+e/, "e");
    return String(Number(value.toPrecision(digits)));
  };

  /** Seconds -> "45 s", "3 min 20 s", "2 h 5 min". */
  nosnja.duration = (seconds) => {
    if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
    const whole = Math.round(seconds);
    if (whole < 120) return `${whole} s`;
    if (whole < 7200) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  };

  nosnja.bytes = (count) =>
    count >= 2 ** 30 ? `${(count / 2 ** 30).toFixed(1)} GB` : count >= 2 ** 20 ? `${(count / 2 ** 20).toFixed(0)} MB` : `${Math.ceil(count / 1024)} KB`;

  /** How much of a job is done, of all that there is: steps, pictures; bytes of a download. */
  nosnja.amount = (kind, done, total = 0) => {
    if (kind !== "download") return total ? `${done} / ${total}` : String(done);
    const [one, all] = [nosnja.bytes(done), nosnja.bytes(total)].map((text) => text.split(" "));
    return !total ? one.join(" ") : `${one[0]}${one[1] === all[1] ? "" : ` ${one[1]}`} / ${all.join(" ")}`;
  };

  /** Shows `message` at the field of that dotted setting (elem_id "field-optimizer-learning_rate"); no message takes it away. */
  nosnja.mark = (setting, message, prefix = "field") => {
    const field = document.getElementById(`${prefix}-${setting.replaceAll(".", "-")}`);
    if (!field) return false;
    field.classList.toggle("nosnja-invalid", Boolean(message));
    field.querySelector(":scope > .nosnja-field-error")?.remove();
    if (message) field.append(nosnja.h("div", {class: "nosnja-field-error", role: "alert"}, message));
    return true;
  };
})();
