// Charts, what is new in a run, and keys for voting. Pages work without it, but for the charts.
"use strict";

const main = document.querySelector("main");
const dark = matchMedia("(prefers-color-scheme: dark)");
let charts = {}; // id -> {unit, series: {name: [[step, value, lower, upper], ...]}, ...}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function transparent(hex, share) {
  const parts = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  return `rgba(${parts.join(",")},${share})`;
}

function band(points, tint) {
  const known = points.filter((point) => point[2] != null);
  const edge = (i) => ({
    x: known.map((point) => point[0]),
    y: known.map((point) => point[i]),
    mode: "lines",
    line: { width: 0 },
    hoverinfo: "skip",
    showlegend: false,
  });
  if (known.length < 2) return [];
  return [edge(2), { ...edge(3), fill: "tonexty", fillcolor: transparent(tint, 0.15) }];
}

function isSparse(points) {
  const steps = points.length ? points[points.length - 1][0] - points[0][0] : 0;
  return points.length < 3 || steps > 1.5 * (points.length - 1);
}

function traces(chart) {
  const bands = [];
  const lines = [];
  Object.entries(chart.series).forEach(([name, points], i) => {
    if (chart.hide_zeros && !points.some((point) => point[1])) return;
    const tint = colour(`--series-${(i % 6) + 1}`);
    bands.push(...band(points, tint));
    lines.push({
      name,
      x: points.map((point) => point[0]),
      y: points.map((point) => point[1]),
      mode: isSparse(points) ? "lines+markers" : "lines",
      marker: { size: 5 },
      line: { color: tint, width: 1.75 },
    });
  });
  return bands.concat(lines);
}

function layout(chart) {
  const line = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
  return {
    margin: { l: 44, r: 12, t: 8, b: 30 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: colour("--faint") },
    hoverlabel: {
      bgcolor: colour("--raised"),
      bordercolor: colour("--line"),
      font: { color: colour("--ink") },
    },
    hovermode: "x unified",
    dragmode: false,
    showlegend: Object.keys(chart.series).length > 1,
    legend: { orientation: "h", traceorder: "normal", x: 0, y: 1, xanchor: "left", yanchor: "bottom" },
    xaxis: { ...line, showgrid: false, zeroline: false, fixedrange: true, tickformat: "d", nticks: 8 },
    yaxis: {
      ...line,
      fixedrange: true,
      nticks: 6,
      rangemode: chart.unit === "" ? "normal" : "tozero",
      tickformat: chart.unit === "share" ? ".0%" : "",
    },
  };
}

function draw(id) {
  const figure = document.querySelector(`[data-chart="${CSS.escape(id)}"]`);
  const chart = charts[id];
  const values = Object.values(chart.series).flatMap((points) => points.map((point) => point[1]));
  figure.hidden = chart.hide_zeros ? !values.some(Boolean) : values.length === 0;
  if (figure.hidden) return;
  const settings = { displayModeBar: false, responsive: true };
  const plot = figure.querySelector(".plot");
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `${chart.title}: ${described(chart.series)}`);
  Plotly.react(plot, traces(chart), layout(chart), settings);
}

function described(series) {
  return Object.entries(series)
    .filter(([, points]) => points.length)
    .map(([name, points]) => `${name} ${Number(points[points.length - 1][1].toPrecision(3))}`)
    .join(", ");
}

async function load() {
  const answer = await fetch(main.dataset.twin);
  const data = await answer.json();
  charts = Object.fromEntries(data.charts.map((chart) => [chart.id, chart]));
  Object.keys(charts).forEach(draw);
  return data;
}

function addStep(news) {
  for (const [id, series] of Object.entries(news.points)) {
    for (const [name, point] of Object.entries(series)) {
      const points = (charts[id].series[name] ??= []);
      const last = points[points.length - 1];
      if (!last || last[0] < point[0]) points.push(point);
    }
    draw(id);
  }
  for (const item of news.latest) {
    const place = document.querySelector(`[data-latest="${CSS.escape(item.name)}"]`);
    if (!place) return location.reload(); // the first step of a page that had none
    place.textContent = item.text;
  }
  showState(news.state);
}

function addNote(event) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  const words = document.createElement("p");
  const kind = document.createElement("span");
  time.dateTime = event.time;
  time.textContent = event.time.slice(0, 19).replace("T", " ");
  kind.className = "kind";
  kind.textContent = event.kind === "alert" ? event.code : event.kind.replaceAll("_", " ");
  words.append(kind, " ", event.message);
  if (event.kind === "alert") item.className = "alert";
  item.append(time, words);
  document.getElementById("event-list").prepend(item);
}

function showState(state) {
  const place = document.querySelector("#state .state");
  if (place.textContent === state.text) return; // else a screen reader would say it every step
  place.className = `state ${state.name}`;
  place.textContent = state.text;
}

function follow(place) {
  const source = new EventSource(main.dataset.live + place);
  source.addEventListener("step", (message) => addStep(JSON.parse(message.data)));
  source.addEventListener("note", (message) => addNote(JSON.parse(message.data)));
  source.addEventListener("again", () => location.reload());
  source.addEventListener("over", () => {
    source.close();
    location.reload(); // the report is there now
  });
}

if (main.dataset.twin) {
  load().then((data) => {
    if (main.dataset.live) follow(data.place);
  });
  dark.addEventListener("change", () => Object.keys(charts).forEach(draw));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches("input, select, textarea")) return;
  document.querySelector(`button[data-key="${CSS.escape(event.key)}"]`)?.click();
});
