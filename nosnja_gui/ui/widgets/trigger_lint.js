// The trigger word as the model reads it, piece by piece, and what is good to know about it.
const T = nosnja.T;
const h = nosnja.h;
const root = element.querySelector(".nosnja-trigger_lint");

function draw() {
  const value = props.value || {};
  nosnja.mark("trigger-word", value.error || "");
  const pieces = value.pieces || [];
  const word = pieces.length
    ? h("div", {class: "nosnja-pieces", title: T("The pieces (CLIP tokens) as which the model reads the word")}, pieces.map((piece) => h("span", {}, piece)))
    : null;
  const remarks = (value.remarks || []).map((remark) =>
    h("li", {class: remark.warning ? "warning" : "", dataset: {kind: remark.kind}},
      h("i", {"aria-hidden": "true"}, remark.warning ? "!" : remark.kind === "ends_in_word" ? "i" : "✓"),
      h("span", {}, remark.text)));
  const proposals = value.proposals || [];
  const chips = proposals.length
    ? h("div", {class: "nosnja-proposals"},
        h("span", {class: "nosnja-muted"}, T("Rare words that mean nothing:")),
        proposals.map((proposal) =>
          h("button", {type: "button", class: "nosnja-chip", title: T("Take it as the trigger word"), onclick: () => trigger("pick", {word: proposal})}, proposal)))
    : null;
  root.replaceChildren(...[word, h("ul", {class: "nosnja-remarks", "aria-live": "polite"}, remarks), chips].filter(Boolean));
}

watch("value", draw);
draw();
