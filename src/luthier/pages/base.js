// What the scripts of all pages share: the page's data, its colors, and charts in them. All text goes in as text.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
// Plotly reads <b>, <a> and entities in its labels: what comes from a text is written with entities
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// Draw or redraw a chart. layout: as Plotly has it, over the page's own.
function plot(id, traces, { xaxis = {}, yaxis = {}, ...layout }) {
  const axis = { automargin: true, gridcolor: color("rule"), zerolinecolor: color("rule"), linecolor: color("soft") };
  const own = {
    paper_bgcolor: color("paper"), plot_bgcolor: color("paper"),
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: color("ink") },
    hoverlabel: { bgcolor: color("card"), bordercolor: color("soft"), font: { color: color("ink") }, align: "left" },
  };
  const whole = { ...own, ...layout, xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis } };
  return Plotly.react(id, traces, whole, { responsive: true, displaylogo: false, displayModeBar: false });
}
