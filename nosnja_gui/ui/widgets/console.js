// What a run prints: the last lines, at the end unless the user scrolled up. props.value: see Monitor.console.
const { h, T } = nosnja;
const root = element.firstElementChild;
const END = 24;

const text = h("pre", { id: "monitor-console-text", tabindex: 0, role: "log", "aria-label": T("Console") });
const copy = h("button", { type: "button", class: "nosnja-button small", onclick: () => copyText() }, T("Copy"));
const card = h("div", { class: "nosnja-card nosnja-console-card" }, h("div", { class: "nosnja-console-head" }, h("h3", {}, T("Console")), copy), text);
root.replaceChildren(card);

const copyText = async () => {
  try {
    await navigator.clipboard.writeText(text.textContent);
    copy.textContent = T("Copied");
  } catch {
    getSelection().selectAllChildren(text);
    copy.textContent = T("Selected: press Ctrl+C");
  }
  setTimeout(() => (copy.textContent = T("Copy")), 2000);
};

let run = "";
const draw = () => {
  const value = props.value || {};
  card.hidden = !value.run;
  const atEnd = run !== value.run || text.scrollHeight - text.scrollTop - text.clientHeight < END;
  run = value.run;
  const words = value.text || (value.there ? "" : T("What a run prints appears here. One that was started in a terminal prints there."));
  text.classList.toggle("nosnja-muted", !value.text);
  copy.disabled = !value.text;
  if (text.textContent !== words) text.textContent = words;
  if (atEnd) text.scrollTop = text.scrollHeight;
};
watch("value", draw);
draw();
// A tab that was not open had no height to scroll in.
new IntersectionObserver(() => { if (!text.scrollTop) text.scrollTop = text.scrollHeight; }).observe(text);
