// How busy the machine is: a small gauge each. props.value: see Monitor.load in ui/monitor.py.
const { h, T } = nosnja;
const root = element.firstElementChild;
const card = h("div", { class: "nosnja-card nosnja-load", role: "group", "aria-label": T("The machine") });
root.replaceChildren(card);

const gauge = (label, share, words, title) => ({ label, share, words, title });
const hot = (share) => (share >= 0.93 ? "hot" : share >= 0.8 ? "warm" : "");

const gauges = (value) => {
  const found = [];
  for (const one of value.gpus || []) {
    if (one.percent !== null) found.push(gauge(T("GPU"), one.percent / 100, `${Math.round(one.percent)} %`, one.name));
    if (one.used !== null && one.total) found.push({ ...gauge(T("GPU memory"), one.used / one.total, `${one.used} / ${one.total} GB`, one.name), alarm: true });
    if (one.celsius !== null) found.push({ ...gauge(T("Temperature"), Math.min(1, one.celsius / 100), `${Math.round(one.celsius)} °C`, one.name), alarm: true });
    if (one.watts !== null) found.push(gauge(T("Power"), one.watts_limit ? one.watts / one.watts_limit : 0, one.watts_limit ? `${one.watts} / ${one.watts_limit} W` : `${one.watts} W`, one.name));
  }
  if (value.cpu !== null && value.cpu !== undefined && !(value.gpus || []).some((one) => one.percent !== null)) found.push(gauge(T("Processor"), value.cpu / 100, `${value.cpu} %`));
  if (value.memory && value.memory[1]) found.push({ ...gauge(T("Memory"), value.memory[0] / value.memory[1], `${value.memory[0]} / ${value.memory[1]} GB`, T("Of the machine")), alarm: true });
  return found;
};

const draw = () => {
  const value = props.value || {};
  const found = gauges(value);
  while (card.children.length > found.length) card.lastChild.remove();
  found.forEach((one, index) => {
    let row = card.children[index];
    if (!row) card.append((row = h("div", { class: "nosnja-load-row" }, h("span", { class: "name" }), h("b", {}), h("div", { class: "track" }, h("i", {})))));
    row.title = one.title || "";
    row.children[0].textContent = one.label;
    row.children[1].textContent = one.words;
    row.querySelector("i").style.width = `${Math.min(100, 100 * one.share)}%`;
    row.querySelector("i").className = one.alarm ? hot(one.share) : "";
  });
  if (!found.length) card.replaceChildren(h("span", { class: "nosnja-muted" }, T("Asking the machine …")));
};
watch("value", () => {
  if (card.firstChild && !card.firstChild.classList.contains("nosnja-load-row")) card.replaceChildren();
  draw();
});
draw();
