// The form for a new job. What it sends goes through the server's own API.

import { openFile } from "./data_field.js";
import { openGrader, readValue } from "./grader_form.js";
import { openTrial } from "./grader_trial.js";
import { ask, busy, fault, post } from "./server_api.js";

const KEPT = "tunestone: new job";
const main = document.querySelector("main");
const form = document.getElementById("create");
const byId = (id) => document.getElementById(id);
const root = main.dataset.root;

// --- what the form says

function modelName() {
  return byId("model").value || byId("hub-id").value.trim();
}

function settings() {
  const given = {};
  for (const control of form.querySelectorAll("[data-setting]")) {
    const value = readValue(control.value, control.dataset.kind);
    if (value !== undefined) given[control.dataset.setting] = value;
  }
  return given;
}

// What nobody has chosen is left out; what is missing then, the API says.
function chosen(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value));
}

function wantedFiles() {
  return chosen({
    training_file: byId("training_file").value,
    validation_file: byId("validation_file").value,
  });
}

function wantedJob(grader) {
  const { response_format, ...own } = settings();
  return {
    ...chosen({ model: modelName(), suffix: byId("suffix").value.trim() }),
    ...wantedFiles(),
    method: {
      type: "reinforcement",
      reinforcement: { grader, ...chosen({ response_format }) },
    },
    tunestone: own,
  };
}

function showModel() {
  const option = byId("model").selectedOptions[0];
  byId("model-note").textContent = option?.dataset.note ?? "";
  byId("hub-field").hidden = byId("model").value !== "";
}

// --- what stays in this tab

function keep() {
  const controls = [...form.querySelectorAll("[data-keep]")];
  const values = Object.fromEntries(controls.map((control) => [control.id, control.value]));
  sessionStorage.setItem(KEPT, JSON.stringify(values));
}

function putBack() {
  const values = JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
  for (const [id, value] of Object.entries(values)) {
    const control = byId(id);
    if (!control) continue;
    const isThere = [...(control.options ?? [])].some((option) => option.value === value);
    if (!control.options || isThere) control.value = value;
  }
}

// --- what is wrong

let blamed = []; // what was shown of the last refusal, as what undoes it

function forgetFaults() {
  blamed.forEach((undo) => undo());
  blamed = [];
}

// The control that a refusal is about; null when it is about none.
function controlOf(error) {
  const param = error.param ?? "";
  if (param === "model") return byId(byId("model").value ? "model" : "hub-id");
  if (param.includes("grader")) return byId("template");
  if (param.endsWith("response_format")) return byId("setting-response_format");
  if (param === "tunestone") {
    const words = new Set(error.message.match(/\w+/g));
    const named = [...form.querySelectorAll("[data-setting]")].filter(
      (control) => control.value.trim() && words.has(control.dataset.setting),
    );
    return named[0] ?? null;
  }
  return form.querySelector(`[data-param="${CSS.escape(param)}"]`);
}

function faultPlace(control) {
  if (control.id === "template") return byId("grader-fault");
  const file = control.closest(".file");
  if (file) return file.querySelector(".fault");
  const field = control.closest(".field");
  let place = field.querySelector(".fault");
  if (!place) {
    place = document.createElement("span");
    place.className = "fault";
    place.setAttribute("role", "alert");
    control.after(place);
  }
  return place;
}

function blame(error, otherwise) {
  const control = controlOf(error);
  if (!control) {
    fault(otherwise, error.message);
    blamed.push(() => fault(otherwise, ""));
    return;
  }
  for (let box = control.closest("details"); box; box = box.parentElement.closest("details")) {
    box.open = true;
  }
  const place = faultPlace(control);
  fault(place, error.message);
  control.setAttribute("aria-invalid", "true");
  control.focus();
  blamed.push(() => {
    fault(place, "");
    control.removeAttribute("aria-invalid");
  });
}

// --- the check

function item(finding) {
  const line = document.createElement("li");
  const level = document.createElement("strong");
  line.className = finding.level;
  level.textContent = finding.level;
  line.append(level, ` ${finding.message} ${finding.remedy}`);
  if (finding.evidence.length) {
    const more = document.createElement("details");
    const title = document.createElement("summary");
    const text = document.createElement("div");
    title.textContent = "Evidence";
    text.className = "text quiet";
    text.textContent = finding.evidence.map((part) => JSON.stringify(part, null, 2)).join("\n");
    more.append(title, text);
    line.append(more);
  }
  return line;
}

