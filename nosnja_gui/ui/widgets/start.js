// The first tab: the demo and how far it is, what runs, what was done last, and what the machine has.
const T = nosnja.T;
const h = nosnja.h;
const root = element.querySelector(".nosnja-start");

const WORDS = {
  ...nosnja.STATES,
  train: T("Training"), caption: T("Captions"), grid: T("XYZ plot"), demo: T("Demo"), download: T("Download"),
};
const TAB_OF = {train: "monitor", grid: "xyz", caption: "dataset", demo: "start", download: "monitor"};
const reached = (run) => T("{step} of {total}", {step: nosnja.amount(run.job, run.step), total: nosnja.amount(run.job, run.total)});
const LIVE = ["running", "queued"];
const state = {said: "", saidFor: "", received: 0, pressed: ""};

const main = h("div", {class: "nosnja-start-main"});
const side = h("div", {class: "nosnja-start-side"});
root.append(h("div", {class: "nosnja-start-grid"}, main, side));
const sections = new Map();

/** A part of the page, drawn anew only when what it shows has changed: nothing flickers, and a button keeps its focus. */
function section(parent, name, data, build) {
  const text = JSON.stringify(data);
  let known = sections.get(name);
  if (!known) {
    known = {text: null, node: h("div", {class: `nosnja-start-section ${name.split("/")[0]}`})};
    sections.set(name, known);
    parent.append(known.node);
  }
  known.node.hidden = data === null || data === undefined;
  if (known.text === text) return known.node;
  known.text = text;
  known.node.replaceChildren(...(known.node.hidden ? [] : [build(data)].flat().filter(Boolean)));
  return known.node;
}

function draw() {
  const value = props.value;
  if (!value) return;
  const demo = value.demo;
  const status = demo ? `${demo.name} ${demo.state}` : "";
  if (value.said !== undefined) Object.assign(state, {said: value.said, saidFor: status});
  if (status !== state.saidFor) state.said = "";
  if (state.pressed !== status) state.pressed = "";
  state.received = Date.now();

  section(main, "welcome", demo && demo.state !== "new" ? null : {first: value.first}, welcome);
  section(main, "demo-head", demo && demo.state !== "new" ? {name: demo.name, state: demo.state, message: demo.message, good: demo.result && demo.result.good, text: demo.result && demo.result.text} : null, head);
  section(main, "said", state.said || null, (said) => h("div", {class: "nosnja-note warning", role: "status"}, said));
  section(main, "result", demo ? demo.result : null, result);
  const list = section(main, "stages", demo && demo.state !== "new" ? demo.stages.map((stage) => stage.id) : null, (ids) =>
    h("ol", {class: "nosnja-steps"}, ids.map((id) => h("li", {dataset: {stage: id}}))));
  if (demo) for (const stage of demo.stages) step(list, stage);

  section(side, "running", value.running, running);
  section(side, "dataset", value.dataset || null, (name) => card(T("Your dataset"), h("p", {class: "name", title: name}, name), buttons(
    link(T("Pictures and captions"), "dataset"), link(T("Trigger word"), "trigger"), link(T("Train"), "train"))));
  section(side, "recent", value.recent.length ? value.recent : null, recent);
  section(side, "checks", value.checks, (checks) => card(T("What a training needs"), h("ul", {class: "nosnja-checks"}, checks.map((check) =>
    h("li", {dataset: {check: check.id, state: check.state}}, h("i", {"aria-hidden": "true"}, {good: "✓", little: "!", unknown: "…"}[check.state]), h("span", {}, check.text))))));
  clock();
}

function card(title, ...parts) {
  return h("section", {class: "nosnja-card"}, h("h3", {}, title), ...parts);
}

function buttons(...made) {
  return h("div", {class: "nosnja-start-buttons"}, made);
}

function link(text, tab, run = "", kind = "") {
  return h("button", {type: "button", class: `nosnja-button ${kind}`, onclick: () => open(tab, run)}, text);
}

