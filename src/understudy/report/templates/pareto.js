// The plot, the filters and the model that is picked. All of the data is in the element "told"; names become text, never markup.
const told = JSON.parse(document.getElementById("told").textContent);
const { models, axes, families } = told;
const byId = (id) => document.getElementById(id);
const chart = byId("chart"), panel = byId("picked"), box = byId("models").querySelector(".scroll");
const rows = new Map([...box.querySelectorAll("tbody tr")].map((row) => [Number(row.dataset.row), row]));
const printed = matchMedia("print"), dark = matchMedia("(prefers-color-scheme: dark)"), still = matchMedia("(prefers-reduced-motion: reduce)");
const sign = told.better === "max" ? 1 : -1;
const state = { axis: axes[0]?.key, close: true, families: new Set(), words: [], picked: models.findIndex((model) => model.chosen) };

const element = (tag, own = {}, ...inside) => {
  const made = Object.assign(document.createElement(tag), own);
  made.append(...inside);
  return made;
};
const escaped = (text) => text.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);
const short = (text) => (text.length > 40 ? `${text.slice(0, 39)}…` : text);
// A colour that lets through what is behind it.
const veil = (hex) => `rgba(${[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join()}, 0.55)`;
const passes = (model) =>
  (!state.families.size || state.families.has(model.family)) && state.words.every((word) => model.words.includes(word));
const at = (model) => model.x[state.axis] ?? null;

// -- the plot

// Of the models from the smallest to the largest, each that is better than all before it.
function front(drawn) {
  const found = [];
  for (const model of [...drawn].sort((a, b) => at(a) - at(b) || sign * (b.y - a.y)))
    if (!found.length || sign * (model.y - found.at(-1).y) > 0) found.push(model);
  return found;
}

// Where some models fail, all others would be a heap at the other end: what is further below the median than three times what the
// best is above it.
function outliers(drawn) {
  const values = drawn.map((model) => sign * model.y).sort((a, b) => a - b);
  const median = values[Math.floor(values.length / 2)], fence = median - 3 * Math.max(values.at(-1) - median, 1e-9);
  return drawn.length < 6 ? [] : drawn.filter((model) => sign * model.y < fence);
}

// A range that leaves them out, with room for marks and labels.
function close(drawn, left) {
  const ends = drawn.filter((model) => !left.includes(model)).flatMap((model) => [model.y - (model.half ?? 0), model.y + (model.half ?? 0)]);
  const [low, high] = [Math.min(...ends), Math.max(...ends)], room = 0.08 * (high - low || 1);
  return [low - room, high + room];
}

function points(drawn, more) {
  return { type: "scatter", mode: "markers", x: drawn.map(at), y: drawn.map((model) => model.y), cliponaxis: false, ...more };
}

function draw() {
  if (!axes.length) return;
  const style = getComputedStyle(document.documentElement);
  const ink = (name) => style.getPropertyValue(name).trim();
  const drawn = models.filter((model) => passes(model) && model.y !== null && at(model) !== null);
  const left = outliers(drawn), closer = state.close && left.length > 0;
  byId("range").hidden = !left.length;
  byId("beyond").hidden = !closer;
  byId("beyond").textContent = `Outside the plot: ${left.map((model) => `${model.name} (${model.figure})`).join(", ")}.`;
  const best = front(drawn), narrow = chart.clientWidth < 480;
  const axis = axes.find((one) => one.key === state.axis);
  const marked = drawn.filter((model) => model.chosen || model.index === state.picked);
  const spread = drawn.map(at), [least, most] = [Math.min(...spread), Math.max(...spread)].map(Math.log);
  const side = (model) => (Math.log(at(model)) - least > 0.5 * (most - least) ? "left" : "right");
  const traces = [
    points(best, { mode: "lines", name: "front", hoverinfo: "skip", line: { shape: "hv", width: 1.5, dash: "dot", color: ink("--muted") } }),
    ...families.toReversed().flatMap((family) => {  // the first, the teacher, on top
      const own = drawn.filter((model) => model.family === family.name), colour = ink(family.colour);
      return !own.length ? [] : points(own, {
        name: escaped(family.name),
        customdata: own.map((model) => model.index),
        text: own.map((model) => [`<b>${escaped(short(model.name))}</b>`, escaped(model.family), ...model.hover.map(([key, value]) => `${escaped(key)}: ${escaped(value)}`)].join("<br>")),
        hovertemplate: "%{text}<extra></extra>",
        error_y: { type: "data", array: own.map((model) => model.half ?? 0), color: colour, thickness: 1, width: 3 },
        marker: { symbol: family.symbol, color: colour, size: narrow ? 9 : 11, line: { width: 1, color: ink("--card") } },
      });
    }),
    points(marked, {
      name: "marked",
      hoverinfo: "skip",
      marker: { symbol: "circle-open", size: narrow ? 18 : 22, color: marked.map((model) => ink(model.index === state.picked ? "--accent" : "--muted")), line: { width: 2 } },
    }),
  ];
  const labels = marked.map((model) => ({
    x: Math.log10(at(model)),
    y: model.y,
    text: escaped(short(model.name)) + (model.chosen ? " (chosen)" : ""),
    showarrow: false,
    xanchor: side(model) === "left" ? "right" : "left",
    xshift: side(model) === "left" ? 8 : -8,
    yshift: -24,
    bgcolor: veil(ink("--card")),
    borderpad: 2,
    font: { color: ink("--ink"), size: 12.5 },
    captureevents: false,
  }));
  const decades = (most - least) / Math.LN10;
  const line = { gridcolor: ink("--line"), linecolor: ink("--faint"), zeroline: false, automargin: true, fixedrange: matchMedia("(pointer: coarse)").matches };
  Plotly.react(
    chart,
    traces,
    {
      ...(printed.matches ? { width: 670, height: 400 } : { autosize: true, height: chart.clientHeight }),
      margin: { l: narrow ? 46 : 60, r: narrow ? 12 : 24, t: 16, b: 46 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: ink("--sans"), size: 12, color: ink("--muted") },
      annotations: narrow ? [] : labels,  // on a phone they would cover points; the name stands below
      showlegend: false,
      hovermode: "closest",
      hoverlabel: { bgcolor: ink("--card"), bordercolor: ink("--faint"), font: { color: ink("--ink"), size: 12.5 }, align: "left" },
      dragmode: line.fixedrange ? false : "zoom",
      xaxis: { ...line, type: "log", title: { text: `${axis.title}, log scale` }, tickformat: axis.format, dtick: decades > (narrow ? 1.2 : 2.5) ? 1 : decades > 0.4 ? "D2" : "D1" },
      yaxis: { ...line, title: { text: escaped(told.metric) }, tickformat: "~g", ...(closer ? { range: close(drawn, left) } : { autorange: true }) },
    },
    { responsive: true, displayModeBar: false, doubleClick: "reset+autosize" },
  );
}

