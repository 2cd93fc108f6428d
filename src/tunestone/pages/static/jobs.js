// Keeps the list of jobs as it is on the server, and the page of a job that waits for its state.
// The page is asked for anew and compared: only what has changed is touched, so focus stays.
"use strict";

const EVERY_MS = 4000;
const rows = document.querySelector("table.runs tbody");

function showRows(fresh) {
  const focused = document.activeElement?.id;
  const wanted = [...fresh.rows].map((row) => {
    const old = document.getElementById(row.id);
    return old?.outerHTML === row.outerHTML ? old : document.adoptNode(row);
  });
  const same = wanted.length === rows.rows.length && wanted.every((row, i) => row === rows.rows[i]);
  if (same) return;
  rows.replaceChildren(...wanted);
  if (focused) document.getElementById(focused)?.focus();
}

function show(fresh) {
  const freshRows = fresh.querySelector("table.runs tbody");
  const state = (page) => page.getElementById("state")?.textContent;
  if (Boolean(rows) !== Boolean(freshRows) || state(document) !== state(fresh)) location.reload();
  else if (rows) showRows(freshRows);
}

function tellTrouble(text) {
  const place = document.getElementById("trouble");
  if (place && place.textContent !== text) place.textContent = text;
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (answer.redirected) return location.reload(); // to the login page
    if (!answer.ok) return tellTrouble(`The server answers ${answer.status}.`);
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    tellTrouble("");
  } catch {
    tellTrouble("The server does not answer.");
  }
}

setInterval(refresh, EVERY_MS);
