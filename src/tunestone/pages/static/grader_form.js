// The grader of a job: the fields of its template and the whole as JSON, kept in step.

import { codeField } from "./code_field.js";

const LONG = { code: 12, long: 4, json: 3 }; // kinds that get a text area, and its rows

// What a setting or a grader's field holds, out of what was typed; undefined for nothing.
export function readValue(text, kind) {
  if (text.trim() === "") return undefined;
  if (kind === "flag") return text === "true";
  if (kind === "number") return Number.isNaN(Number(text)) ? text : Number(text);
  if (kind !== "json") return text;
  try {
    return JSON.parse(text);
  } catch {
    return text; // a template, perhaps; the API says so if it is not
  }
}

// `templates` are those of the page's data. Gives `current()`, the grader, null while the JSON is
// none; and `reload()`, to be called when a script has changed the JSON.
export function openGrader(templates) {
  const choice = document.getElementById("template");
  const meaning = document.getElementById("grader-meaning");
  const plain = document.getElementById("grader-fields");
  const more = document.getElementById("grader-more-fields");
  const whole = document.getElementById("grader");
  const fault = document.getElementById("grader-fault");
  const renumber = codeField(whole);
  const drafts = new Map(); // type -> what was made of its template
  let grader = null;

  function write() {
    whole.value = JSON.stringify(grader, null, 2);
    drafts.set(grader.type, grader);
    fault.hidden = true;
    renumber();
  }

  function show() {
    const known = templates.findIndex((template) => template.type === grader.type);
    choice.value = known < 0 ? "" : String(known);
    meaning.textContent = known < 0 ? "" : templates[known].meaning;
    plain.replaceChildren();
    more.replaceChildren();
    for (const field of templates[known]?.fields ?? []) {
      if (!holds(grader, field.path)) continue;
      (field.more ? more : plain).append(drawField(field));
    }
    more.parentElement.hidden = more.children.length === 0;
  }

  function drawField(field) {
    const box = document.createElement("div");
    const label = document.createElement("label");
    const about = document.createElement("small");
    const control = makeControl(field);
    box.className = LONG[field.kind] ? "field wide" : "field";
    control.id = `grader-${field.path.join("-")}`;
    label.htmlFor = control.id;
    label.textContent = field.label;
    about.id = `${control.id}-about`;
    about.textContent = field.meaning + (field.range ? ` Range: ${field.range}.` : "");
    control.setAttribute("aria-describedby", about.id);
    control.value = written(valueAt(grader, field.path));
    control.addEventListener(control.options ? "change" : "input", () => {
      const place = valueAt(grader, field.path.slice(0, -1));
      const value = readValue(control.value, field.kind);
      if (value === undefined) delete place[field.path.at(-1)];
      else place[field.path.at(-1)] = value;
      write();
    });
    box.append(label, control, about);
    if (field.kind === "code") codeField(control);
    return box;
  }

  function reload() {
    let found = null;
    let reason = "it is not an object";
    try {
      found = JSON.parse(whole.value);
    } catch (error) {
      reason = error.message;
    }
    grader = found && typeof found === "object" && !Array.isArray(found) ? found : null;
    fault.hidden = grader !== null;
    fault.textContent = grader ? "" : `This is no grader: ${reason}.`;
    renumber();
    if (grader) {
      drafts.set(grader.type, grader);
      show();
    }
  }

  choice.addEventListener("change", () => {
    if (choice.value === "") return;
    const template = templates[Number(choice.value)];
    grader = drafts.get(template.type) ?? structuredClone(template.grader);
    write();
    show();
  });
  whole.addEventListener("input", reload);
  grader = structuredClone(templates[0].grader);
  write();
  show();
  return { current: () => grader, reload };
}

function makeControl(field) {
  if (field.choices.length) {
    const select = document.createElement("select");
    const nothing = field.default ? `default: ${field.default}` : "–";
    select.append(new Option(nothing, ""), ...field.choices.map((value) => new Option(value)));
    return select;
  }
  const control = document.createElement(LONG[field.kind] ? "textarea" : "input");
  if (LONG[field.kind]) control.rows = LONG[field.kind];
  else if (field.kind === "number") control.inputMode = "decimal";
  control.placeholder = field.default;
  control.spellcheck = false;
  return control;
}

function valueAt(grader, path) {
  return path.reduce((value, key) => value?.[key], grader);
}

function holds(grader, path) {
  const place = valueAt(grader, path.slice(0, -1));
  return typeof place === "object" && place !== null;
}

function written(value) {
  if (value === undefined || value === null) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}
