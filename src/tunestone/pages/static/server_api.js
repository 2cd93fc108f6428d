// The server's API as a page asks it, and what a page shows meanwhile and afterwards.

// JSON of an answer. Throws an Error with the API's message, and `param`, the field it names.
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw refusal("The server does not answer.");
  }
  return read(answer.status, await answer.text());
}

export function post(path, body) {
  const headers = { "content-type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) });
}

// Uploads a file to train on; `progress` is told the share that was sent.
export function upload(file, progress) {
  const body = new FormData();
  body.append("purpose", "fine-tune");
  body.append("file", file);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how much was sent
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) progress(event.loaded / event.total);
    });
    request.addEventListener("error", () => reject(refusal("The upload was cut off.")));
    request.addEventListener("load", () => {
      try {
        resolve(read(request.status, request.responseText));
      } catch (error) {
        reject(error);
      }
    });
    request.open("POST", "/v1/files");
    request.send(body);
  });
}

// Shows a fault at its place, or takes it away when the message is empty.
export function fault(place, message) {
  place.textContent = message;
  place.hidden = message === "";
}

// Does the work, unless it is being done already. The button keeps the focus, which `disabled` would
// take from it.
export async function busy(button, work) {
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  try {
    await work();
  } finally {
    button.setAttribute("aria-disabled", "false");
  }
}

// The JSON of an answer's text. Throws as `ask` does.
export function read(status, text) {
  let data = {};
  try {
    data = JSON.parse(text);
  } catch {
    data = {};
  }
  if (status >= 200 && status < 300) return data;
  const error = data.error ?? {};
  throw refusal(error.message ?? `The server answered with status ${status}.`, error.param);
}

function refusal(message, param = null) {
  return Object.assign(new Error(message), { param });
}
