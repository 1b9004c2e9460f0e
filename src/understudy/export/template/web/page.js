// What index.html does: runs model.onnx as preprocessing.json says. N samples, C classes.
"use strict";

(() => {
  const BATCH = 256, RUNS = 100, WARM_UP = 20, PATIENCE_MS = 20000, ENOUGH_MS = 2, SHOWN = 50, TOP = 5;
  const ORT = "ort/";
  // By dtype of the model's input: ONNX Runtime's word, the array, and how a number becomes one of it.
  const KINDS = {
    float32: ["float32", Float32Array, Number], float64: ["float64", Float64Array, Number], int64: ["int64", BigInt64Array, BigInt],
    int32: ["int32", Int32Array, Number], int8: ["int8", Int8Array, Number], uint8: ["uint8", Uint8Array, Number], bool: ["bool", Uint8Array, Number],
  };
  const NPY = {
    f4: Float32Array, f8: Float64Array, i8: BigInt64Array, u8: BigUint64Array, i4: Int32Array, u4: Uint32Array, i2: Int16Array, u2: Uint16Array,
    i1: Int8Array, u1: Uint8Array, b1: Uint8Array,
  };
  const $ = (id) => document.getElementById(id);
  const product = (shape) => shape.reduce((a, b) => a * b, 1);
  const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);
  const pause = () => new Promise((done) => setTimeout(done));

  class Refused extends Error {}  // of a file that the user gave: told as it is

  // -- the model ----------------------------------------------------------------------------------------------------

  let facts, session;
  const sizes = {};
  const figures = {};

  async function bytes(path) {
    const answer = await fetch(path, { cache: "no-cache" });
    if (!answer.ok) throw new Refused(`${path} is not there (${answer.status}). The folder has to be served as a whole.`);
    return new Uint8Array(await answer.arrayBuffer());
  }

  async function load() {
    if (location.protocol === "file:") {
      throw new Refused("A browser does not let a page read its files from the disk. Serve the folder:\npython -m http.server\nand open http://localhost:8000");
    }
    if (typeof ort === "undefined") throw new Refused(`${ORT}ort.wasm.min.js is not there. The folder has to be served as a whole.`);
    const [told, model, wasm] = await Promise.all(["preprocessing.json", "model.onnx", `${ORT}ort-wasm-simd-threaded.wasm`].map(bytes));
    facts = JSON.parse(new TextDecoder().decode(told));
    Object.assign(sizes, { model: model.length, runtime: wasm.length });
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = 1;  // more need SharedArrayBuffer, which most servers' headers do not allow
    ort.env.wasm.wasmBinary = wasm.buffer;
    ort.env.wasm.wasmPaths = { mjs: new URL(`${ORT}ort-wasm-simd-threaded.js`, document.baseURI).href };
    session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  }

  /** Samples as they are in a file, in the form that the model takes. */
  function prepare(data, shape, input) {
    if (same(shape, input.shape)) shape = [1, ...shape];
    if (!same(shape.slice(1), input.shape)) {
      throw new Refused(`The samples have the shape [${shape.slice(1)}], but [${input.shape}] is needed.`);
    }
    if (product(shape) !== data.length) throw new Refused(`${data.length} numbers are not an array of shape [${shape}].`);
    const [type, Kind, convert] = KINDS[input.dtype];
    const floats = input.dtype.startsWith("float"), given = data instanceof Float32Array || data instanceof Float64Array;
    if (given && !floats) throw new Refused(`The model takes whole numbers (${input.dtype}).`);
    let array = data instanceof Kind ? data : Kind.from(data, convert);
    if (input.layout === "channels_last") {
      const [n, c] = [shape[0], shape.at(-1)], places = product(shape.slice(1, -1)), moved = new Kind(array.length);
      for (let i = 0; i < n; i++) for (let p = 0; p < places; p++) for (let k = 0; k < c; k++) {
        moved[(i * c + k) * places + p] = array[(i * places + p) * c + k];
      }
      array = moved;
      shape = [n, c, ...shape.slice(1, -1)];
    }
    if (floats && input.scale !== null) array = arithmetic(array, shape, input);
    return { type, array, shape };
  }

  /** (x * scale - mean) / std, rounded after each step as numpy rounds it. */
  function arithmetic(array, shape, input) {
    const round = input.dtype === "float32" ? Math.fround : Number;
    const each = (value) => [value].flat().map(round), made = new array.constructor(array.length);
    const scale = round([input.scale].flat()[0]), mean = each(input.mean), std = each(input.std);
    const inner = product(shape.slice(2));
    for (let i = 0; i < array.length; i++) {
      const k = Math.floor(i / inner) % (shape[1] ?? 1);
      made[i] = round(round(round(array[i] * scale) - mean[k % mean.length]) / std[k % std.length]);
    }
    return made;
  }

  async function run(prepared) {
    const names = Object.keys(prepared), count = prepared[names[0]].shape[0], parts = [];
    for (let at = 0; at < count; at += BATCH) {
      const feeds = {};
      for (const name of names) {
        const { type, array, shape } = prepared[name], each = product(shape.slice(1)), to = Math.min(at + BATCH, count);
        feeds[name] = new ort.Tensor(type, array.slice(at * each, to * each), [to - at, ...shape.slice(1)]);
      }
      const output = (await session.run(feeds))[session.outputNames[0]];
      parts.push(...rows(output));
    }
    return parts;
  }

  function rows(output) {
    const each = product(output.dims.slice(1)), values = Array.from(output.data, Number);
    return Array.from({ length: output.dims[0] }, (_, i) => values.slice(i * each, (i + 1) * each));
  }

  /** What predict.py prints of a sample's outputs. */
  function entry(y) {
    if (facts.task === "regression") return { values: y };
    if (facts.task === "multi-label") {
      return { labels: facts.classes.filter((_, k) => y[k] > 0), probabilities: y.map((v) => 0.5 + Math.tanh(v / 2) / 2) };
    }
    const most = y.reduce((a, b) => Math.max(a, b)), e = y.map((v) => Math.exp(v - most)), sum = e.reduce((a, b) => a + b);
    const index = y.indexOf(most);
    return { class: facts.classes[index], index, probabilities: e.map((v) => v / sum) };
  }

  let last = Promise.resolve();
  /** One after the other: a session runs one batch at a time. */
  const queued = (work) => (last = last.then(work, work));

  /** For a page's own scripts: an array and its shape, [N, ...] or that of one sample, as they are in a file; or, by the inputs' names, {data, shape}. */
  async function predict(data, shape) {
    await ready;
    const names = Object.keys(facts.inputs), given = ArrayBuffer.isView(data) ? { [names[0]]: { data, shape } } : data;
    const lacks = names.filter((name) => !(name in given));
    if (lacks.length) throw new Refused(`The model also takes ${lacks.join(", ")}.`);
    const prepared = Object.fromEntries(names.map((name) => [name, prepare(given[name].data, given[name].shape, facts.inputs[name])]));
    return (await queued(() => run(prepared))).map(entry);
  }

  // -- its speed ----------------------------------------------------------------------------------------------------

  /** One sample of numbers that are not all alike; the time does not depend on which. */
  function example() {
    return Object.fromEntries(Object.entries(facts.inputs).map(([name, input]) => {
      const data = Array.from({ length: product(input.shape) }, (_, i) => (input.dtype.startsWith("float") ? Math.sin(i + 1) : 0));
      const [, Kind, convert] = KINDS[input.dtype];
      return [name, prepare(Kind.from(data, convert), [1, ...input.shape], input)];
    }));
  }

  async function measured() {
    const feeds = Object.fromEntries(Object.entries(example()).map(([name, { type, array, shape }]) => [name, new ort.Tensor(type, array, shape)]));
    const begin = performance.now(), times = [], late = () => performance.now() - begin > PATIENCE_MS;
    const timed = async (count) => {
      const from = performance.now();
      for (let i = 0; i < count; i++) await session.run(feeds);
      return performance.now() - from;
    };
    for (let i = 0; i < WARM_UP && performance.now() - begin < PATIENCE_MS / 4; i++) await timed(1);
    // A browser's clock ticks 0.1 ms or coarser: fast models are run several times between two looks at it.
    let group = 1, breath = performance.now();
    while (await timed(group) < ENOUGH_MS) group *= 2;
    while (!times.length || (times.length < RUNS && !late())) {
      times.push(await timed(group) / group);
      if (performance.now() - breath > 50) {
        await pause();
        breath = performance.now();
      }
    }
    times.sort((a, b) => a - b);
    const at = (share) => times[Math.ceil(share * times.length) - 1];
    // Of means over several runs the slowest says little of the slowest run.
    return { latency_ms_p50: at(0.5), latency_ms_p99: group > 1 ? null : at(0.99), runs: times.length, runs_a_time: group };
  }

  async function measure() {
    $("again").disabled = true;
    $("latency-how").textContent = "being measured";
    Object.assign(figures, await queued(measured));
    const { latency_ms_p50: p50, latency_ms_p99: p99, runs, runs_a_time: group } = figures;
    $("latency").textContent = `${number(p50)} ms`;
    const each = group > 1 ? `${runs} measurements of ${group} runs each, as the clock is coarse` : `${runs} runs`;
    $("latency-how").textContent = `${p99 === null ? "" : `p99 ${number(p99)} ms; `}batch 1, one thread, wasm; ${each}, after a warm-up`;
    $("again").disabled = false;
  }

  const number = (x) => (x >= 100 ? x.toFixed(0) : x.toPrecision(x >= 0.01 ? 3 : 2));
  const size = (n) => (n < 1e6 ? `${number(n / 1e3)} kB` : `${number(n / 1e6)} MB`);

  // -- files --------------------------------------------------------------------------------------------------------

  function npy(buffer) {
    const view = new DataView(buffer), magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
    if (buffer.byteLength < 12 || magic.some((byte, i) => view.getUint8(i) !== byte)) throw new Refused("This is not a .npy file.");
    const long = view.getUint8(6) > 1, start = long ? 12 : 10, length = long ? view.getUint32(8, true) : view.getUint16(8, true);
    const head = new TextDecoder("latin1").decode(buffer.slice(start, start + length));
    const told = /'descr':\s*'([<|=>])(\w\d)'.*'fortran_order':\s*(True|False).*'shape':\s*\(([^)]*)\)/s.exec(head);
    if (!told || !(told[2] in NPY) || told[1] === ">") throw new Refused("The page reads arrays of plain numbers, little-endian.");
    if (told[3] === "True") throw new Refused("The array is in Fortran's order: save np.ascontiguousarray(x).");
    const shape = told[4].split(",").filter((n) => n.trim()).map(Number), Kind = NPY[told[2]];
    const body = buffer.slice(start + length, start + length + product(shape) * Kind.BYTES_PER_ELEMENT);
    if (body.byteLength !== product(shape) * Kind.BYTES_PER_ELEMENT) throw new Refused("The file ends too early.");
    return { data: new Kind(body), shape, names: [] };
  }

  /** Cells by line, with quotes as CSV has them; with the number of the line that a row ends on. */
  function cells(text, delimiter) {
    const found = [];
    let row = [], cell = "", quoted = false, line = 1, begun = false;
    const put = () => { row.push(cell.trim()); cell = ""; begun = false; };
    const end = () => { put(); if (row.length > 1 || row[0] !== "") found.push([line, row]); row = []; };
    text = text.replace(/^\ufeff/, "").replace(/\r\n?/g, "\n");
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      if (quoted) {
        if (c === '"' && text[i + 1] === '"') { cell += '"'; i++; }
        else if (c === '"') quoted = false;
        else cell += c;
      }
      else if (c === '"' && !begun) { quoted = true; begun = true; }
      else if (c === delimiter) put();
      else if (c === "\n") end();
      else if (c !== " " || begun) { cell += c; begun = true; }
      if (c === "\n") line++;
    }
    if (cell || row.length) end();
    return found;
  }

  const MISSING = ["", "na", "n/a", "nan", "null", "none", "?"];
  const numeric = (text) => /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text);

  /** The rows of a CSV file like the training file, with the means and values of the training rows. */
  function table(text, raw) {
    const [[, names] = [0, []], ...samples] = cells(text, raw.delimiter);
    const lacks = raw.columns.filter((column) => !names.includes(column.name)).map((column) => column.name);
    if (lacks.length) throw new Refused(`It cannot be read like the training file: it has no column ${lacks.join(", ")}.`);
    if (!samples.length || samples.some(([, row]) => row.length !== names.length)) {
      throw new Refused("It cannot be read like the training file: it has no sample, or lines of other lengths.");
    }
    const made = samples.map(([line, row]) => raw.columns.flatMap((column) => one(row[names.indexOf(column.name)], column, line)));
    return { data: Float32Array.from(made.flat()), shape: [made.length, made[0].length], names: samples.map(([line]) => `line ${line}`) };
  }

  function one(cell, column, line) {
    if (column.values) return column.values.map((value) => Number(cell === value));
    const missing = MISSING.includes(cell.toLowerCase());
    if (!missing && !numeric(cell)) throw new Refused(`line ${line}: ${column.name}: '${cell}' is not a number.`);
    return [((missing ? column.mean : Number(cell)) - column.mean) / (column.std || 1)];
  }

  /** Plain numbers, a sample on a line; a first line of names is passed over. */
  function plain(text, input) {
    const lines = cells(text, text.includes(",") ? "," : text.includes(";") ? ";" : text.includes("\t") ? "\t" : " ");
    if (lines.length && !lines[0][1].every(numeric)) lines.shift();
    const each = product(input.shape);
    if (!lines.length) throw new Refused("There is no line of numbers in it.");
    for (const [line, row] of lines) {
      if (row.length !== each || !row.every(numeric)) throw new Refused(`line ${line}: ${each} numbers are needed, for a sample of shape [${input.shape}].`);
    }
    const data = lines.flatMap(([, row]) => row.map(Number)), [, Kind, convert] = KINDS[input.dtype];
    return { data: Kind.from(data, convert), shape: [lines.length, ...input.shape], names: lines.map(([line]) => `line ${line}`) };
  }

  /** A picture as in training: scaled until it covers the size, and cut from the middle; what is transparent becomes white. */
  async function picture(file, raw) {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
      throw new Refused(`${file.name}: is not a picture that this browser can read.`);
    });
    const canvas = element("canvas", { width: bitmap.width, height: bitmap.height }), pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.fillStyle = "white";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(bitmap, 0, 0);
    const { data } = pen.getImageData(0, 0, canvas.width, canvas.height), [h, w] = raw.size, places = canvas.width * canvas.height;
    const made = Array.from({ length: raw.channels }, (_, c) => {
      const plane = new Uint8Array(places);
      for (let p = 0; p < places; p++) plane[p] = raw.channels === 1 ? grey(data, 4 * p) : data[4 * p + c];
      return fit(plane, canvas.width, canvas.height, w, h);
    });
    const shape = [1, raw.channels, h, w], numbers = Float32Array.from(made.flatMap((plane) => Array.from(plane, (v) => Math.fround(v / 255))));
    const steps = { dtype: "float32", scale: 1, mean: raw.mean, std: raw.std };
    return { data: raw.mean === null ? numbers : arithmetic(numbers, shape, steps), shape, names: [file.name], seen: [shown(made, w, h)] };
  }

  /** Luma as ITU-R 601-2 has it, in 16 bits as Pillow counts it. */
  const grey = (data, at) => (data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 32768) >> 16;

  /** The middle of a plane at another size, each axis by itself; a triangle as wide as what falls on a pixel, so that fine patterns do not alias. */
  function fit(plane, width, height, w, h) {
    const wide = width / height >= w / h;
    const across = wide ? (w / h) * height : width, down = wide ? height : width / (w / h);
    const xs = weights(width, (width - across) / 2, across, w), ys = weights(height, (height - down) / 2, down, h);
    const middle = new Float64Array(w * height), made = new Float64Array(w * h);
    const byte = (v) => Math.min(255, Math.max(0, Math.floor(v + 0.5)));
    for (let y = 0; y < height; y++) for (let x = 0; x < w; x++) {
      middle[y * w + x] = byte(xs[x].weights.reduce((sum, weight, i) => sum + weight * plane[y * width + xs[x].from + i], 0));
    }
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      made[y * w + x] = byte(ys[y].weights.reduce((sum, weight, i) => sum + weight * middle[(ys[y].from + i) * w + x], 0));
    }
    return made;
  }

  /** For each pixel of an axis, which of the source's pixels fall on it, and how much each counts. */
  function weights(length, offset, extent, pixels) {
    const step = extent / pixels, reach = Math.max(step, 1);
    return Array.from({ length: pixels }, (_, at) => {
      const centre = offset + (at + 0.5) * step;
      const from = Math.max(0, Math.trunc(centre - reach + 0.5)), to = Math.min(length, Math.trunc(centre + reach + 0.5));
      const found = Array.from({ length: to - from }, (_, i) => Math.max(0, 1 - Math.abs((from + i + 0.5 - centre) / reach)));
      const sum = found.reduce((a, b) => a + b, 0);
      return { from, weights: found.map((weight) => weight / sum) };
    });
  }

  function shown(planes, w, h) {
    const canvas = element("canvas", { width: w, height: h }), pen = canvas.getContext("2d");
    const image = pen.createImageData(w, h);
    for (let p = 0; p < w * h; p++) {
      for (let c = 0; c < 3; c++) image.data[4 * p + c] = planes[planes.length === 3 ? c : 0][p];
      image.data[4 * p + 3] = 255;
    }
    pen.putImageData(image, 0, 0);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "what the model sees");
    return canvas;
  }

  const drawn = () => facts.raw?.kind === "pictures" && facts.raw.channels !== 4;
  const isPicture = (name) => drawn() && facts.raw.suffixes.some((suffix) => name.toLowerCase().endsWith(suffix));

  async function samples(file) {
    const input = Object.values(facts.inputs)[0], name = file.name.toLowerCase();
    if (name.endsWith(".npy")) return npy(await file.arrayBuffer());
    if (isPicture(name) || (drawn() && file.type.startsWith("image/"))) return picture(file, facts.raw);
    if (name.endsWith(".csv") || name.endsWith(".txt") || name.endsWith(".tsv")) {
      return facts.raw?.kind === "csv" ? table(await file.text(), facts.raw) : plain(await file.text(), input);
    }
    throw new Refused(`${file.name}: the page takes ${takes()}.`);
  }

  function takes() {
    const input = Object.values(facts.inputs)[0], shape = `[${input.shape.join(" × ")}]`;
    const lines = facts.raw?.kind === "csv" ? ".csv with the columns of the training file" : `.csv with ${product(input.shape)} numbers a line`;
    return [...(drawn() ? ["a picture"] : []), `.npy of samples ${shape}`, lines].join(", or ");
  }

  // -- what is shown ------------------------------------------------------------------------------------------------

  async function answer(files) {
    $("wrong").hidden = $("count").hidden = true;
    $("answers").replaceChildren();
    try {
      for (const file of files) {
        const given = await samples(file), answers = await predict(given.data, given.shape);
        answers.slice(0, SHOWN).forEach((told, i) => {
          $("answers").append(item(given.names[i] ?? (answers.length > 1 ? `sample ${i + 1}` : file.name), told, given.seen?.[i]));
        });
        $("count").textContent = `${answers.length} samples; the first ${SHOWN} are shown.`;
        $("count").hidden = answers.length <= SHOWN;
      }
    } catch (error) {
      $("wrong").textContent = error instanceof Refused ? error.message : `The model cannot run on this: ${error.message}`;
      $("wrong").hidden = false;
    }
  }

  function element(tag, options, ...children) {
    const made = Object.assign(document.createElement(tag), options);
    made.append(...children);
    return made;
  }

  function item(name, told, seen) {
    const said = element("div", { className: "said" }, element("div", { className: "how", textContent: name }));
    if (told.values) {
      said.append(element("div", { className: "best", textContent: told.values.slice(0, 20).map((v) => v.toPrecision(5)).join(", ") }));
    } else {
      const best = told.labels ? told.labels.join(", ") || "no label" : told.class;
      said.append(element("div", { className: "best", textContent: best }));
      const order = told.probabilities.map((p, k) => [p, facts.classes[k]]).sort((a, b) => b[0] - a[0]).slice(0, TOP);
      said.append(...order.map(([p, label]) => element(
        "div", { className: "row" }, element("progress", { max: 1, value: p, ariaLabel: label }),
        element("span", { textContent: label }), element("span", { textContent: `${(100 * p).toFixed(1)} %` }),
      )));
    }
    return element("li", {}, ...(seen ? [seen] : []), said);
  }

  function show() {
    const count = facts.classes?.length, inputs = Object.entries(facts.inputs);
    const what = { classification: `tells ${count} classes apart`, "multi-label": `gives ${count} labels`, regression: "gives values" }[facts.task];
    document.title = $("title").textContent = `A model that ${what}, in this browser`;
    $("state").hidden = true;
    $("size").textContent = size(sizes.model);
    $("runtime").textContent = size(sizes.runtime);
    $("figures").hidden = $("again-line").hidden = $("try").hidden = false;
    $("again").addEventListener("click", measure);
    const checked = facts.checked;
    $("checked").textContent = `When it was exported, model.onnx was compared with the model on ${checked.samples} samples: `
      + `largest error ${checked.max_error.toPrecision(2)}, agreement ${(100 * checked.agreement).toFixed(2)} %.`;
    if (inputs.length > 1) {
      $("drop").hidden = $("file").hidden = true;
      $("count").textContent = `The model takes ${inputs.map(([name]) => name).join(", ")}: understudy.predict({ name: { data, shape } }) in the console.`;
      $("count").hidden = false;
      return;
    }
    $("takes").textContent = takes();
    $("file").multiple = drawn();
    $("file").accept = [".npy", ".csv", ...(drawn() ? facts.raw.suffixes : [])].join(",");
    $("file").addEventListener("change", async () => {
      await answer([...$("file").files]);
      $("file").value = "";  // so that the same file can be chosen again
    });
    for (const event of ["dragover", "dragleave", "drop"]) {
      $("drop").addEventListener(event, (told) => {
        told.preventDefault();
        $("drop").classList.toggle("over", event === "dragover");
        if (event === "drop") answer([...told.dataTransfer.files]);
      });
    }
  }

  const ready = load();
  const measuredOnce = ready.then(() => { show(); return measure(); });
  measuredOnce.catch((error) => {
    $("state").textContent = error instanceof Refused ? error.message : `The model cannot run in this browser: ${error.message ?? error}`;
    $("state").className = "wrong";
    $("state").hidden = false;
    $("figures").hidden = $("again-line").hidden = $("try").hidden = true;
  });
  window.understudy = { ready: measuredOnce, predict, samples: (file) => ready.then(() => samples(file)), figures, sizes };
})();
