// The base models of the tab "Runs & models": what each is, its tools, and the folders of other programs where more of them lie.
(() => {
  const h = nosnja.h;
  const T = nosnja.T;
  const PREDICTIONS = {epsilon: T("predicts noise"), v_prediction: T("predicts v"), flow: T("predicts flow")};
  const KINDS = {models: T("Base models"), loras: T("LoRAs"), vae: "VAE"};

  /**
   * kit: {ask, say, button, badge, copyable, actions, tool(name, asked, subject, models)} of the tab; state.places as the server said it.
   * `show(answer)` draws an answer of `base_models`; `mark` is that of the last one.
   */
  nosnja.libraryModels = (kit, places) => {
    const {ask, say, button, badge, copyable, actions} = kit;
    const element = h("div", {class: "nosnja-library-section", id: "library-base-models"});
    const head = h("div", {class: "nosnja-library-models-head"});
    const body = h("div", {});
    element.append(head, body);
    let mark = "";
    let asking = false;
    let known = [];
    let fresh = "";

    const usable = (short) => known.filter((model) => !model.problem && (!short || model.short === short));

    function cell(entry) {
      const kind = entry.pickled ? entry.path.slice(entry.path.lastIndexOf(".")) : entry.single_file ? T("single file") : T("folder");
      const what = [entry.family, PREDICTIONS[entry.prediction_type], entry.precision, entry.native_size ? `${entry.native_size}\u00a0×\u00a0${entry.native_size}` : "", kind, nosnja.bytes(entry.size_bytes)];
      const form = (name) => (open) => button(nosnja.libraryTools[name].title(), () => open(kit.tool(name, {model: entry.name}, entry, Promise.resolve(usable(entry.short)))));
      const tools = [entry.short && !entry.problem ? form("extract") : null, entry.pickled ? form("safe") : null].filter(Boolean);
      return h("article", {class: `nosnja-card ${fresh && entry.path.replaceAll("\\", "/").endsWith(fresh) ? "fresh" : ""}`, dataset: {model: entry.name}},
        h("h4", {title: entry.title}, entry.title),
        h("p", {class: "nosnja-muted"}, what.filter(Boolean).join(" · ")),
        h("p", {class: "where"}, entry.from_kit ? badge(T("comes with the program")) : entry.place ? badge(entry.place) : "", copyable(entry.path)),
        entry.problem ? h("p", {class: "nosnja-note warning"}, entry.problem) : "",
        tools.length ? actions(tools) : "");
    }

    const section = (title, entries, none) => h("section", {}, h("h3", {}, title),
      entries.length ? h("div", {class: "nosnja-library-models"}, entries.map(cell)) : h("p", {class: "nosnja-muted"}, none));

    function folders(found) {
      const remove = (folder) => async () => {
        const answer = await ask("remove_place", {folder});
        if (answer.problem) say(answer.problem, null, true);
        look();
      };
      const adding = (open) => button(T("Add a folder"), () => open(nosnja.libraryForm({
        about: T("A folder with models, or that of A1111, Forge, ComfyUI or InvokeAI: nothing is copied or changed there."), confirm: T("Add"),
        fields: [{name: "folder", kind: "text", label: T("Folder")}, {name: "kind", kind: "choice", label: T("It holds"), choices: Object.entries(KINDS), value: "models"}],
        act: async (values) => {
          const answer = await ask("add_place", values);
          if (!answer.problem) setTimeout(look);
          return answer;
        },
      })), "", {id: "library-add-folder"});
      return h("section", {class: "nosnja-library-places"}, h("h3", {}, T("Folders of other programs")),
        found.length ? h("div", {class: "nosnja-table"}, h("table", {}, h("tbody", {}, found.map((place) => h("tr", {},
          h("td", {}, place.program || T("added")), h("td", {}, KINDS[place.kind] || T("nothing found")), h("td", {class: "right"}, String(place.count)), h("td", {class: "folder"}, copyable(place.folder)),
          h("td", {class: "right"}, place.added && places().folders ? button(T("Remove"), remove(place.added), "", {title: place.added}) : "")))))) : h("p", {class: "nosnja-muted"}, T("None was found on this machine.")),
        places().folders ? actions([adding]) : "");
    }

    function draw(answer) {
      known = answer.models;
      body.replaceChildren(
        section(T("Base models"), answer.models, T("There is none yet.")),
        section(T("Captioners"), answer.captioners, T("There is none yet. A captioner writes what is seen in a picture; its folder goes to the same place.")),
        folders(answer.places));
    }

    function drawHead() {
      const fetching = (open) => button(T("Download from the hub"), () => open(nosnja.libraryForm({...nosnja.libraryFetch(places().folders), act: async (values) => {
        const answer = await ask("fetch_model", {values});
        if (!answer.problem) kit.fetched(answer.run);
        return answer;
      }})), "primary", {id: "library-fetch"});
      head.replaceChildren(
        h("p", {class: "nosnja-note"}, T("A base model is what is fine-tuned. Put its file or folder into the models folder, and it is listed here and in the forms; those of other programs are found where they are:"), " ", copyable(places().models)),
        actions([fetching]));
    }

    /** Ask what there is; drawn anew only where that changed and nobody fills in a form. */
    async function look() {
      if (asking || body.querySelector("form")) return;
      asking = true;
      const answer = await ask("base_models", {mark});
      asking = false;
      if (answer.problem) return body.replaceChildren(h("p", {class: "nosnja-note error"}, answer.problem));
      if (!answer.mark || body.querySelector("form")) return;
      mark = answer.mark;
      draw(answer);
    }

    return {
      element,
      look,
      drawHead,
      /** A promise of the models that a LoRA of that family can be used with. */
      of: async (short) => {
        await look();
        return usable(short);
      },
      highlight(made) {
        fresh = made;
        mark = "";
        look();
      },
    };
  };
})();
