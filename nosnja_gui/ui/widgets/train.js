// What the settings beside it come to: problems, the number of steps, the learning rate's curve, memory and time.
// props.value: see ui/train.py, `see`. Fires "advise" {changes} or {fit}, "suggest", "go" {tab}.
const {h, T} = nosnja;
const root = element.firstElementChild;
const whole = (number) => (Number.isFinite(number) ? Math.round(number).toLocaleString(nosnja.language) : "–");
const short = (number) => (Number.isFinite(number) ? Number(number.toFixed(1)).toLocaleString() : "–");

const parts = {};
const card = (name, title, ...inside) => {
  parts[name] = h("section", {class: `nosnja-card nosnja-train-${name}`}, title && h("h3", {}, title), ...inside);
  return parts[name];
};
const plot = h("div");
const body = (name) => (parts[`${name}-body`] = h("div", {class: `nosnja-train-${name}-body`}));
root.replaceChildren(
  card("problems", null, body("problems")),
  card("count", T("Steps"), body("count")),
  card("rate", T("Learning rate"), plot, body("rate")),
  card("cost", T("Memory and time"), body("cost")),
  card("pictures", T("Sizes of the pictures"), body("pictures")),
);

/** A big number with a word under it. */
const term = (number, word, extra = "") => h("span", {class: `term ${extra}`}, h("b", {}, number), h("i", {}, word));
const sign = (text) => h("span", {class: "sign"}, text);

const drawCount = (count) => {
  const exact = (count.pictures * count.repeats * count.epochs) / count.batch / count.accumulation;
  const terms = [term(whole(count.pictures), T("pictures")), sign("×"), term(whole(count.repeats), T("repeats")), sign("×"), term(whole(count.epochs), T("epochs"))];
  terms.push(sign("÷"), term(whole(count.batch), T("batch")));
  if (count.accumulation > 1) terms.push(sign("÷"), term(whole(count.accumulation), T("accumulated")));
  terms.push(sign(Math.abs(exact - count.total) < 0.5 ? "=" : "→"), term(whole(count.total), T("steps"), "sum"));
  const fact = (number, word) => h("li", {}, h("b", {}, number), " ", word);
  parts["count-body"].replaceChildren(
    h("div", {class: "equation"}, terms),
    h(
      "ul",
      {class: "facts"},
      fact(short(count.passes), T("times each picture is seen")),
      fact(whole(count.steps_per_epoch), T("steps an epoch")),
      fact(whole(count.saves), T("files saved")),
      fact(whole(count.samples), T("preview pictures")),
      count.held_out ? fact(whole(count.held_out), T("pictures held out")) : null,
    ),
  );
};

const drawRate = (value) => {
  nosnja.chart?.(plot, value.curve);
  const {alpha, rank, scale, rate, effective, preset} = value.scale;
  const times = preset ? effective / preset : 1;
  const compared =
    Math.abs(times - 1) < 0.005
      ? T("as much as with the preset")
      : times > 1
        ? T("{times} times the preset's", {times: nosnja.number(times, 2)})
        : T("{share} % of the preset's", {share: nosnja.number(100 * times, 2)});
  parts["rate-body"].replaceChildren(
    h(
      "p",
      {title: T("Two trainings compare by learning rate × scale, not by the learning rate alone.")},
      h("span", {}, T("Effective step:")),
      h("b", {}, nosnja.number(effective)),
      h("span", {class: "nosnja-muted"}, alpha === null ? `${nosnja.number(rate)} × ${nosnja.number(scale)}` : `= ${nosnja.number(rate)} × ${T("alpha")} ${nosnja.number(alpha)} ÷ ${T("rank")} ${rank}`),
      h("span", {class: `nosnja-badge ${times > 3 || times < 1 / 3 ? "warning" : ""}`}, compared),
    ),
  );
};

