// A data file of a new job: uploaded by choosing or dropping it, or chosen among those uploaded
// before; its first rows, and what is wrong with it.

import { ask, fault, upload } from "./server_api.js";

// `box` is the field; `keep` is called when the choice has changed. Gives `list()`, which fetches
// what was uploaded before, `look()`, which shows what is chosen, and `rows()`, its first rows.
export function openFile(box, root, keep) {
  const select = box.querySelector("select");
  const picker = box.querySelector("input[type=file]");
  const zone = box.querySelector(".drop");
  const progress = box.querySelector("progress");
  const wrong = box.querySelector(".fault");
  const count = box.querySelector(".count");
  const first = box.querySelector(".first");
  let rows = [];

  function add(file, before = null) {
    const day = new Date(file.created_at * 1000).toISOString().slice(0, 10);
    const size = `${Math.max(1, Math.round(file.bytes / 1024)).toLocaleString("en")} KiB`;
    select.add(new Option(`${file.filename} (${size}, ${day})`, file.id), before);
  }

  async function list() {
    const listed = await ask("/v1/files?purpose=fine-tune&limit=200");
    listed.data.forEach((file) => add(file));
  }

  async function look() {
    const id = select.value;
    rows = [];
    fault(wrong, "");
    first.hidden = true;
    count.textContent = id ? "Reading …" : "";
    if (!id) return;
    let found;
    try {
      found = await ask(`${root}/jobs/new/files/${encodeURIComponent(id)}.json`);
    } catch (error) {
      if (select.value !== id) return;
      count.textContent = "";
      fault(wrong, error.message);
      return;
    }
    if (select.value !== id) return; // another was chosen meanwhile
    rows = found.first;
    count.textContent = `${found.rows.toLocaleString("en")} row${found.rows === 1 ? "" : "s"}`;
    if (found.fault) {
      const others = found.unusable > 1 ? ` (${found.unusable} rows cannot be used)` : "";
      fault(wrong, found.fault.message + others);
    }
    first.hidden = rows.length === 0;
    first.querySelector("summary").textContent = `First rows (${rows.length})`;
    first.querySelector("ol").replaceChildren(...rows.map(drawRow));
  }

  async function send(file) {
    if (!file) return;
    fault(wrong, "");
    picker.disabled = true;
    progress.hidden = false;
    progress.value = 0;
    count.textContent = `Uploading ${file.name} …`;
    try {
      const kept = await upload(file, (share) => (progress.value = share));
      for (const other of document.querySelectorAll("[data-file] select")) {
        if (other !== select) other.add(new Option(kept.filename, kept.id), 1);
      }
      add(kept, 1);
      select.value = kept.id;
      keep();
      await look();
    } catch (error) {
      count.textContent = "";
      fault(wrong, error.message);
    }
    picker.disabled = false;
    picker.value = "";
    progress.hidden = true;
  }

  picker.addEventListener("change", () => send(picker.files[0]));
  select.addEventListener("change", look);
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (!picker.disabled) send(event.dataTransfer.files[0]);
  });
  return { list, look, rows: () => rows };
}

// What a row asks: the text of its last turn.
export function askedIn(row) {
  const turns = Array.isArray(row.messages) ? row.messages : [];
  const content = turns.at(-1)?.content ?? "";
  if (typeof content === "string") return content;
  return content.map((part) => part.text ?? "").join("\n");
}

function drawRow(row) {
  const { messages, ...rest } = row;
  const item = document.createElement("li");
  const text = document.createElement("div");
  const others = document.createElement("div");
  text.className = "text";
  text.textContent = askedIn(row);
  others.className = "text quiet";
  others.textContent = JSON.stringify(rest);
  item.append(text, others);
  return item;
}
