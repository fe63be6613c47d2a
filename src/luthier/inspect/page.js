// The page's life: choose a token, a layer and a head; the charts are Plotly's. All text goes in as textContent.
// Places 0 to T - 1 are the tokens; place T is what comes after the text. The model predicts place p at token p - 1.
const T = data.tokens.length, L = data.attention.heads.length, MEAN = -1;
const breaks = new Set(data.breaks);
const state = { place: T, layer: Math.floor(L / 2), head: MEAN };
const byId = (id) => document.getElementById(id);
const range = (count) => Array.from({ length: count }, (_, i) => i);

// --- words and numbers
const piece = (id) => data.pieces[id];
const seen = (id) => piece(id).replaceAll(" ", "␣"); // in tables and charts, where a space alone would not show
const token = (place) => (place === T ? "what comes next" : `“${seen(data.tokens[place])}”`);
function percent(share) {
  if (share === null) return "–";
  if (share === 0 || share >= 0.9995) return `${100 * Math.round(share)}%`;
  return share < 0.0001 ? `${(100 * share).toExponential(0)}%` : `${(100 * share).toPrecision(3)}%`;
}
const count = (number) => number.toLocaleString("en-US");
const digits = (value) => (value === null ? "–" : Number(value.toPrecision(4)).toLocaleString("en-US", { maximumSignificantDigits: 4 }));

// --- attention weights, as page.py packs them
const raw = Uint8Array.from(atob(data.attention.weights), (character) => character.charCodeAt(0));
const view = new DataView(raw.buffer);
const triangle = (T * (T + 1)) / 2;
const firstHead = data.attention.heads.map((_, layer) => data.attention.heads.slice(0, layer).reduce((a, b) => a + b, 0));
function weight(layer, head, query, key) {
  if (key > query) return 0;
  if (head === MEAN) {
    const heads = data.attention.heads[layer];
    return range(heads).reduce((sum, each) => sum + weight(layer, each, query, key), 0) / heads;
  }
  const place = (firstHead[layer] + head) * triangle + (query * (query + 1)) / 2 + key;
  return data.attention.bits === 16 ? view.getUint16(2 * place, true) / 65535 : (raw[place] / 255) ** 2;
}
let known = { of: "" }; // the weights of one head, (T, T): the mean of many takes long
function weights() {
  const of = `${state.layer} ${state.head}`;
  if (known.of !== of) known = { of, rows: range(T).map((q) => range(q + 1).map((k) => weight(state.layer, state.head, q, k))) };
  return known.rows;
}
const headName = () => (state.head === MEAN ? `layer ${state.layer}, mean of its heads` : `layer ${state.layer}, head ${state.head}`);

// --- small pieces of page
function element(name, text, options = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return Object.assign(made, options);
}
function meter(share) {
  return element("meter", undefined, { min: 0, max: 1, value: share ?? 0, title: percent(share) });
}
const word = (id) => element("span", seen(id)); // a token in a table: never taken for a number
function fill(table, header, rows, own = () => false) { // a cell: text, a number, or an element
  const cell = (name, value) => {
    const made = element(name);
    if (typeof value === "number" || /^(–|\d[\d.,]*(e[-+]\d+)?%?)$/.test(value)) made.className = "number";
    made.append(value);
    return made;
  };
  const line = (name, values) => {
    const made = element("tr");
    made.append(...values.map((value) => cell(name, value)));
    return made;
  };
  const body = element("tbody");
  rows.forEach((row, i) => {
    const made = line("td", row);
    if (own(i)) made.className = "own";
    body.append(made);
  });
  const head = element("thead");
  head.append(line("th", header));
  table.replaceChildren(head, body);
  return table;
}

// --- strips of tokens
function strip(id, withNext) {
  const home = byId(id);
  range(withNext ? T + 1 : T).forEach((place) => {
    const next = place === T;
    const made = element("button", next ? "what comes next" : piece(data.tokens[place]), { type: "button", tabIndex: -1 });
    made.className = next ? "token next" : "token";
    made.dataset.place = place;
    made.setAttribute("role", "option");
    home.append(made, document.createElement("wbr"));
    if (!next && breaks.has(data.tokens[place])) home.append(document.createElement("br"));
  });
  const placeOf = (event) => event.target.closest(".token")?.dataset.place;
  home.addEventListener("mouseover", (event) => placeOf(event) !== undefined && show(Number(placeOf(event))));
  home.addEventListener("mouseleave", () => show(state.place));
  home.addEventListener("click", (event) => placeOf(event) !== undefined && choose(Number(placeOf(event))));
  home.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(Math.min(Math.max(state.place + step, 0), withNext ? T : T - 1));
    home.querySelector(".shown").focus();
  });
  return [...home.querySelectorAll(".token")];
}
const surprise = strip("surprise-strip", true), attention = strip("attention-strip", false);
const HOTTEST = Math.max(8, ...data.surprise.filter((bits) => bits !== null)); // bits
surprise.slice(1, T).forEach((made, i) => made.style.setProperty("--heat", (data.surprise[i] ?? 0) / HOTTEST));
byId("surprise-scale").append("0", element("i"), `${digits(HOTTEST)} bits`);