function showFindings(findings) {
  const fine = findings.filter((finding) => finding.level === "ok");
  const others = findings.filter((finding) => finding.level !== "ok");
  byId("findings").replaceChildren(...others.map(item));
  byId("fine-list").replaceChildren(...fine.map(item));
  byId("fine").hidden = fine.length === 0;
  byId("fine").querySelector("summary").textContent = `Found good (${fine.length})`;
}

function recommend(setting) {
  const place = form.querySelector(`[data-advice="${CSS.escape(setting.name)}"]`);
  const control = byId(`setting-${setting.name}`);
  const button = document.createElement("button");
  const value = String(setting.value);
  button.type = "button";
  button.textContent = `Take ${value}`;
  button.setAttribute("aria-label", `Take ${value} for ${setting.name.replaceAll("_", " ")}`);
  button.addEventListener("click", () => {
    control.value = value;
    keep();
    control.focus();
  });
  place.replaceChildren(button, ` ${setting.reason} (${setting.source})`);
  place.hidden = false;
}

async function check(grader) {
  forgetFaults();
  byId("check-state").textContent = "Checking; this takes some seconds …";
  form.querySelectorAll("[data-advice]").forEach((place) => (place.hidden = true));
  showFindings([]);
  let told = "";
  try {
    const wanted = { ...chosen({ model: modelName(), grader }), ...wantedFiles() };
    const found = await post(`${root}/jobs/check`, { ...wanted, tunestone: settings() });
    showFindings(found.findings);
    found.settings.forEach(recommend);
    told = `Checked without drawing answers; ${found.settings.length} settings are recommended.`;
  } catch (error) {
    blame(error, byId("check-fault"));
  }
  byId("check-state").textContent = told;
}

// --- the job

async function create(grader) {
  forgetFaults();
  if (!grader) {
    const message = "The grader's JSON cannot be read yet.";
    blame({ param: "grader", message }, byId("form-fault"));
    return;
  }
  try {
    const job = await post("/v1/fine_tuning/jobs", wantedJob(grader));
    sessionStorage.removeItem(KEPT);
    location.assign(`${root}/runs/${encodeURIComponent(job.id)}`);
    await new Promise(() => {}); // busy until this page is gone: one job is enough
  } catch (error) {
    blame(error, byId("form-fault"));
  }
}

async function addTuned() {
  const listed = await ask("/v1/models");
  const select = byId("model");
  const known = new Set([...select.options].map((option) => option.value));
  for (const model of listed.data) {
    if (known.has(model.id)) continue;
    select.add(new Option(model.id), select.querySelector('option[value=""]'));
  }
}

async function start() {
  const data = await ask(main.dataset.twin);
  const grader = openGrader(data.graders);
  const files = [...form.querySelectorAll("[data-file]")].map((box) => openFile(box, root, keep));
  openTrial({ rows: files[0].rows, model: modelName, settings, grader: grader.current });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(byId("submit"), () => create(grader.current()));
  });
  form.addEventListener("input", keep);
  form.addEventListener("change", keep);
  form.addEventListener("keydown", (event) => {
    // Enter in a field creates nothing: there is more to be filled in.
    if (event.key === "Enter" && event.target.matches("input, select")) event.preventDefault();
  });
  byId("model").addEventListener("change", showModel);
  byId("check").addEventListener("click", () => {
    busy(byId("check"), () => check(grader.current()));
  });
  for (const name of ["dragover", "drop"]) {
    // A file that misses its place must not take the place of this page.
    addEventListener(name, (event) => event.preventDefault());
  }
  byId("forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEPT);
    location.reload();
  });
  try {
    await Promise.all([addTuned(), ...files.map((file) => file.list())]);
  } catch (error) {
    fault(byId("form-fault"), error.message);
  }
  putBack();
  showModel();
  grader.reload();
  files.forEach((file) => file.look());
  form.dataset.ready = "";
}

start().catch((error) => fault(byId("form-fault"), error.message));