// -- filters

function filter() {
  for (const model of models) rows.get(model.index).hidden = !passes(model);
  const shown = models.filter(passes).length;
  byId("count").textContent = shown ? `${shown} of ${models.length} models` : "No model matches.";
  byId("clear").hidden = !state.families.size && !state.words.length;
  for (const chip of byId("families").querySelectorAll("button")) {
    const pressed = state.families.has(chip.dataset.family);
    chip.setAttribute("aria-pressed", String(pressed));
    chip.classList.toggle("off", state.families.size > 0 && !pressed);
  }
  draw();
}

byId("families").addEventListener("click", (event) => {
  const chip = event.target.closest("button");
  if (!chip) return;
  if (!state.families.delete(chip.dataset.family)) state.families.add(chip.dataset.family);
  filter();
});
byId("search").addEventListener("input", (event) => {
  state.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  filter();
});
byId("clear").addEventListener("click", () => {
  state.families.clear();
  state.words = [];
  byId("search").value = "";
  filter();
  byId("search").focus();
});
for (const [id, set] of Object.entries({ axes: (value) => (state.axis = value), range: (value) => (state.close = value === "close") }))
  byId(id).addEventListener("change", (event) => {
    set(event.target.value);
    draw();
  });

// -- the model that is picked

function show(model) {
  const figures = element("dl", { className: "figures" });
  for (const [key, value] of model.figures) figures.append(element("div", {}, element("dt", {}, key), element("dd", {}, value)));
  const link = element("a", { href: `#row-${model.index}` }, "its row in the table");
  link.className = "onscreen";
  const title = element("h3", { id: "picked-title" }, model.name);
  const about = element("p", { className: "beside" }, `${model.family}${model.chosen ? ", chosen" : ""} `, link);
  panel.replaceChildren(title, about, figures);
  if (model.chain) panel.append(element("p", { className: "note" }, model.chain));
  if (model.command) panel.append(command(model.command));
}

function command(text) {
  const code = element("code", {}, text), button = element("button", { type: "button", className: "copy" }, "Copy");
  const said = element("span", { className: "hidden" });
  said.setAttribute("role", "status");
  button.addEventListener("click", async () => {
    button.textContent = said.textContent = (await copied(text, code)) ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 3000);
  });
  const scrolled = element("pre", { tabIndex: 0 }, code);
  scrolled.setAttribute("aria-label", "command");
  return element("div", { className: "command" }, scrolled, button, said);
}

async function copied(text, code) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return false;
  }
}

function pick(index, { moved = true } = {}) {
  state.picked = index;
  for (const [i, row] of rows) {
    row.classList.toggle("picked", i === index);
    row.querySelector(".pick").setAttribute("aria-pressed", String(i === index));
  }
  show(models[index]);
  draw();
  if (!moved) return;
  const row = rows.get(index), behavior = still.matches ? "auto" : "smooth";
  box.scrollTo({ top: row.offsetTop - (box.clientHeight - row.offsetHeight) / 2, behavior: "auto" });
  panel.scrollIntoView({ block: "nearest", behavior });
}

for (const [index, row] of rows) {
  const name = row.querySelector(".name");
  const button = element("button", { type: "button", className: "pick" });
  name.replaceWith(button);
  button.append(name);
  button.setAttribute("aria-pressed", "false");
  row.addEventListener("click", () => {
    if (!String(getSelection())) pick(index);  // who selects text to copy it does not mean the row
  });
}

for (const changed of [dark, printed]) changed.addEventListener("change", draw);
document.body.classList.add("ready");
filter();
chart.on?.("plotly_click", (event) => event.points[0].customdata !== undefined && pick(event.points[0].customdata));
if (state.picked >= 0) pick(state.picked, { moved: false });
