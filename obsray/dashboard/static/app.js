// What the pages need beyond htmx: nothing is asked while the page is hidden, and the chart of the overview.
"use strict";

document.addEventListener("htmx:beforeRequest", (event) => {
  const trigger = event.detail.elt.getAttribute("hx-trigger") || "";
  if (document.hidden && trigger.includes("every")) event.preventDefault();
});

// Empty fields do not belong into a shared address.
document.addEventListener("htmx:configRequest", (event) => {
  const parameters = event.detail.parameters;
  for (const key of Object.keys(parameters)) if (parameters[key] === "") delete parameters[key];
});
document.addEventListener("submit", (event) => {
  for (const field of event.target.elements) if (field.name && field.value === "") field.disabled = true;
});

// The number beside a slider.
document.addEventListener("input", (event) => {
  const shown = event.target.type === "range" && event.target.parentElement.querySelector("output");
  if (shown) shown.textContent = event.target.value;
});

// The server refuses with a reason; show it where the answer would have been.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.xhr.status === 286) event.detail.shouldSwap = true;
});

const chart = { plot: null };

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function readSeries() {
  const holder = document.getElementById("series");
  if (!holder) return null;
  return JSON.parse(holder.dataset.series);
}

function short(value) {
  if (value >= 1e6) return `${+(value / 1e6).toFixed(1)}M`;
  if (value >= 1e3) return `${+(value / 1e3).toFixed(1)}k`;
  return `${+value.toFixed(1)}`;
}

function time(second) {
  return new Date(second * 1000).toLocaleTimeString("en-GB");
}

function draw() {
  const target = document.getElementById("rate-chart");
  const data = readSeries();
  if (!target || !data) return;
  if (chart.plot && chart.plot.root.isConnected) {
    chart.plot.setData(data);
    return;
  }
  const grid = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: colour("--ink-3"), grid, ticks: { show: false }, font: "11px Inter, sans-serif", size: 26 };
  const area = (name) => ({ stroke: colour(name), width: 1.75, fill: `${colour(name)}1f`, points: { show: false } });
  chart.plot = new uPlot({
    width: target.clientWidth, height: 170, padding: [8, 4, 0, 0], legend: { show: false },
    cursor: { points: { size: 6 }, drag: { x: false, y: false } },
    scales: { y: { range: (plot, low, high) => [0, Math.max(high * 1.12, 1)] } },
    series: [{}, { label: "submitted/s", ...area("--submitted") }, { label: "finished/s", ...area("--finished") }],
    axes: [{ ...axis, space: 90, values: (plot, marks) => marks.map(time) }, { ...axis, size: 48, values: (plot, marks) => marks.map(short) }],
  }, data, target);
}

function redraw() {
  if (chart.plot) chart.plot.destroy();
  chart.plot = null;
  draw();
}

document.addEventListener("DOMContentLoaded", () => {
  document.fonts.ready.then(draw);
  draw();
  const target = document.getElementById("rate-chart");
  if (target) new ResizeObserver(() => chart.plot && chart.plot.setSize({ width: target.clientWidth, height: 170 })).observe(target);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
});
document.addEventListener("htmx:afterSettle", draw);