/** What the program chose when it was left to it. */
const fitted = (found) => {
  if (!found) return [];
  const line = (one) => h("li", {}, one.text, one.saves ? h("span", {class: "nosnja-muted"}, " ", T("saves {bytes}", {bytes: nosnja.bytes(one.saves)})) : null);
  return [
    ...(found.chosen.length ? [h("div", {class: "fitted"}, h("b", {}, T("Chosen:")), h("ul", {}, found.chosen.map(line)))] : []),
    ...(found.said ? [h("p", {class: "fitted-not"}, found.said)] : []),
  ];
};

const drawCost = (cost) => {
  const known = Number.isFinite(cost.memory) && cost.memory > 0;
  const room = cost.free || cost.of;
  const used = cost.of ? Math.max(0, cost.of - room) / cost.of : 0;
  const share = known && cost.of ? cost.memory / cost.of : 0;
  const state = cost.fits === false ? "over" : used + share > 0.9 ? "near" : "";
  const verdict =
    cost.fits === null || cost.fits === undefined || !cost.of
      ? T("unknown whether it fits")
      : cost.fits
        ? T("fits, {spare} spare", {spare: nosnja.bytes(Math.max(0, room - cost.memory))})
        : cost.memory > room
          ? T("does not fit, {lack} too much", {lack: nosnja.bytes(cost.memory - room)})
          : T("hardly fits, {spare} spare", {spare: nosnja.bytes(room - cost.memory)});
  parts["cost-body"].replaceChildren(
    h(
      "div",
      {class: "figures"},
      h("span", {}, h("b", {}, known ? nosnja.bytes(cost.memory) : "–"), " ", cost.of ? T("of {total}", {total: nosnja.bytes(cost.of)}) : T("memory"), cost.device ? ` (${cost.device})` : ""),
      h("span", {class: `nosnja-badge ${cost.fits === false ? "error" : cost.fits ? "good" : ""}`}, verdict),
      h("span", {class: "time"}, h("b", {}, Number.isFinite(cost.seconds) && cost.seconds !== null ? nosnja.duration(cost.seconds) : "–"), " ", T("time")),
    ),
    h("div", {class: `bar ${state}`, role: "img", "aria-label": verdict}, h("i", {class: "others", title: T("used by others"), style: {width: `${used * 100}%`}}), h("i", {style: {width: `${Math.min(1 - used, share) * 100}%`}})),
    h("p", {class: "nosnja-muted"}, cost.basis || ""),
    ...fitted(cost.fitted),
    ...(cost.advice || []).map((advice) =>
      h(
        "div",
        {class: "advice"},
        h("span", {}, advice.text),
        advice.saves ? h("span", {class: "nosnja-muted"}, T("saves {bytes}", {bytes: nosnja.bytes(advice.saves)})) : null,
        h("button", {type: "button", class: "nosnja-button", onclick: () => trigger("advise", {changes: advice.changes})}, T("Do it")),
      ),
    ),
    ...((cost.advice || []).length && cost.fits === false
      ? [
          h(
            "div",
            {class: "advice fit"},
            h("span", {}, T("All that is needed at once, what leaves the result as it is first.")),
            h(
              "button",
              {type: "button", class: "nosnja-button primary", onclick: () => trigger("advise", {fit: true})},
              cost.device ? T("Fit to my GPU") : T("Fit to this machine"),
            ),
          ),
        ]
      : []),
  );
};

const drawPictures = (buckets, notes) => {
  const largest = Math.max(1, ...buckets.flatMap(([width, height]) => [width, height]));
  parts.pictures.hidden = !buckets.length && !notes.length;
  parts["pictures-body"].replaceChildren(
    h(
      "div",
      {class: "buckets"},
      buckets.slice(0, 24).map(([width, height, count]) =>
        h(
          "span",
          {title: T("{width} × {height}: {count} pictures", {width, height, count})},
          h("i", {style: {width: `${(34 * width) / largest}px`, height: `${(34 * height) / largest}px`}}, String(count)),
          h("small", {}, `${width}×${height}`),
        ),
      ),
      buckets.length > 24 ? h("small", {}, T("and {count} more", {count: buckets.length - 24})) : null,
    ),
    ...notes.map((note) => h("p", {class: "nosnja-muted"}, note)),
  );
};

