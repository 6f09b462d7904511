// The line under the start button: what runs already, and how many wait. props.value: {run, waiting}
const {h, T} = nosnja;
const root = element.firstElementChild;
const draw = () => {
  const {run, waiting} = props.value || {};
  const words = run
    ? [h("b", {title: run}, run), h("span", {}, T("is running: a training started now waits for it."))]
    : [h("span", {}, T("Nothing is running: a training starts at once."))];
  if (waiting) words.push(h("span", {}, T("Waiting: {count}", {count: waiting})));
  root.replaceChildren(...words);
};
watch("value", draw);
draw();