/** Another tab begins at its top, wherever this one was scrolled to. */
function look(stage) {
  window.scrollTo(0, 0);
  trigger("look", {stage});
}

function open(tab, run) {
  window.scrollTo(0, 0);
  trigger("open", {tab, run});
}

/** Something that takes a moment to begin: pressed once, it waits for the page to say so. */
function act(text, name, kind = "") {
  const button = h("button", {type: "button", class: `nosnja-button ${kind}`, id: `start-${name}`}, text);
  button.addEventListener("click", () => {
    if (button.disabled) return;
    button.disabled = true;
    setTimeout(() => { button.disabled = false; }, 4000);
    if (name === "demo") trigger("demo", {});
    else if (name === "resume") trigger("resume", {});
    else trigger("stop", {});
  });
  return button;
}

function welcome({first}) {
  return h("section", {class: first ? "nosnja-card nosnja-hero" : "nosnja-card"},
    h("h2", {}, T("Teach Stable Diffusion a new word")),
    h("p", {}, T("Nošnja fine-tunes Stable Diffusion on a few pictures of yours, such as a folk costume, a pet or a style: it writes the captions, trains a LoRA, and shows by XYZ plots what the model has learnt.")),
    h("div", {class: "nosnja-hero-choice"},
      h("div", {}, act(T("Try the demo"), "demo", "primary large"),
        h("p", {class: "nosnja-muted"}, T("The whole job on 30 drawn pictures, with a tiny model that came with the program: a few minutes, no download, no GPU."))),
      h("div", {}, link(T("Use my own pictures"), "dataset", "", "large"),
        h("p", {class: "nosnja-muted"}, T("Open a folder of 15 to 50 pictures of one thing. Captions, trigger word and training follow, tab by tab.")))));
}

function head(demo) {
  const live = LIVE.includes(demo.state);
  const titles = {
    running: T("The demo is running"), queued: T("The demo waits for its turn"), finished: T("The demo is finished"), stopped: T("The demo was stopped"),
    failed: T("The demo failed"), crashed: T("The demo ended unexpectedly"),
  };
  const times = h("p", {class: "nosnja-muted nosnja-times", dataset: {state: demo.state}});
  const right = live ? [act(demo.state === "queued" ? T("Do not start") : T("Stop"), "stop")]
    : demo.state === "finished" ? [act(T("Run it again"), "demo")] : [act(T("Go on"), "resume", "primary"), act(T("Start anew"), "demo")];
  return h("section", {class: "nosnja-demo-head"},
    h("div", {}, h("h2", {}, titles[demo.state] || T("Demo")), times), buttons(...right),
    demo.message ? h("pre", {class: "nosnja-note error"}, demo.message) : null,
    !live && demo.state !== "finished" ? h("p", {class: "nosnja-muted"}, T("What was done is kept: it goes on from there.")) : null);
}

/** Time that was worked and time to come; the seconds in between are counted here. */
function clock() {
  const demo = props.value && props.value.demo;
  const times = root.querySelector(".nosnja-times");
  if (!demo || !times) return;
  if (demo.state === "finished") {
    const device = demo.result ? demo.result.device : "";
    times.textContent = T("{time} on the {device}", {time: nosnja.duration(demo.result ? demo.result.seconds : null), device: device === "cpu" ? T("processor") : device});
  } else if (demo.state === "running") {
    const since = Math.min(10, (Date.now() - state.received) / 1000);
    times.textContent = T("{passed} so far, about {left} left", {
      passed: nosnja.duration(demo.elapsed + since), left: nosnja.duration(Math.max(1, Math.ceil((demo.remaining - since) / 5) * 5))});
  } else times.textContent = demo.elapsed ? T("{passed} so far", {passed: nosnja.duration(demo.elapsed)}) : "";
}

