// One line about a field above it: what its values are, or what is wrong with them. It keeps its place when it is empty.
const root = element.querySelector(".nosnja-xyz_line");

function draw() {
  const { text = "", bad = false } = props.value || {};
  root.classList.toggle("bad", Boolean(bad));
  root.setAttribute("role", bad ? "alert" : "note");
  root.textContent = text;
  root.title = text;
  root.closest(".nosnja-xyz-axis")?.classList.toggle("nosnja-invalid", Boolean(bad));
}

watch("value", draw);
draw();
