// The playground: one prompt to two models at once, by the server's chat API. Each side is asked,
// shown and told about by itself, so that trouble of one does not disturb the other.
import { busy, fault, read } from "./server_api.js";

const form = document.getElementById("playground");
const { send, stop } = form.elements;
let asking = null; // the AbortController of the questions that were asked last

function question(side) {
  const { system, prompt, temperature, most } = form.elements;
  const turns = [{ role: "user", content: prompt.value }];
  if (system.value.trim()) turns.unshift({ role: "system", content: system.value });
  return {
    model: form.elements[side].value,
    messages: turns,
    temperature: Number(temperature.value),
    max_completion_tokens: Number(most.value),
    stream: true,
    stream_options: { include_usage: true },
  };
}

// The data of server-sent events, one after the other, as they come in.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

class Side {
  constructor(name) {
    const place = document.getElementById(name);
    this.name = name;
    this.meta = place.querySelector(".meta");
    this.place = place;
    this.failure = place.querySelector(".fault");
    this.reasoning = place.querySelector(".reasoning");
    this.said = place.querySelector(".said");
  }

  clear() {
    for (const part of [this.meta, this.reasoning, this.said]) part.textContent = "";
    this.reasoning.hidden = true;
    fault(this.failure, "");
    this.note = "";
    this.tokens = null;
    this.reason = "";
    this.began = performance.now();
  }

  async ask(signal) {
    this.clear();
    this.place.setAttribute("aria-busy", "true");
    this.meta.textContent = "waiting";
    try {
      const answer = await fetch("/v1/chat/completions", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(question(this.name)),
        signal,
      });
      if (!answer.ok) read(answer.status, await answer.text());
      this.note = answer.headers.get("x-tunestone-model-note") ?? "";
      for await (const event of events(answer.body)) this.take(event);
    } catch (error) {
      if (signal.aborted) this.reason = "stopped";
      else this.fail(error instanceof TypeError ? "The server does not answer." : error.message);
    }
    this.place.setAttribute("aria-busy", "false");
    this.tell();
  }

  take(event) {
    if (event.error) throw new Error(event.error.message);
    if (event.usage) this.tokens = event.usage.completion_tokens;
    const choice = event.choices[0];
    if (!choice) return;
    if (choice.delta.reasoning_content) {
      this.reasoning.hidden = false;
      this.reasoning.append(choice.delta.reasoning_content);
    }
    if (choice.delta.content) this.said.append(choice.delta.content);
    if (choice.finish_reason === "length") this.reason = "cut off";
    this.tell();
  }

  fail(message) {
    fault(this.failure, message);
    this.reason = "failed";
  }

  tell() {
    const seconds = (performance.now() - this.began) / 1000;
    const parts = [`${seconds.toFixed(1)} s`];
    if (this.tokens !== null) {
      parts.push(`${this.tokens} tokens`, `${(this.tokens / seconds).toFixed(1)} tokens/s`);
    }
    if (this.reason) parts.push(this.reason);
    if (this.note) parts.push(this.note);
    this.meta.textContent = parts.join(" · ");
  }
}

const sides = ["left", "right"].map((name) => new Side(name));

async function askBoth() {
  asking = new AbortController();
  stop.setAttribute("aria-disabled", "false");
  await Promise.all(sides.map((side) => side.ask(asking.signal)));
  stop.setAttribute("aria-disabled", "true");
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  busy(send, askBoth);
});

stop.addEventListener("click", () => asking?.abort());

form.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  form.requestSubmit(send);
});
