// A chart on its own: props.value is what nosnja.chart takes (see chart_core.js).
const root = element.firstElementChild;
const draw = () => nosnja.chart(root, props.value);
watch("value", draw);
draw();
