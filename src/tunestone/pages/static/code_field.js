// A text area for code: numbered lines, Tab indents, Escape and then Tab leaves it.

const INDENT = "    ";

// Puts the area, which has an id and a parent, into its frame. Gives what numbers its lines anew,
// to be called when a script has changed its text.
export function codeField(area) {
  const frame = document.createElement("div");
  const lines = document.createElement("pre");
  const hint = document.createElement("small");
  let leaves = false; // whether the next Tab is the browser's

  function number() {
    const count = area.value.split("\n").length;
    lines.textContent = Array.from({ length: count }, (_, i) => i + 1).join("\n");
    lines.scrollTop = area.scrollTop;
  }

  frame.className = "code-field";
  lines.setAttribute("aria-hidden", "true");
  hint.id = `${area.id}-keys`;
  hint.textContent = "Tab indents; Escape, then Tab, leaves the field.";
  area.classList.add("code");
  area.wrap = "off";
  area.spellcheck = false;
  const about = [area.getAttribute("aria-describedby"), hint.id];
  area.setAttribute("aria-describedby", about.filter(Boolean).join(" "));
  area.replaceWith(frame);
  frame.append(lines, area);
  frame.after(hint);
  area.addEventListener("input", number);
  area.addEventListener("focus", () => (leaves = false));
  area.addEventListener("scroll", () => (lines.scrollTop = area.scrollTop));
  area.addEventListener("keydown", (event) => {
    const plain = !(event.ctrlKey || event.metaKey || event.altKey || event.isComposing);
    if (event.key === "Escape") {
      leaves = true;
    } else if (event.key === "Tab" && plain && !leaves) {
      event.preventDefault();
      indent(area, event.shiftKey);
    } else if (event.key === "Enter" && plain) {
      event.preventDefault();
      insert(`\n${indentOf(area)}`);
    } else if (event.key !== "Shift" && event.key !== "Tab") {
      leaves = false;
    }
  });
  number();
  return number;
}

function indent(area, back) {
  const { value, selectionStart: start, selectionEnd: end } = area;
  if (start === end && !back) return insert(INDENT);
  const from = value.lastIndexOf("\n", start - 1) + 1;
  const block = value.slice(from, end);
  const moved = back ? block.replace(/^ {1,4}/gm, "") : block.replace(/^(?=.)/gm, INDENT);
  if (moved === block) return;
  area.setSelectionRange(from, end);
  insert(moved);
  area.setSelectionRange(start === end ? from + moved.length : from, from + moved.length);
}

// White space that the line of the caret begins with, and a level more after a colon.
function indentOf(area) {
  const before = area.value.slice(0, area.selectionStart);
  const line = before.slice(before.lastIndexOf("\n") + 1);
  return line.match(/^[ \t]*/)[0] + (line.trimEnd().endsWith(":") ? INDENT : "");
}

// Typed rather than set: so it can be undone.
function insert(text) {
  document.execCommand(text ? "insertText" : "delete", false, text);
}