function mark(buttons, place) {
  buttons.forEach((made, i) => {
    made.classList.toggle("shown", i === place);
    made.setAttribute("aria-selected", i === place);
    made.tabIndex = i === place ? 0 : -1;
  });
}

// --- what one place shows
function showToken(place) {
  const panel = byId("token-panel");
  panel.replaceChildren(element("h3", place === T ? "What comes next" : `${token(place)} at place ${place}`));
  if (place === 0) return panel.append(element("p", "The first token: nothing comes before it, so nothing is predicted."));
  const own = data.tokens[place];
  if (place < T) {
    const [probability, rank, bits] = [data.probability, data.rank, data.surprise].map((list) => list[place - 1]);
    panel.append(element("p", `probability ${percent(probability)} · rank ${count(rank)} · surprise ${digits(bits)} bits`));
  }
  const ids = data.candidates.ids[place - 1], shares = data.candidates.probabilities[place - 1];
  const rows = ids.map((id, i) => [word(id), percent(shares[i]), meter(shares[i])]);
  return panel.append(fill(element("table"), ["expected", "", ""], rows, (i) => ids[i] === own));
}
function showLooks(place) {
  const query = Math.min(place, T - 1), row = weights()[query];
  attention.forEach((made, key) => {
    made.style.setProperty("--heat", Math.sqrt(row[key] ?? 0));
    made.classList.toggle("later", key > query);
  });
  mark(attention, query);
  const best = range(query + 1).sort((a, b) => row[b] - row[a]).slice(0, 8);
  const rows = best.map((key) => [word(data.tokens[key]), `at ${key}`, percent(row[key]), meter(row[key])]);
  const panel = byId("looks-panel");
  panel.replaceChildren(element("h3", `Attention of ${token(query)}`), element("p", headName()));
  panel.append(fill(element("table"), ["", "", "", ""], rows));
}
const layerNames = ["embedding", ...range(L).map((layer) => `layer ${layer}`)];
function showLens(place) {
  if (place === 0) {
    byId("lens-title").textContent = "The first token: nothing is predicted. Choose another.";
    byId("lens-table").replaceChildren();
    return;
  }
  byId("lens-title").textContent = place === T ? "What comes next, layer by layer" : `${token(place)} at place ${place}, layer by layer`;
  const rows = layerNames.map((name, i) => {
    const ids = data.lens.ids[i][place - 1], shares = data.lens.probabilities[i][place - 1];
    const says = ids.flatMap((id, k) => [word(id), percent(shares[k])]);
    return [name, meter(shares[0]), ...says, ...(place < T ? [count(data.lens.rank[i][place - 1])] : [])];
  });
  const header = ["after", "", "first", "", "second", "", "third", "", ...(place < T ? ["rank of the text's own"] : [])];
  fill(byId("lens-table"), header, rows);
}
function show(place) { // while a token is pointed at
  mark(surprise, place);
  showToken(place);
  showLooks(place);
}
function choose(place) { // for good
  state.place = place;
  show(place);
  showLens(place);
  drawNorms();
}

