// Under the list of presets: what the chosen one is for, what was changed since, and the buttons to keep, drop and reset.
// props.value: {title, about, own, changed: [settings], labels: [their names], said, at}
// Fires "reset", "save" {title}, "remove".
const {h, T} = nosnja;
const root = element.firstElementChild;
const button = (text, action, extra = {}) => h("button", {type: "button", class: "nosnja-button", onclick: action, ...extra}, text);

const about = h("p", {class: "nosnja-train-about"});
const badge = h("span", {class: "nosnja-badge warning"});
const reset = button(T("Reset"), () => trigger("reset"), {title: T("Back to the preset's values")});
const keep = button(T("Save preset"), () => ask(true));
const drop = button(T("Delete preset"), () => trigger("remove"));
const title = h("input", {type: "text", class: "nosnja-train-title", maxlength: 60, placeholder: T("Name of the preset"), "aria-label": T("Name of the preset")});
const save = () => {
  if (!title.value.trim()) return title.focus();
  asked = true;
  trigger("save", {title: title.value});
};
const form = h("div", {class: "nosnja-train-save"}, title, button(T("Save"), save, {class: "nosnja-button primary"}), button(T("Cancel"), () => ask(false)));
const said = h("p", {class: "nosnja-field-error", role: "alert"});
let asked = false;
let heard = 0;

const ask = (open) => {
  form.hidden = !open;
  keep.hidden = open;
  said.textContent = "";
  asked = false;
  if (!open) return;
  title.value = (props.value || {}).own ? props.value.title : "";
  title.focus();
};
title.addEventListener("keydown", (event) => {
  if (event.key === "Enter") save();
  if (event.key === "Escape") ask(false);
});

const draw = () => {
  const value = props.value || {};
  const changed = value.changed || [];
  about.textContent = value.about || "";
  about.title = value.about || "";
  badge.textContent = T("Changed: {count}", {count: changed.length});
  badge.title = (value.labels || []).join(", ");
  badge.style.visibility = reset.style.visibility = changed.length ? "visible" : "hidden";
  drop.hidden = !value.own;
  if (value.said && value.at !== heard) {
    heard = value.at;
    ask(true);
    title.value = title.dataset.last || title.value;
    said.textContent = value.said;
  } else if (asked) {
    ask(false);
  }
};
title.addEventListener("input", () => (title.dataset.last = title.value));
root.replaceChildren(about, h("div", {class: "nosnja-train-actions"}, badge, reset, h("span", {class: "gap"}), drop, keep, form), said);
ask(false);
watch("value", draw);
draw();
