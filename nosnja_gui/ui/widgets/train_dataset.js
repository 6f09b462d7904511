// Which pictures are trained on. props.value: {name, path, pictures}. Fires "go" {tab} to open the tab where they are chosen.
const {h, T} = nosnja;
const root = element.firstElementChild;
const draw = () => {
  const {name, path, pictures} = props.value || {};
  const open = () => trigger("go", {tab: "dataset"});
  root.replaceChildren(
    h("span", {class: "nosnja-train-label"}, T("Pictures")),
    h(
      "div",
      {class: "nosnja-train-dataset"},
      name
        ? [h("b", {title: path}, name), h("span", {class: "nosnja-muted"}, T("Pictures: {count}", {count: pictures || 0}))]
        : [h("span", {class: "nosnja-muted"}, T("No pictures are open yet."))],
      h("button", {type: "button", class: "nosnja-button", onclick: open}, name ? T("Change") : T("Choose pictures")),
    ),
  );
};
watch("value", draw);
draw();
