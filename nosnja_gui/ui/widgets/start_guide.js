// The demo's sentence above a tab: what just happened here, and the way to the next tab.
const T = nosnja.T;
const h = nosnja.h;
const root = element.querySelector(".nosnja-start_guide");

const TITLES = {
  start: T("Back to Start"), trigger: T("Next: Trigger word"), train: T("Next: Train"), monitor: T("Next: Monitor"), xyz: T("Next: XYZ plot"),
};

function next() {
  window.scrollTo(0, 0);
  trigger("next", {});
}

function draw() {
  const value = props.value;
  if (!value) {
    root.replaceChildren();
    return;
  }
  const marks = {out: "del", in: "ins"};
  const example = value.example && value.example.length
    ? h("p", {class: "example"}, value.example.map(([kind, words]) => (marks[kind] ? [" ", h(marks[kind], {}, words.trim()), " "] : words))) : null;
  root.replaceChildren(...[
    h("div", {role: "note"}, h("p", {}, h("b", {}, T("Demo:")), " ", value.text), example),
    value.to ? h("button", {type: "button", class: "nosnja-button primary", onclick: next}, TITLES[value.to]) : null,
    h("button", {type: "button", class: "nosnja-button close", "aria-label": T("Close"), title: T("Close"), onclick: () => trigger("close", {})}, "×"),
  ].filter(Boolean));
}

watch("value", draw);
draw();