// --- charts
const small = () => window.innerWidth < 600;
const scale = () => [0, 1, 2].map((step) => [step / 2, color(`map-${step}`)]);
function draw(id, traces, { height, x = {}, y = {}, ...rest }) {
  const fine = matchMedia("(pointer: fine)").matches;
  const axis = (settings) => ({ zeroline: false, linecolor: color("rule"), fixedrange: !fine, ...settings, title: { text: settings.title ?? "", font: { size: 12 }, standoff: 6 } });
  return plot(id, traces, {
    height, xaxis: axis(x), yaxis: axis(y), margin: { l: 10, r: 10, t: 10, b: 10 }, dragmode: fine ? "zoom" : false,
    hovermode: "closest", ...rest,
  });
}
function heatmap(z, text, settings) {
  return { type: "heatmap", z, text, hoverinfo: "text", colorscale: scale(), xgap: z[0].length > 40 ? 0 : 0.5, ygap: z.length > 40 ? 0 : 0.5, ...settings, colorbar: { thickness: 10, outlinewidth: 0, ...settings.colorbar } };
}
const ROOTS = { tickvals: [0, 0.01, 0.1, 0.25, 0.5, 1].map(Math.sqrt), ticktext: ["0", "1%", "10%", "25%", "50%", "100%"] };
function tokenAxis(title) { // words where there is room for them, else places
  if (T > (small() ? 12 : 24)) return { title: `${title} (place)` };
  const words = range(T).map((place) => plain(seen(data.tokens[place]).slice(0, 12)));
  return { title, tickvals: range(T), ticktext: words, tickangle: -60 };
}
function drawAttention() {
  const rows = weights();
  const z = rows.map((row) => [...row.map(Math.sqrt), ...Array(T - row.length).fill(null)]);
  const text = rows.map((row, q) => row.map((w, k) => plain(`${token(q)} (${q}) → ${token(k)} (${k}): ${percent(w)}`)));
  const height = Math.min(520, byId("attention-map").clientWidth);
  draw("attention-map", [heatmap(z, text, { zmin: 0, zmax: 1, colorbar: { ...ROOTS } })], {
    height, x: { ...tokenAxis("key"), showgrid: false }, y: { ...tokenAxis("query"), tickangle: 0, autorange: "reversed", showgrid: false },
  });
}
function drawSinks() {
  const share = data.sinks.share;
  const text = share.map((row, layer) => row.map((s, head) => `layer ${layer}, head ${head}: ${percent(s)} to the first token`));
  const chosen = state.head === MEAN ? [] : [{ type: "rect", x0: state.head - 0.5, x1: state.head + 0.5, y0: state.layer - 0.5, y1: state.layer + 0.5, line: { color: color("two"), width: 3 } }];
  const whole = (n) => (n <= 16 ? { tickvals: range(n) } : {});
  draw("sink-map", [heatmap(share, text, { zmin: 0, zmax: 1, colorbar: { tickformat: ".0%" } })], {
    height: Math.min(520, byId("sink-map").clientWidth), shapes: chosen,
    x: { title: "head", showgrid: false, ...whole(Math.max(...data.attention.heads)) }, y: { title: "layer", showgrid: false, ...whole(L) },
  });
}
function drawLens() {
  const home = byId("lens-map"), width = home.clientWidth;
  const z = data.lens.probabilities.map((layer) => layer.map((shares) => shares[0]));
  const most = Math.max(0.01, ...z.flat()); // an untrained model is sure of nothing
  const says = (i, p) => data.lens.ids[i][p].map((id, k) => `${seen(id)} ${percent(data.lens.probabilities[i][p][k])}`).join("   ");
  const own = (i, p) => (p + 1 < T ? `the text's own ${token(p + 1)}: rank ${count(data.lens.rank[i][p])}` : "after the text");
  const text = z.map((row, i) => row.map((_, p) => `after ${layerNames[i]}, place ${p + 1}<br>${plain(says(i, p))}<br>${plain(own(i, p))}`));
  const trace = heatmap(z, text, { x: range(T).map((p) => p + 1), zmin: 0, zmax: most, colorbar: { tickformat: ".0%" } });
  const notes = width / T < 56 ? [] : data.lens.ids.flatMap((layer, i) => layer.map((ids, p) => ({
    x: p + 1, y: i, text: plain(seen(ids[0]).slice(0, 9)), showarrow: false, captureevents: false,
    font: { size: 11, color: z[i][p] / most > color("map-turn") ? color("paper") : color("ink") },
  })));
  const step = Math.ceil((L + 1) / 32);
  const rows = range(L + 1).filter((i) => i % step === 0 || i === L);
  const words = range(T).map((p) => plain(p + 1 === T ? "next" : seen(data.tokens[p + 1]).slice(0, 12)));
  const x = T > (small() ? 12 : 24) ? { title: "place" } : { title: "the text's own token", tickvals: range(T).map((p) => p + 1), ticktext: words, tickangle: small() ? -60 : 0 };
  draw("lens-map", [trace], {
    height: Math.min(720, 120 + 19 * (L + 1)), annotations: notes, x: { ...x, showgrid: false },
    y: { tickvals: rows, ticktext: rows.map((i) => (i ? `${i - 1}` : "embedding")), title: "after layer", showgrid: false },
  });
}
const median = (list) => {
  const sorted = list.filter((value) => value !== null).sort((a, b) => a - b);
  return sorted.length ? sorted[sorted.length >> 1] : null;
};
const LINES = [["residual", "residual stream", "one", "circle", "solid"], ["attention", "attention adds", "two", "square", "dash"], ["feed_forward", "feed-forward adds", "three", "diamond", "dot"]];
function drawNorms() {
  const place = Math.min(state.place, T - 1);
  byId("norms-say").textContent = `Lines: the median over the tokens. Points: ${token(place)} at place ${place}.`;
  const traces = LINES.flatMap(([key, name, paint, symbol, dash]) => {
    const x = key === "residual" ? range(L + 1).map((layer) => layer - 1) : range(L);
    const hovertemplate = `${name}, after layer %{x}: %{y:.4g}<extra></extra>`;
    const shared = { x, hovertemplate, legendgroup: key };
    return [
      { ...shared, y: data.norms[key].map(median), mode: "lines", name, line: { color: color(paint), dash, width: 2 } },
      { ...shared, y: data.norms[key].map((row) => row[place]), mode: "markers", name: "chosen token", showlegend: false, marker: { color: color(paint), symbol, size: 6 } },
    ];
  });
  draw("norms-chart", traces, {
    height: 380, x: { title: "after layer (-1: the embedding)", dtick: Math.ceil(L / 16) }, y: { title: "length (logarithmic)", type: "log" },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
  });
}
function drawExperts() {
  if (!data.routing.length) return;
  const layers = data.routing.map((each) => each.layer), rows = { title: "layer", tickvals: range(layers.length), ticktext: layers.map(String), showgrid: false };
  const experts = data.routing[0].load.length, height = Math.min(720, 140 + 26 * layers.length);
  const text = data.routing.map((each) => each.chosen.map((ids, p) => plain(`layer ${each.layer}, ${token(p)} (${p})`) + ids.map((id, k) => `<br>expert ${id}, score ${digits(each.scores[p][k])}`).join("")));
  const first = data.routing.map((each) => each.chosen.map((ids) => ids[0]));
  const wide = byId("expert-map").clientWidth / T > 20;
  const trace = heatmap(first, text, { zmin: 0, zmax: Math.max(1, experts - 1), showscale: !wide, colorbar: { title: { text: "expert" } } });
  const notes = wide ? first.flatMap((row, i) => row.map((expert, p) => ({ x: p, y: i, text: `${expert}`, showarrow: false, captureevents: false, font: { size: 11, color: expert > color("map-turn") * (experts - 1) ? color("paper") : color("ink") } }))) : [];
  draw("expert-map", [trace], { height, annotations: notes, x: { ...tokenAxis("token"), showgrid: false }, y: rows });
  const total = data.routing.map((each) => each.load.reduce((a, b) => a + b, 0));
  const shares = data.routing.map((each, i) => each.load.map((load) => load / total[i]));
  const loads = data.routing.map((each, i) => each.load.map((load, e) => `layer ${each.layer}, expert ${e}: ${load} of ${total[i]} (${percent(shares[i][e])})`));
  draw("load-map", [heatmap(shares, loads, { zmin: 0, colorbar: { tickformat: ".0%" } })], { height, x: { title: "expert", showgrid: false }, y: rows });
}
function drawParts() {
  const names = [...new Set(data.parts.map((part) => part.name))];
  const sum = (name, key) => data.parts.filter((part) => part.name === name).reduce((total, part) => total + part[key], 0);
  const bars = (id, key, paint, say) => {
    const values = names.map((name) => sum(name, key));
    const all = values.reduce((a, b) => a + b, 0) || 1;
    const text = values.map((value) => `${say(value)}, ${percent(value / all)}`);
    const trace = { type: "bar", orientation: "h", y: names, x: values, text, textposition: "auto", hoverinfo: "text+y", marker: { color: color(paint) }, cliponaxis: false };
    draw(id, [trace], { height: 70 + 36 * names.length, y: { autorange: "reversed" }, x: { rangemode: "tozero", nticks: 5 } });
  };
  bars("parameters-chart", "parameters", "one", count);
  bars("time-chart", "ms", "two", (value) => `${digits(value)} ms`);
}
function drawAll() {
  [drawAttention, drawSinks, drawLens, drawNorms, drawExperts, drawParts].forEach((each) => each());
}

