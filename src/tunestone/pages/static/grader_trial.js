// Trying a grader before there is a job: one answer to each of the first rows, and its grade.

import { askedIn } from "./data_field.js";
import { busy, fault, post } from "./server_api.js";

// Settings that decide how an answer is drawn; the API calls them the same.
const DRAWN = ["max_completion_tokens", "temperature", "top_p", "stop", "response_format"];

// `form` gives, each when it is called: `rows`, `model`, `settings` and `grader`.
export function openTrial(form) {
  const button = document.getElementById("try");
  const state = document.getElementById("try-state");
  const cards = document.getElementById("tried");
  const verdict = document.getElementById("signal");
  let tried = []; // one of each row

  async function start() {
    const rows = form.rows();
    const wanted = { model: form.model(), ...drawnAs(form.settings()) };
    verdict.hidden = true;
    tried = rows.map((row) => ({ row, ...makeCard(row), result: null }));
    cards.replaceChildren(...tried.map((one) => one.card));
    for (const one of tried) {
      one.again.addEventListener("click", () => busy(one.again, () => grade(one).then(judge)));
    }
    state.textContent = rows.length
      ? `Drawing ${rows.length} answers …`
      : "Choose a training file first: its first rows are tried.";
    if (!rows.length) return;
    await Promise.all(tried.map((one) => busy(one.again, () => answer(one, wanted))));
    state.textContent = "Answers may be edited and graded again.";
    judge();
  }

  async function answer(one, wanted) {
    const { row } = one;
    const tools = row.tools?.length ? { tools: row.tools } : {};
    try {
      const question = { ...wanted, messages: row.messages, ...tools };
      const drawn = await post("/v1/chat/completions", question);
      one.text.value = textOf(drawn.choices[0].message);
      one.ended.textContent = drawn.choices[0].finish_reason === "length" ? "cut off" : "";
    } catch (error) {
      fault(one.wrong, error.message);
      showResult(one);
      return;
    }
    await grade(one);
  }

  async function grade(one) {
    fault(one.wrong, "");
    one.result = null;
    try {
      const grader = form.grader();
      if (!grader) throw new Error("The grader's JSON cannot be read yet.");
      one.result = await post("/v1/fine_tuning/alpha/graders/run", {
        grader,
        model_sample: one.text.value,
        item: one.row,
      });
    } catch (error) {
      fault(one.wrong, error.message);
    }
    showResult(one);
  }

  // What the rewards say together.
  function judge() {
    const graded = tried.filter((one) => one.result && !failure(one.result));
    const rewards = graded.map((one) => one.result.reward);
    const failed = tried.length - graded.length;
    const missing = failed ? ` ${failed} of ${tried.length} could not be graded.` : "";
    const low = Math.min(...rewards);
    const high = Math.max(...rewards);
    verdict.hidden = false;
    if (!rewards.length) {
      verdict.textContent = "Not one answer could be graded.";
    } else if (low === high) {
      verdict.textContent =
        `No signal in these ${rewards.length}: every reward is ${low.toFixed(2)}. A model learns ` +
        `from answers that get different rewards; try easier rows, or a grader that gives a part ` +
        `of the reward for a part of the answer.${missing}`;
    } else {
      verdict.textContent = `Rewards from ${low.toFixed(2)} to ${high.toFixed(2)}.${missing}`;
    }
  }

  button.addEventListener("click", () => busy(button, start));
}

function drawnAs(settings) {
  const limits = document.getElementById("setting-max_completion_tokens");
  const usual = { max_completion_tokens: Number(limits.placeholder), temperature: 1 };
  const given = DRAWN.filter((name) => settings[name] !== undefined);
  return { ...usual, ...Object.fromEntries(given.map((name) => [name, settings[name]])) };
}

// The answer as the model wrote it: the API has taken tool calls out of it.
function textOf(message) {
  const calls = (message.tool_calls ?? []).map(({ function: called }) => {
    const written = `{"name": ${JSON.stringify(called.name)}, "arguments": ${called.arguments}}`;
    return `<tool_call>${written}</tool_call>`;
  });
  return [message.content ?? "", ...calls].filter(Boolean).join("\n");
}

function failure(result) {
  return result.metadata.errors.error_details ?? "";
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function makeCard(row) {
  const card = element("article", "card tried");
  const header = element("header", "");
  const reward = element("span", "reward", "…");
  const ended = element("span", "where");
  const asked = element("p", "asked", askedIn(row));
  const text = element("textarea", "code");
  const scores = element("dl", "scores");
  const wrong = element("p", "fault");
  const again = element("button", "", "Grade again");
  text.rows = 5;
  text.spellcheck = false;
  again.type = "button";
  wrong.hidden = true;
  header.append(reward, ended);
  card.append(header, asked, text, scores, wrong, again);
  text.setAttribute("aria-label", `Answer to: ${askedIn(row).slice(0, 80)}`);
  return { card, reward, ended, text, scores, wrong, again };
}

function showResult(one) {
  const { result } = one;
  one.scores.replaceChildren();
  one.reward.textContent = result ? result.reward.toFixed(2) : "no reward";
  one.card.classList.toggle("failed", !result || failure(result) !== "");
  if (!result) return;
  const scores = { ...result.metadata.scores, ...result.sub_rewards };
  for (const [name, value] of Object.entries(scores)) {
    const pair = document.createElement("div");
    pair.append(element("dt", "", name), element("dd", "", value.toFixed(2)));
    one.scores.append(pair);
  }
  const flags = Object.entries(result.metadata.errors).filter(([, value]) => value === true);
  const told = [...flags.map(([name]) => name.replaceAll("_", " ")), failure(result)];
  fault(one.wrong, told.filter(Boolean).join(": "));
}