/** Opens the group that hides the field, if it is closed, and puts the cursor into it. */
const show = (name) => {
  const id = `field-${name.replaceAll(".", "-")}`;
  const go = () => {
    const field = document.getElementById(id);
    if (!field || !field.offsetParent) return false;
    field.scrollIntoView({block: "center", behavior: "smooth"});
    (field.querySelector(".nosnja-number-box, textarea, input[type=text]") || field.querySelector("input, button"))?.focus({preventScroll: true});
    return true;
  };
  if (go()) return;
  document.querySelector(`#train-more-${name.split(".")[0]} button`)?.click();
  setTimeout(go, 200);
};

const drawProblems = (problems) => {
  parts.problems.hidden = !problems.length;
  parts["problems-body"].replaceChildren(
    h("h3", {}, T("Before you can start")),
    h(
      "ul",
      {},
      problems.map((problem) =>
        h(
          "li",
          {},
          problem.label ? h("button", {type: "button", onclick: () => show(problem.name)}, problem.label) : null,
          h("span", {}, problem.text),
        ),
      ),
    ),
  );
};

// The prompts' button stands where it is needed: in the form, under the empty box.
const suggest = h("button", {type: "button", class: "nosnja-button nosnja-train-suggest", onclick: () => trigger("suggest")}, T("Suggest prompts from the captions"));

// The picture of the noise levels stands where they are set: above the fields of their group, once that is opened.
const noise = h("div", {class: "nosnja-train-noise"});
const drawNoise = (chart) => {
  const fields = document.querySelector("#train-more-loss .nosnja-fields");
  if (fields && noise.nextElementSibling !== fields) fields.before(noise);
  if (noise.isConnected && chart) nosnja.chart?.(noise, chart);
};

// Fields of a tab or a group that was never opened are not in the page yet, so marks are set again when some come.
let marked = [];
const mark = () => {
  const value = props.value || {};
  const marks = value.marks || {};
  for (const name of marked) if (!(name in marks)) nosnja.mark(name, "");
  for (const [name, text] of Object.entries(marks)) {
    const field = document.getElementById(`field-${name.replaceAll(".", "-")}`);
    if (field?.querySelector(":scope > .nosnja-field-error")?.textContent !== text) nosnja.mark(name, text);
  }
  marked = Object.keys(marks);
  for (const [name, side] of Object.entries(value.usual || {})) nosnja.usual(name, side);
  const prompts = document.getElementById("field-preview-prompts");
  if (prompts && suggest.parentElement !== prompts) prompts.append(suggest);
  suggest.hidden = !value.suggest;
  drawNoise(value.noise);
  for (const field of document.querySelectorAll(".nosnja-train-form [id^='field-']")) {
    const name = field.id.slice("field-".length);
    const among = (names) => (names || []).some((other) => other.replaceAll(".", "-") === name);
    field.classList.toggle("nosnja-changed", among(value.changed));
    field.classList.toggle("nosnja-idle", among(value.idle));
  }
};

let waiting = false;
const form = root.closest(".nosnja-train-tab")?.querySelector(".nosnja-train-form");
if (form)
  new MutationObserver((changes) => {
    if (waiting || !changes.some((change) => [...change.addedNodes].some((node) => node.id || node.querySelector?.("[id^='field-']")))) return;
    waiting = true;
    requestAnimationFrame(() => ((waiting = false), mark()));
  }).observe(form, {childList: true, subtree: true});

let tried = 0;
const draw = () => {
  const value = props.value || {};
  if (!value.count) return;
  root.classList.toggle("stale", Boolean(value.stale));
  drawProblems(value.problems);
  drawCount(value.count);
  drawRate(value);
  drawCost(value.estimate);
  drawPictures(value.buckets || [], value.notes || []);
  mark();
  if (value.tried && value.tried !== tried) {
    tried = value.tried;
    if (value.problems.length) show(value.problems[0].name || "name");
  }
};
watch("value", draw);
draw();