// --- the data under each chart, made when it is asked for
const TABLES = {
  tokens: () => [["place", "token", "id", "probability", "rank", "surprise (bits)"], data.tokens.map((id, p) => [p, word(id), id, ...(p ? [digits(data.probability[p - 1]), count(data.rank[p - 1]), digits(data.surprise[p - 1])] : ["–", "–", "–"])])],
  attention: () => [["from \\ to", ...range(T).map((k) => `${k} ${seen(data.tokens[k])}`)], weights().map((row, q) => [`${q} ${seen(data.tokens[q])}`, ...row.map((w) => w.toFixed(4))])],
  sinks: () => [["layer", ...data.sinks.share[0].map((_, head) => `head ${head}`)], data.sinks.share.map((row, layer) => [layer, ...row.map((s) => (s === null ? "–" : s.toFixed(4)))])],
  lens: () => [["place", "after", "first", "", "second", "", "third", "", "own token's probability", "rank"], range(T).flatMap((p) => layerNames.map((name, i) => [p + 1, name, ...data.lens.ids[i][p].flatMap((id, k) => [word(id), digits(data.lens.probabilities[i][p][k])]), ...(p + 1 < T ? [digits(data.lens.probability[i][p]), count(data.lens.rank[i][p])] : ["–", "–"])]))],
  norms: () => [["after", ...LINES.flatMap(([, name]) => [`${name}, median`, "chosen token"])], layerNames.map((name, i) => [name, ...LINES.flatMap(([key]) => {
    const row = key === "residual" ? data.norms[key][i] : data.norms[key][i - 1];
    return row ? [digits(median(row)), digits(row[Math.min(state.place, T - 1)])] : ["–", "–"];
  })])],
  experts: () => [["place", "token", ...data.routing.map((each) => `layer ${each.layer}`)], data.tokens.map((id, p) => [p, word(id), ...data.routing.map((each) => each.chosen[p].map((expert, k) => `${expert} (${digits(each.scores[p][k])})`).join(", "))])],
  loads: () => [["layer", ...data.routing[0].load.map((_, e) => `expert ${e}`)], data.routing.map((each) => [each.layer, ...each.load])],
  parts: () => [["part", "layer", "parameters", "active for a token", "ms"], data.parts.map((part) => [part.name, part.layer ?? "", count(part.parameters), count(part.active), digits(part.ms)])],
};
function tabulate(details) {
  if (details.open) fill(details.querySelector(".scroll").appendChild(element("table")), ...TABLES[details.dataset.table]());
}
function refresh() {
  document.querySelectorAll("details[data-table]").forEach((details) => {
    details.querySelector(".scroll").replaceChildren();
    tabulate(details);
  });
}
document.querySelectorAll("details[data-table]").forEach((details) => details.addEventListener("toggle", () => {
  details.querySelector(".scroll").replaceChildren();
  tabulate(details);
}));