function step(list, stage) {
  const line = list.querySelector(`li[data-stage="${stage.id}"]`);
  if (!line) return;
  if (line.dataset.state !== stage.state || line.dataset.look !== String(stage.look)) {
    line.dataset.state = stage.state;
    line.dataset.look = String(stage.look);
    line.replaceChildren(
      h("i", {"aria-hidden": "true"}, {done: "✓", now: "", broken: "!", waiting: ""}[stage.state]),
      h("div", {}, h("b", {}, stage.title), h("span"), h("div", {class: "nosnja-progress"}, h("i"))),
      stage.look ? h("button", {type: "button", class: "nosnja-button", "aria-label": T("Look: {what}", {what: stage.title}), onclick: () => look(stage.id)}, T("Look")) : h("span"));
  }
  line.querySelector("span").textContent = stage.note;
  const bar = line.querySelector(".nosnja-progress");
  bar.hidden = stage.state !== "now";
  bar.classList.toggle("unknown", !stage.share);
  bar.firstChild.style.width = stage.share ? `${100 * stage.share}%` : "";
}

function result(made) {
  return [
    h("div", {class: made.good ? "nosnja-note" : "nosnja-note warning"}, h("b", {}, made.text), made.leak ? ` ${made.leak}` : ""),
    h("div", {class: "nosnja-figures"}, made.figures.map((figure) =>
      h("div", {class: figure.accent ? "nosnja-figure accent" : "nosnja-figure"}, h("b", {}, figure.value), h("span", {}, figure.text)))),
    h("div", {class: "nosnja-start-pictures"}, made.pictures.map((picture) =>
      h("figure", {dataset: {picture: picture.id}},
        h("a", {href: picture.whole, target: "_blank", rel: "noopener", title: T("Open the whole picture")}, h("img", {src: picture.picture, alt: picture.title, width: picture.size[0], height: picture.size[1]})),
        h("figcaption", {}, picture.title)))),
    h("section", {class: "nosnja-card nosnja-next"},
      h("h3", {}, T("What to do next")),
      h("p", {}, T("Look at each step in its tab, change a setting and train once more, or begin with pictures of your own.")),
      buttons(
        link(T("Use my own pictures"), "dataset", "", "primary"),
        h("button", {type: "button", class: "nosnja-button", onclick: () => look("grid")}, T("Explore the XYZ plot")),
        h("button", {type: "button", class: "nosnja-button", onclick: () => look("training")}, T("See how the training went")))),
  ];
}

function running(run) {
  const share = run.total ? Math.min(1, run.step / run.total) : 0;
  const loss = run.loss === null ? "" : T(", loss {loss}", {loss: nosnja.number(run.loss)});
  return card(T("Running now"),
    h("p", {class: "name", title: run.name}, h("b", {}, run.name), " ", h("span", {class: "nosnja-badge"}, WORDS[run.job] || run.job)),
    h("div", {class: "nosnja-progress wide"}, h("i", {style: {width: `${100 * share}%`}})),
    h("p", {class: "nosnja-muted"}, run.stage || reached(run) + loss,
      run.remaining ? ` · ${T("about {left} left", {left: nosnja.duration(run.remaining)})}` : ""),
    buttons(link(run.job === "train" ? T("Open the monitor") : T("Open"), TAB_OF[run.job] || "library", run.name, "primary")));
}

function recent(runs) {
  return card(T("Last runs"), h("ul", {class: "nosnja-recent"}, runs.map((run) =>
    h("li", {}, h("button", {type: "button", title: run.name, onclick: () => open(TAB_OF[run.job] || "library", run.name)},
      h("span", {class: "name"}, run.name),
      h("span", {class: `nosnja-state ${run.state}`}, WORDS[run.state] || run.state),
      h("small", {}, [WORDS[run.job] || run.job, run.total ? reached(run) : "", day(run.at)].filter(Boolean).join(" · ")))))),
    buttons(link(T("All runs and models"), "library")));
}

function day(seconds) {
  return new Date(seconds * 1000).toLocaleString(nosnja.language, {day: "numeric", month: "short", hour: "2-digit", minute: "2-digit"});
}

watch("value", draw);
const ticking = setInterval(() => (root.isConnected ? clock() : clearInterval(ticking)), 1000);
draw();
