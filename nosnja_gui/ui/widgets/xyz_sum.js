// How large the grid of the form is and how long it takes, and what is wrong: here in words, and at the field.
const { h, T } = nosnja;
const root = element.querySelector(".nosnja-xyz_sum");
let marked = [];

/** Axes say what is wrong in their own line. */
const hasLine = (setting) => /^[xyz]\./.test(setting);

const mark = (setting, message) => nosnja.mark(setting, message, "grid");

function draw() {
  const { text = "", seconds = null, problems = {}, ready = false } = props.value || {};
  const wrong = Object.entries(problems).filter(([setting]) => !hasLine(setting));
  for (const setting of marked) if (!problems[setting]) mark(setting, "");
  marked = wrong.map(([setting]) => setting);
  // The fields may be drawn after this.
  requestAnimationFrame(() => wrong.forEach(([setting, message]) => mark(setting, message)));
  const time = seconds === null || !ready ? "" : T("about {time}", { time: nosnja.duration(Math.max(1, seconds)) });
  const count = Object.keys(problems).length;
  root.replaceChildren(
    h("div", { class: "nosnja-xyz-count" }, h("b", {}, text || "–"), time ? h("span", { class: "nosnja-muted" }, time) : ""),
    h("div", { class: "nosnja-xyz-problems", title: wrong.map(([, message]) => message).join("\n") },
      count ? T("To be put right before painting: {count}", { count }) : ""),
  );
}

watch("value", draw);
draw();
