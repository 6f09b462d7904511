// What the captioner called the thing: nouns with the number of captions they are in; a click takes one, another gives it back.
const T = nosnja.T;
const h = nosnja.h;
const root = element.querySelector(".nosnja-trigger_nouns");

function draw() {
  const nouns = props.value || [];
  const focused = root.contains(document.activeElement) ? document.activeElement.dataset.noun : null;
  root.replaceChildren(
    ...(nouns.length ? [h("span", {class: "nosnja-muted"}, T("Found in the captions:"))] : []),
    ...nouns.map((entry) =>
      h("button", {
        type: "button",
        class: entry.chosen ? "nosnja-chip chosen" : "nosnja-chip",
        "aria-pressed": entry.chosen ? "true" : "false",
        title: T("Captions with this noun: {count}", {count: entry.count}),
        dataset: {noun: entry.noun},
        onclick: () => trigger("pick", {noun: entry.noun}),
      }, h("span", {}, entry.noun), h("small", {}, String(entry.count)))),
  );
  if (focused) [...root.querySelectorAll("button")].find((button) => button.dataset.noun === focused)?.focus();
}

watch("value", draw);
draw();
