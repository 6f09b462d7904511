// What is dragged onto the page from outside: files go to the tab that takes them, and nowhere does the browser leave the page for what was dropped.
(() => {
  const takers = []; // {root, take}
  let own = false; // a part of the page itself is dragged: not ours, and no browser opens it
  let marked = null;

  /**
   * While `root` is on the screen, files may be dropped anywhere on the page: it has the class "over" while they are held above it,
   * and `take` gets a promise of [{path, file}], the path of a file in a folder beginning with the folder's name.
   */
  nosnja.takeDrops = (root, take) => takers.push({root, take});

  const mark = (taker) => {
    if (taker === marked) return;
    marked?.root.classList.remove("over");
    marked = taker;
    marked?.root.classList.add("over");
  };

  const isText = (target) => target.matches?.("input, textarea, [contenteditable=true]") && !target.disabled && !target.readOnly;

  /** Says to the browser what a drop here would do; the taker of files, null for nobody. */
  const judge = (event) => {
    if (own || event.defaultPrevented) return null;
    const files = event.dataTransfer.types.includes("Files");
    if (!files && isText(event.target)) return null;
    event.preventDefault();
    const taker = files ? takers.find(({root}) => root.offsetParent) || null : null;
    event.dataTransfer.dropEffect = taker ? "copy" : "none";
    return taker;
  };

  document.addEventListener("dragstart", () => (own = true), true);
  document.addEventListener("dragend", () => (own = false), true);
  for (const name of ["dragenter", "dragover"]) document.addEventListener(name, (event) => mark(judge(event)));
  document.addEventListener("dragleave", (event) => event.relatedTarget || mark(null));
  // Not every end of a drag is told, but the mouse doesn't move before it.
  document.addEventListener("mousemove", () => mark(null));
  document.addEventListener("drop", (event) => {
    const taker = judge(event);
    mark(null);
    if (!taker) return;
    // What is held can be looked at now only, so everything is begun before anything is waited for.
    const held = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    taker.take(Promise.all(held.map((item) => read(item.webkitGetAsEntry(), item.getAsFile()))).then((found) => found.flat()));
  });

  /** A dropped file, or all in a dropped folder but what is hidden. */
  async function read(entry, file) {
    if (entry?.name.startsWith(".")) return [];
    if (!entry?.isDirectory) return [{path: entry ? entry.fullPath.slice(1) : file.name, file: file || (await new Promise((done, failed) => entry.file(done, failed)))}];
    const reader = entry.createReader();
    const found = [];
    // A folder is read in pieces of a hundred entries.
    for (;;) {
      const piece = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!piece.length) break;
      found.push(...piece);
    }
    return (await Promise.all(found.map((inner) => read(inner, null)))).flat();
  }
})();