// --- choosing a layer and a head
const layerBox = byId("layer"), headBox = byId("head");
range(L).forEach((layer) => layerBox.append(element("option", `${layer}`, { value: layer })));
function chooseHead(layer, head) {
  const heads = data.attention.heads[layer];
  Object.assign(state, { layer, head: head < heads ? head : MEAN });
  headBox.replaceChildren(element("option", "mean", { value: MEAN }), ...range(heads).map((each) => element("option", `${each}`, { value: each })));
  layerBox.value = layer;
  headBox.value = state.head;
  const share = state.head === MEAN ? null : data.sinks.share[layer][state.head];
  byId("head-says").textContent = share === null ? "" : `${share > data.sinks.above ? "An attention sink: " : ""}${percent(share)} of its attention goes to the first token.`;
  showLooks(state.place);
  drawAttention();
  drawSinks();
  refresh();
}
layerBox.addEventListener("change", () => chooseHead(Number(layerBox.value), state.head));
headBox.addEventListener("change", () => chooseHead(state.layer, Number(headBox.value)));
const shares = data.sinks.share.flat().filter((share) => share !== null);
const sinks = shares.filter((share) => share > data.sinks.above).length;
byId("sinks-say").textContent = shares.length ? `${sinks} of ${shares.length} heads give it more than ${percent(data.sinks.above)}.` : "There is no later token here.";

chooseHead(state.layer, state.head);
choose(state.place);
drawAll();
byId("sink-map").on("plotly_click", (event) => chooseHead(event.points[0].y, event.points[0].x));
byId("lens-map").on("plotly_click", (event) => choose(event.points[0].x));
byId("attention-map").on("plotly_click", (event) => choose(event.points[0].y));
dark.addEventListener("change", drawAll);
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (width !== window.innerWidth) drawAll(); // a phone's bars come and go, and change the height only
  width = window.innerWidth;
});
document.body.dataset.ready = "yes";
