// Under the list of presets: what the chosen one is for, what was changed since, and the buttons to keep, drop and reset.
// Settings of another trainer are brought along from here, too: a dialog lists what became of each.
// props.value: {title, about, own, changed: [settings], labels: [their names], said, at}; after "bring" also refused (a sentence), or
// brought: {title, files, lines: [{key, value, verdict, ours: [[name, value]], reason, given}], personal: {setting: value}, offered: [[name, value]]}
// Fires "reset", "save" {title, about}, "remove", "bring" {files: [{name, text}]}, "fill" {changes}.
const {h, T} = nosnja;
const root = element.firstElementChild;
const button = (text, action, extra = {}) => h("button", {type: "button", class: "nosnja-button", onclick: action, ...extra}, text);

const about = h("p", {class: "nosnja-train-about"});
const badge = h("span", {class: "nosnja-badge warning"});
const reset = button(T("Reset"), () => trigger("reset"), {title: T("Back to the preset's values")});
const keep = button(T("Save preset"), () => ask(true));
const MOST_BYTES = 600000; // more than is taken: what is too large is refused, and not sent whole
const file = h("input", {type: "file", accept: ".json,.toml", multiple: true, hidden: true});
const bring = button(T("From another trainer…"), () => file.click(), {title: T("Take over the settings of kohya_ss, sd-scripts or OneTrainer, and see what became of each")});
file.addEventListener("change", async () => {
  const files = await Promise.all([...file.files].map(async (one) => ({name: one.name, text: await one.slice(0, MOST_BYTES).text()})));
  file.value = "";
  // The settings go first, then what belongs to them, such as a dataset's.
  const isAPart = ({text}) => /^\s*\[\[datasets\]\]/m.test(text) || /^\s*\[\s*\{/.test(text);
  if (files.length) trigger("bring", {files: files.sort((one, other) => isAPart(one) - isAPart(other))});
});
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

const VERDICTS = [
  ["approximated", T("Approximated"), "warning"],
  ["no counterpart", T("No counterpart"), "error"],
  ["taken", T("Taken over"), "good"],
  ["ignored", T("Ignored"), ""],
];
const dialog = h("dialog", {class: "nosnja-brought", "aria-label": T("Settings of another trainer"), onclick: (event) => event.target === dialog && dialog.close()});
const kept = h("input", {type: "text", class: "nosnja-train-title", maxlength: 60, placeholder: T("Name of the preset"), "aria-label": T("Name of the preset")});
const refused = h("p", {class: "nosnja-field-error", role: "alert"});
let brought = null;
const saveBrought = () => {
  if (!kept.value.trim()) return kept.focus();
  asked = true;
  trigger("save", {title: kept.value, about: T("Taken over from {title}: {files}.", {title: brought.title, files: brought.files.join(", ")})});
};
kept.addEventListener("keydown", (event) => event.key === "Enter" && saveBrought());

const line = ({key, value, ours, reason, given}) =>
  h(
    "li",
    {},
    h("span", {class: "theirs"}, h("code", {}, key), h("span", {}, value), given ? null : h("i", {}, T("not in the file"))),
    h("span", {class: "ours"}, ours.map(([name, own]) => h("span", {}, `${name}: `, h("b", {}, own)))),
    reason ? h("small", {}, reason) : null,
  );

const show = () => {
  const sections = VERDICTS.map(([verdict, title, kind]) => [title, kind, brought.lines.filter((one) => one.verdict === verdict)]);
  const details = sections.map(([title, kind, lines]) =>
    h("details", {open: kind !== "", hidden: !lines.length}, h("summary", {}, title, h("span", {class: `nosnja-badge ${kind}`}, lines.length)), h("ul", {}, lines.map(line))),
  );
  const jump = (one) => {
    one.open = true;
    one.scrollIntoView({block: "start"});
  };
  const fill = button(T("Put them into the form, too"), () => (trigger("fill", {changes: brought.personal}), (offer.hidden = true)));
  const offer = h("p", {class: "offer", hidden: !brought.offered.length}, h("span", {}, T("Of that training alone:"), " ", brought.offered.map(([name, own]) => `${name}: ${own}`).join("; ")), fill);
  dialog.replaceChildren(
    h(
      "div",
      {class: "inner"},
      h("header", {}, h("h3", {}, T("Settings of another trainer")), h("span", {class: "nosnja-muted"}, `${brought.title}: ${brought.files.join(", ")}`)),
      h("p", {}, T("The form has been filled in. This is what became of each line.")),
      h("nav", {}, sections.map(([title, kind, lines], number) => h("button", {type: "button", class: `nosnja-badge ${kind}`, disabled: !lines.length, onclick: () => jump(details[number])}, `${title}: ${lines.length}`))),
      offer,
      h("div", {class: "lines", tabindex: "0"}, details),
      refused,
      h("footer", {}, kept, button(T("Save preset"), saveBrought, {class: "nosnja-button primary"}), h("span", {class: "gap"}), button(T("Close"), () => dialog.close())),
    ),
  );
  refused.textContent = "";
  kept.value = brought.files[0].replace(/\.\w+$/, "").slice(0, 60);
  if (!dialog.open) dialog.showModal();
  dialog.querySelector(".lines").scrollTop = 0;
};
let heard = 0;

const ask = (open) => {
  form.hidden = !open;
  keep.hidden = bring.hidden = open;
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
  if ((value.brought || value.refused) && value.at !== heard) {
    heard = value.at;
    ask(false);
    said.textContent = value.refused || "";
    brought = value.brought || brought;
    if (value.brought) show();
  } else if (value.said && value.at !== heard && dialog.open) {
    heard = value.at;
    asked = false;
    refused.textContent = value.said;
  } else if (value.said && value.at !== heard) {
    heard = value.at;
    ask(true);
    title.value = title.dataset.last || title.value;
    said.textContent = value.said;
  } else if (asked) {
    ask(false);
    dialog.close();
  } else if (form.hidden && !value.refused) {
    said.textContent = "";
  }
};
title.addEventListener("input", () => (title.dataset.last = title.value));
root.replaceChildren(about, h("div", {class: "nosnja-train-actions"}, badge, reset, h("span", {class: "gap"}), drop, bring, keep, form), said, file, dialog);
ask(false);
watch("value", draw);
draw();
