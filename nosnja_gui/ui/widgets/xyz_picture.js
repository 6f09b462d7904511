// Settings out of a picture: chosen with the button or dropped anywhere on the tab; below it what was taken over and what was not.
const { h, T } = nosnja;
const root = element.querySelector(".nosnja-xyz_picture");
const TAKES = [".png", ".jpg", ".jpeg", ".webp"];
let busy = false;
let closed = null; // the answer that was read and put away

const picker = h("input", { type: "file", hidden: true, accept: TAKES.join(","), id: "grid-picture-file", onchange: () => { take([...picker.files]); picker.value = ""; } });
const button = h("button", { type: "button", class: "nosnja-button", id: "grid-picture-choose", onclick: () => picker.click() }, T("From a picture…"));
const hint = h("span", { class: "nosnja-muted" }, T("or drop one here: what it was painted with fills the form"));
const note = h("div", { class: "nosnja-note", role: "status", hidden: true });
root.replaceChildren(h("div", { class: "nosnja-xyz-picture-row" }, button, picker, hint), note);

async function take(files) {
  const file = files.find(({ name }) => TAKES.some((ending) => name.toLowerCase().endsWith(ending)));
  if (!files.length || busy) return;
  if (!file) { show({ text: T("{name} is no PNG, JPEG or WebP picture.", { name: files[0].name }), remarks: [], bad: true }); return; }
  button.disabled = busy = true;
  try {
    trigger("pick", { name: file.name, path: (await upload(file)).path });
  } catch {
    show({ text: T("{name} could not be copied.", { name: file.name }), remarks: [], bad: true });
  } finally {
    button.disabled = busy = false;
  }
}

function show(answer) {
  const { text = "", remarks = [], bad = false } = answer || {};
  note.hidden = !text || answer === closed;
  note.classList.toggle("error", Boolean(bad));
  note.replaceChildren(
    h("button", { type: "button", class: "nosnja-xyz-picture-close", title: T("Close"), "aria-label": T("Close"), onclick: () => { closed = answer; note.hidden = true; } }, "×"),
    h("p", {}, text),
    remarks.length ? h("ul", {}, remarks.map((remark) => h("li", {}, remark))) : "",
  );
}

nosnja.takeDrops(root, async (reading) => take((await reading.catch(() => [])).map(({ file }) => file)));
watch("value", () => show(props.value));
show(props.value);
