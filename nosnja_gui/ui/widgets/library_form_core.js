// A form out of its fields, described as data: the tools of the tab "Runs & models" have one each and no dialog of their own.
(() => {
  const h = nosnja.h;
  const T = nosnja.T;
  let made = 0;

  const input = (field, attributes) =>
    h("input", {type: "text", class: "entry", name: field.name, value: field.value ?? "", placeholder: field.placeholder || "", spellcheck: "false", autocomplete: "off", ...attributes});

  /** kind -> {draw(field): element, read(element): value} */
  const KINDS = {
    text: {draw: (field) => input(field), read: (element) => element.value},
    number: {draw: (field) => input(field, {inputmode: "decimal", class: "entry number"}), read: (element) => element.value},
    secret: {draw: (field) => input(field, {type: "password", autocomplete: "new-password"}), read: (element) => element.value},
    tick: {
      draw: (field) => h("input", {type: "checkbox", name: field.name, checked: Boolean(field.value)}),
      read: (element) => element.checked,
    },
    choice: {
      draw(field) {
        const select = h("select", {class: "entry", name: field.name});
        const fill = (choices) => select.replaceChildren(...choices.map(([value, title]) => h("option", {value, selected: value === field.value}, title)));
        // What is asked of the server may come later.
        Promise.resolve(field.choices).then(fill);
        return select;
      },
      read: (element) => element.value,
    },
    weights: {
      draw: (field) => h("div", {class: "nosnja-library-weights", role: "group", "aria-label": field.label},
        field.of.map(([id, title]) => h("label", {title}, h("span", {}, title), input({name: id, value: "1"}, {inputmode: "decimal", "aria-label": T("Weight of {name}", {name: title})})))),
      read: (element) => Object.fromEntries([...element.querySelectorAll("input")].map((each) => [each.name, each.value])),
    },
  };

  /**
   * fields: [{name, kind: text | number | secret | tick | choice | weights, label, value, choices: [[value, title]] or a promise of these, of: [[id, title]],
   *           placeholder, help, more: folded away}]
   * title; about: what it does, in a sentence; confirm: the button's text; act(values) -> {problem, taken}, nothing where it went well.
   * sure(values) -> {text, confirm}: asked once more before `act`.
   */
  nosnja.libraryForm = ({fields, title, about, confirm, sure, act}) => {
    const number = ++made;
    const drawn = new Map();
    const place = (field) => {
      const element = KINDS[field.kind].draw(field);
      element.id = `library-form-${number}-${field.name}`;
      const help = field.help ? h("small", {id: `${element.id}-help`}, field.help) : null;
      if (help) element.setAttribute("aria-describedby", help.id);
      drawn.set(field.name, {field, element});
      if (field.kind === "weights") return h("div", {class: "nosnja-library-field"}, h("span", {}, field.label), element, help);
      if (field.kind === "tick") return h("div", {class: "nosnja-library-field"}, h("label", {class: "nosnja-library-check"}, element, field.label), help);
      return h("div", {class: "nosnja-library-field"}, h("label", {for: element.id}, field.label), element, help);
    };
    const folded = fields.filter((field) => field.more);
    const wrong = h("div", {class: "nosnja-field-error", role: "alert"});
    const question = h("p", {class: "nosnja-note warning", hidden: true, role: "alert"});
    const go = h("button", {type: "submit", class: "nosnja-button primary"}, confirm);
    const form = h("form", {class: "nosnja-library-question", autocomplete: "off"},
      title ? h("h4", {}, title) : null,
      about ? h("p", {class: "nosnja-muted"}, about) : null,
      fields.filter((field) => !field.more).map(place),
      folded.length ? h("details", {class: "nosnja-library-folded"}, h("summary", {}, T("More settings")), folded.map(place)) : null,
      question,
      h("div", {class: "nosnja-library-buttons"}, go, h("button", {type: "reset", class: "nosnja-button"}, T("Cancel"))), wrong);
    const read = () => Object.fromEntries([...drawn].map(([name, {field, element}]) => [name, KINDS[field.kind].read(element)]));
    let asked = false;
    const ask = (text, button) => {
      asked = Boolean(text);
      question.hidden = !asked;
      question.textContent = text;
      go.textContent = button;
      if (asked) go.scrollIntoView({block: "nearest"});
    };
    form.addEventListener("input", () => { if (asked) ask("", confirm); });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const values = read();
      if (sure && !asked) {
        const {text, confirm: really} = sure(values);
        wrong.textContent = "";
        return ask(text, really);
      }
      go.disabled = true;
      for (const {field, element} of drawn.values()) if (field.kind === "secret") element.value = "";
      const answer = (await act(values)) || {};
      go.disabled = false;
      ask("", confirm);
      wrong.textContent = answer.problem || "";
      if (answer.problem) wrong.scrollIntoView({block: "nearest"});
      drawn.get("replace")?.element.parentElement.classList.toggle("wanted", Boolean(answer.taken));
      if (!answer.problem) form.reset();
    });
    return form;
  };
})();
