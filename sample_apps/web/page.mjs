import { Tokenizer } from "./vendor/tokenizers.min.mjs";
import { Bundle } from "./bundle.mjs";

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share > 0.995 ? 1 : 0)} %`;

async function read(name) {
  const response = await fetch(`bundle/${name}`);
  if (!response.ok) throw new Error(`bundle/${name} is not there (${response.status}).`);
  return response.arrayBuffer();
}

function bar(label, share, given) {
  const row = document.createElement("div");
  row.className = given ? "row given" : "row";
  const [name, track, figure] = ["span", "div", "span"].map((tag) => row.appendChild(document.createElement(tag)));
  name.textContent = label; // as text: a label is data, and data is no markup
  name.title = label;
  track.className = "track";
  track.appendChild(document.createElement("div")).style.width = `${100 * share}%`;
  figure.textContent = percent(share);
  return row;
}

/** Classes: each with how likely it is. */
function showShares(labels, said) {
  const given = [said.answer].flat();
  at("answer").textContent = given.join(", ") || "none";
  const ranked = labels.map((label, place) => [label, said.shares[place]]).sort((one, other) => other[1] - one[1]);
  at("shares").replaceChildren(...ranked.slice(0, 6).map(([label, share]) => bar(label, share, given.includes(label))));
}

/** Spans: the text with each of them marked. The same type has the same colour. */
function showSpans(labels, said) {
  const characters = [...said.text], types = [...new Set(labels.map((label) => label.replace(/^[BIESLU]-/, "")))];
  const parts = [];
  let done = 0;
  const plain = (end) => end > done && parts.push(document.createTextNode(characters.slice(done, end).join("")));
  for (const { start, end, label, confidence } of said.spans) {
    plain(start);
    const mark = document.createElement("mark");
    mark.style.setProperty("--hue", (types.indexOf(label) * 137) % 360); // the golden angle: neighbours in the list are far apart
    mark.append(characters.slice(start, end).join(""), Object.assign(document.createElement("small"), { textContent: label }));
    mark.title = `${label}, ${percent(confidence)} sure`;
    parts.push(mark);
    done = end;
  }
  plain(characters.length);
  at("answer").textContent = said.spans.length === 1 ? "1 span" : `${said.spans.length} spans`;
  const text = Object.assign(document.createElement("p"), { className: "marked" });
  text.append(...parts);
  at("shares").replaceChildren(text);
}

/** What was written: JSON, a key a line; as it stands where it is not valid. */
function showWritten(labels, said) {
  at("answer").textContent = said.answer ? String(Object.values(said.answer)[0]) : "not valid";
  const text = said.answer ? JSON.stringify(said.answer, null, 2) : said.written;
  at("shares").replaceChildren(Object.assign(document.createElement("pre"), { textContent: text }));
}

function show(bundle, said) {
  const { labels, task } = bundle.manifest;
  at("sure").textContent = said.confidence === undefined ? "" : `${percent(said.confidence)} sure`;
  at("ms").textContent = `${said.ms < 10 ? said.ms.toFixed(1) : said.ms.toFixed(0)} ms on this device`;
  ({ tag: showSpans, generate: showWritten }[task] ?? showShares)(labels, said);
  at("said").hidden = false;
}

const ABOUT = { tag: "Marks what it finds in a text.", generate: "Writes what is asked for as JSON. Press Enter." };

async function onnx() {
  const ort = await import("./vendor/ort.wasm.bundle.min.mjs");
  ort.env.wasm.wasmPaths = { wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", location.href).href };
  ort.env.wasm.numThreads = 1; // a student answers in a millisecond or two: waking a second thread takes as long
  return ort;
}

async function start() {
  // What runs a model is some megabytes: only that of this bundle is loaded.
  const { format } = JSON.parse(new TextDecoder().decode(await read("manifest.json")));
  const [ort, llama] = format === "gguf" ? [null, (await import("./llama.mjs")).openLlama] : [await onnx(), null];
  const bundle = await Bundle.open(read, ort, Tokenizer, llama);
  const { manifest } = bundle;
  const writes = manifest.task === "generate";
  // A page that is not isolated from other origins gets a clock of 0.1 ms steps, an isolated one of 5 µs.
  if (!crossOriginIsolated) at("isolated").hidden = false;
  document.title = manifest.name;
  at("name").textContent = manifest.name.replaceAll("-", " ");
  const what = ABOUT[manifest.task] ?? `${manifest.labels.length} possible answers.`;
  at("about").textContent = `${what} The model runs in this page: nothing that you type leaves the device.`;
  let turn = 0, last = Promise.resolve();
  const ask = async () => {
    const mine = ++turn;
    if (!at("text").value.trim()) return void (at("said").hidden = true);
    // One at a time: a decoder has one memory. What was typed over meanwhile is not asked any more.
    last = last.then(async () => {
      if (mine !== turn) return;
      const said = await bundle.ask(at("text").value);
      if (mine === turn) show(bundle, said); // an answer that comes late is not shown over a newer one
    });
    await last;
  };
  await bundle.ask("warm up"); // the first run is slower, and nobody's answer
  at("form").addEventListener("submit", (event) => (event.preventDefault(), ask()));
  if (!writes) at("text").addEventListener("input", ask); // what is written takes seconds: not at every key
  at("text").disabled = false;
  at("text").focus();
  // What a person asks comes between two golden vectors.
  const checked = await bundle.check((work) => (last = last.then(work)));
  const equal = checked.golden === "equal";
  at("golden").textContent = equal
    ? `${checked.vectors} of ${checked.vectors} golden vectors equal on this device`
    : `Golden vector ${checked.vector} differs on this device: do not trust its answers`;
  at("golden").className = equal ? "good" : "bad";
  Object.assign(window, { bundle, checked });
}

async function keepForOffline() {
  if (!navigator.serviceWorker) return void (at("offline").textContent = "This browser keeps no pages for offline use here");
  await navigator.serviceWorker.register("worker.js");
  await navigator.serviceWorker.ready;
  at("offline").textContent = "Works offline";
  at("offline").className = "good";
}

start().then(keepForOffline).catch((problem) => {
  at("problem").textContent = problem.message;
  at("problem").hidden = false;
});
