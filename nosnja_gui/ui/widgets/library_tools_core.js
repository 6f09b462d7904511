// The tools for LoRA files and base models: what each asks for, and what those say that are at work.
(() => {
  const h = nosnja.h;
  const T = nosnja.T;

  const LAYOUTS = () => [["kohya", T("kohya (A1111, Forge, ComfyUI, InvokeAI)")], ["diffusers", "diffusers"], ["comfyui", T("ComfyUI's own")]];
  const PRECISIONS = () => [["", T("as it is")], ["float16", "float16"], ["bfloat16", "bfloat16"], ["float32", "float32"]];

  /** Fit for a file's name. */
  const fit = (name) => name.replace(/\.safetensors$|\.ckpt$/i, "").replace(/[^\p{L}\p{N}_.+-]+/gu, "-").slice(0, 76);

  const called = (value, label) => [
    {name: "name", kind: "text", label: label || T("Name of the new file"), value: fit(value), help: T("It goes into the models folder.")},
    {name: "replace", kind: "tick", label: T("Replace what bears that name")},
  ];
  const written = (models, more = true) => [
    {name: "precision", kind: "choice", label: T("Precision"), choices: PRECISIONS(), value: "", more},
    {name: "base", kind: "choice", label: T("Base model"), value: "", more,
      choices: models.then((list) => [["", T("the usual one of its family")], ...list.map((model) => [model.name, model.title])]),
      help: T("Needed for a DoRA, and for a LoRA of an unusual model only.")},
    {name: "check", kind: "tick", label: T("Read it back and compare"), value: true, more, help: T("About a minute longer for a large model on few cores.")},
  ];
  const layout = (more) => ({name: "layout", kind: "choice", label: T("Layout"), choices: LAYOUTS(), value: more ? "kohya" : "diffusers", more});
  const card = () => [
    {name: "base_model", kind: "text", label: T("Base model on the hub"), placeholder: "USER/NAME", help: T("Known by itself where the model was downloaded here.")},
    {name: "license", kind: "text", label: T("License"), placeholder: "openrail++"},
  ];
  const token = () => ({name: "token", kind: "secret", label: T("Token of the hub"), help: T("Given to the tool once and kept nowhere. Empty takes the one that this machine is logged in with.")});

  /** Names by which tools are called, and their forms. `models`: a promise of those of the LoRA's family. */
  nosnja.libraryTools = {
    convert: {
      title: () => T("Convert"),
      form: (lora, models) => ({about: T("The same LoRA in the layout of another program."), confirm: T("Convert"),
        fields: [layout(false), ...written(models, false).slice(0, 1), ...called(`${lora.name}-diffusers`), ...written(models).slice(1)]}),
    },
    resize: {
      title: () => T("Resize"),
      form: (lora, models) => ({about: T("A smaller file, with a report of what was lost. A LoHa, LoKr or DoRA becomes a plain LoRA."), confirm: T("Resize"),
        fields: [
          {name: "rank", kind: "number", label: T("New rank"), value: String(Math.max(1, Math.floor(Math.max(...lora.ranks, 2) / 2))), help: T("The highest one, where a share is given.")},
          {name: "keep", kind: "number", label: T("Share that is kept"), placeholder: "0.95", help: T("Of each layer's change; empty goes by the rank alone.")},
          ...called(`${lora.name}-small`), layout(true), ...written(models)]}),
    },
    rename: {
      title: () => T("Rename trigger"),
      form: (lora) => ({about: T("Changes what the file says of itself: pictures still answer to the word that was trained."), confirm: T("Write the file"),
        fields: [{name: "trigger", kind: "text", label: T("Trigger word"), value: lora.trigger}, ...called(`${lora.name}-renamed`)]}),
    },
    strip: {
      title: () => T("Strip metadata"),
      form: (lora) => ({about: T("Takes out what is private: folders, words of captions, comments. The weights stay as they are."), confirm: T("Write the file"),
        fields: [{name: "all", kind: "tick", label: T("Everything that no program needs")}, ...called(`${lora.name}-bare`)]}),
    },
    into: {
      title: () => T("Put into a base model"),
      form: (lora, models) => ({about: T("Writes a whole model with the LoRA inside."), confirm: T("Write the model"),
        fields: [
          {name: "model", kind: "choice", label: T("Base model"), choices: models.then((list) => list.map((model) => [model.name, model.title]))},
          {name: "weight", kind: "number", label: T("Weight"), value: "1"}, ...called(`model-${lora.name}`, T("Name of the new model"))]}),
    },
    card: {
      title: () => T("Model card"),
      form: (lora) => ({about: T("Makes the folder {name} beside the LoRA, for you to look over: a copy without what is private, a README.md and the last samples. Nothing is uploaded.", {name: `${fit(lora.name)}-hub`}),
        confirm: T("Write the card"), fields: [...card(), {name: "replace", kind: "tick", label: T("Replace the card that is there")}]}),
    },
    publish: {
      title: () => T("Publish"), here: true,
      form: (lora) => ({about: T("Uploads the LoRA and its card to the Hugging Face hub. A card that is there is taken as it is, else one is written."), confirm: T("Publish"),
        fields: [
          {name: "repository", kind: "text", label: T("Repository"), placeholder: `USER/${fit(lora.name)}`, help: T("Made if there is none.")},
          {name: "public", kind: "tick", label: T("For everybody to see"), help: T("Otherwise it is private.")},
          token(), ...card().map((field) => ({...field, more: true})),
          {name: "replace", kind: "tick", label: T("Replace files that the repository holds"), more: true}],
        sure: (values) => ({confirm: T("Upload now"), text: values.public
          ? T("This sends {name} with its card to {repository} on the Hugging Face hub, for everybody to see. Really upload it?", {name: lora.name, repository: values.repository || "?"})
          : T("This sends {name} with its card to {repository} on the Hugging Face hub, where only you see it. Really upload it?", {name: lora.name, repository: values.repository || "?"})})}),
    },
    merge: {
      title: () => T("Merge"),
      form: (loras, models) => ({about: T("Adds them up into one LoRA, each with its weight."), confirm: T("Merge"),
        fields: [
          {name: "weights", kind: "weights", label: T("Weights"), of: loras.map((lora) => [lora.id, lora.name])},
          {name: "rank", kind: "number", label: T("Rank"), help: T("Empty: exact, with the ranks of all together.")},
          ...called(loras.map((lora) => lora.name).join("-").slice(0, 60)), layout(true), ...written(models)]}),
    },
    extract: {
      title: () => T("Extract a LoRA"),
      form: (model, models) => ({about: T("What was trained into this model, as a LoRA: its difference from the model that it began with."), confirm: T("Extract"),
        fields: [
          {name: "model", kind: "choice", label: T("It began with"), choices: models.then((list) => list.filter((other) => other.name !== model.name).map((other) => [other.name, other.title]))},
          {name: "rank", kind: "number", label: T("Rank"), value: "32"},
          ...called(`${model.title}-lora`),
          {name: "conv_rank", kind: "number", label: T("Rank of larger convolutions"), help: T("Empty leaves them out."), more: true},
          {name: "text_encoders", kind: "tick", label: T("Text encoders, too"), value: true, more: true},
          layout(true), {...written(models)[0], help: T("float16 where nothing is chosen.")}, written(models)[2]]}),
    },
    safe: {
      title: () => T("Convert"),
      form: (model) => ({about: T("Writes its weights as a .safetensors file, without running what may be hidden in it. The file itself stays as it is."), confirm: T("Convert"),
        fields: called(model.title.split(/[/\\]/).pop())}),
    },
  };

  /** What is fetched from the hub. `tokens`: whether this window takes any. */
  nosnja.libraryFetch = (tokens) => ({
    about: T("Fetches a base model into the models folder, in a run of its own that you can watch, stop and take up again. Large: SD 1.5 has 4 GB, or 2 GB as fp16."), confirm: T("Download"),
    fields: [
      {name: "repo", kind: "text", label: T("Model on the hub"), placeholder: "stable-diffusion-v1-5/stable-diffusion-v1-5", help: T("USER/NAME, or the address of its page.")},
      {name: "variant", kind: "choice", label: T("Variant"), choices: [["", T("Whole precision")], ["fp16", T("fp16 (half the size)")]], value: ""},
      {name: "file", kind: "text", label: T("Single file"), help: T("Only this .safetensors file; empty takes the whole model."), more: true},
      {name: "revision", kind: "text", label: T("Revision"), help: T("A branch, tag or commit; empty takes the newest."), more: true},
      {name: "name", kind: "text", label: T("Name here"), help: T("Empty takes its name there."), more: true},
      ...(tokens ? [{...token(), more: true}] : [])],
  });

  const STAGES = {
    "Adding up": T("Adding up"), Resizing: T("Resizing"), "Comparing layers": T("Comparing layers"), "Reading it back": T("Reading it back"),
    "Writing the model": T("Writing the model"), Converting: T("Converting"),
  };

  /**
   * Those at work and those that ended lately, as a strip; taken in as a table takes its rows.
   * cancel(id), forget(id), show(made), ended(row): called once when one that was seen running has ended.
   */
  nosnja.libraryTasks = ({cancel, forget, show, ended}) => {
    const rows = new Map(); // id -> {row, line, mark}
    const element = h("div", {class: "nosnja-library-tasks", id: "library-tools", "aria-live": "polite"});
    const title = (row) => nosnja.libraryTools[row.tool]?.title() || row.tool;
    const button = (text, onclick, kind = "", attributes = {}) => h("button", {type: "button", class: `nosnja-button ${kind}`, onclick, ...attributes}, text);

    function draw(row) {
      const running = row.state === "running";
      const how = {
        running: row.stage ? STAGES[row.stage] || row.stage : T("Starting ..."),
        done: T("done in {time}", {time: nosnja.duration(row.seconds)}), failed: T("did not work"), cancelled: T("cancelled"),
      }[row.state];
      const bar = h("div", {class: `nosnja-progress ${row.share === null ? "unknown" : ""}`, role: "progressbar", "aria-label": how, "aria-valuemin": "0", "aria-valuemax": "100",
        "aria-valuenow": row.share === null ? null : String(Math.round(100 * row.share))}, h("i", {style: {width: row.share === null ? "30%" : `${100 * row.share}%`}}));
      const head = h("div", {class: "nosnja-library-task-head"},
        h("b", {}, title(row)), h("span", {class: "of", title: row.about}, row.about),
        h("span", {class: `nosnja-state ${{running: "running", done: "finished", failed: "failed"}[row.state] || ""}`}, how),
        running ? bar : "",
        h("span", {class: "buttons"},
          running ? button(T("Cancel"), (event) => { event.currentTarget.disabled = true; cancel(row.id); }) : "",
          row.made ? button(T("Show it"), () => show(row.made)) : "",
          running ? "" : button("×", () => forget(row.id), "quiet", {"aria-label": T("Close")})));
      const report = row.lines.length ? h("ul", {}, row.lines.map((line) => h("li", {}, line))) : "";
      return h("div", {class: `nosnja-library-task ${row.state}`, dataset: {task: row.id}}, head, row.problem ? h("p", {class: "nosnja-field-error", role: "alert"}, row.problem) : "", report);
    }

    return {
      element,
      size: () => rows.size,
      running: () => [...rows.values()].some(({row}) => row.state === "running"),
      put(id, row) {
        const before = rows.get(id);
        const line = draw(row);
        if (before) before.line.replaceWith(line);
        else element.prepend(line);
        rows.set(id, {row, line});
        if (before?.row.state === "running" && row.state !== "running") ended(row);
      },
      remove(id) {
        rows.get(id)?.line.remove();
        rows.delete(id);
      },
      clear() {
        for (const id of [...rows.keys()]) this.remove(id);
      },
      arrange() {},
    };
  };
})();
