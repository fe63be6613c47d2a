// Okabe and Ito's colors, told apart by color-blind eyes, and the same ones brighter for dark paper
const TONES = {
  light: ["#0072B2", "#D55E00", "#009E73", "#B5578D", "#B07900", "#3A92C9", "#555555", "#7A4B9A"],
  dark: ["#56B4E9", "#FF8A4C", "#2CC79B", "#E59CC4", "#F0C04A", "#9AD0F5", "#BBBBBB", "#B99AE0"],
};
function colored({ tone, ...trace }) {
  if (tone === undefined) return trace;
  const tones = TONES[dark.matches ? "dark" : "light"], paint = tones[tone % tones.length];
  if (trace.fill) return { ...trace, fillcolor: `${paint}33` };
  return { ...trace, line: { ...trace.line, color: paint }, marker: { ...trace.marker, color: paint } };
}
function draw() {
  data.forEach((chart, number) => plot(`chart-${number}`, chart.traces.map(colored), {
    font: { color: color("ink"), size: 13 }, hovermode: "closest", margin: { l: 58, r: 14, t: 34, b: 46 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, ...chart.layout,
    xaxis: { title: { text: chart.x, standoff: 8 }, ...chart.layout.xaxis },
    yaxis: { title: { text: chart.y, standoff: 8 }, type: chart.log ? "log" : "-", ...chart.layout.yaxis },
  }));
}
dark.addEventListener("change", draw);
draw();
