// Loss and learning rate of a run, one above the other. props.value: see Monitor.plots in ui/monitor.py.
const { h, T, number } = nosnja;
const root = element.firstElementChild;
const loss = h("div", { id: "monitor-loss" });
const rates = h("div", { id: "monitor-rates" });
const card = h("div", { class: "nosnja-card nosnja-plots" }, loss, rates);
root.replaceChildren(card);

const RATES = {
  unet: T("Learning rate"), transformer: T("Learning rate"),
  text_encoder: T("Text encoder"), text_encoder_2: T("Text encoder {number}", { number: 2 }), text_encoder_3: T("Text encoder {number}", { number: 3 }),
};

const marks = (value) =>
  (value.marks || []).map(([x, what, detail]) => {
    if (what === "rate") return { x, label: `${T("learning rate")} ${number(detail)}`, color: "amber" };
    if (what === "resumed") return { x, label: T("gone on"), color: "blue" };
    return { x, label: T("saved {file}", { file: detail }), color: "grey", quiet: true };
  });

const draw = () => {
  const value = props.value || {};
  const there = Boolean(value.run) && !["grid", "caption", "download"].includes(value.kind);
  card.hidden = !there;
  card.closest(".column")?.classList.toggle("nosnja-away", !there);
  if (!there) return;
  const live = value.state === "running";
  const losses = { name: "loss", label: T("Loss"), color: "accent", x: value.steps || [], y: value.losses || [], low: value.lows, high: value.highs };
  const held = value.validation || [];
  // Both plots show the same steps, so that what stands one above the other happened at once.
  const all = [...(value.steps || []), ...held.map(([step]) => step)];
  const x_range = all.length ? [Math.min(...all), Math.max(...all)] : null;
  const series = [losses];
  if (held.length) series.push({ name: "validation", label: T("Held-out loss"), color: "blue", raw: true, points: true, x: held.map(([step]) => step), y: held.map(([, one]) => one) });
  nosnja.chart(loss, {
    key: value.run, x_range, series, marks: marks(value), x_label: T("Step"), y_label: T("Loss"), label: T("Loss by step"), height: 290, smoothing: 0.9, clip: true,
    tools: ["smoothing", "log", "clip"], remember: "monitor-loss", link: "monitor",
    empty: live ? T("The loss appears here after the first steps.") : T("This run has no loss: it made no steps."),
  });
  const names = Object.keys(value.rates || {});
  const colors = ["green", "mauve", "amber", "blue"];
  nosnja.chart(rates, {
    key: value.run, x_range, height: 132, x_label: T("Step"), y_label: T("Learning rate"), label: T("Learning rate by step"), link: "monitor", y_zero: true,
    series: names.map((name, index) => ({ name, label: RATES[name] || name, color: colors[index % colors.length], x: value.rate_steps, y: value.rates[name], dashed: index > 0 })),
    marks: marks(value).filter((mark) => !mark.quiet), empty: T("The learning rate appears here."),
  });
};
watch("value", draw);
draw();
