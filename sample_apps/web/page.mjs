import * as ort from "./vendor/ort.wasm.bundle.min.mjs";
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

function show(bundle, said) {
  const { labels } = bundle.manifest;
  const given = [said.answer].flat();
  at("answer").textContent = given.join(", ") || "none";
  at("sure").textContent = said.confidence === undefined ? "" : `${percent(said.confidence)} sure`;
  at("ms").textContent = `${said.ms < 10 ? said.ms.toFixed(1) : said.ms.toFixed(0)} ms on this device`;
  const ranked = labels.map((label, place) => [label, said.shares[place]]).sort((one, other) => other[1] - one[1]);
  at("shares").replaceChildren(...ranked.slice(0, 6).map(([label, share]) => bar(label, share, given.includes(label))));
  at("said").hidden = false;
}

async function start() {
  ort.env.wasm.wasmPaths = { wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", location.href).href };
  ort.env.wasm.numThreads = 1; // a student answers in a millisecond or two: waking a second thread takes as long
  const bundle = await Bundle.open(read, ort, Tokenizer);
  const { manifest } = bundle;
  // A page that is not isolated from other origins gets a clock of 0.1 ms steps, an isolated one of 5 µs.
  if (!crossOriginIsolated) at("isolated").hidden = false;
  document.title = manifest.name;
  at("name").textContent = manifest.name.replaceAll("-", " ");
  at("about").textContent = `${manifest.labels.length} possible answers. The model runs in this page: nothing that you type leaves the device.`;
  let turn = 0;
  const ask = async () => {
    const mine = ++turn;
    if (!at("text").value.trim()) return void (at("said").hidden = true);
    const said = await bundle.ask(at("text").value);
    if (mine === turn) show(bundle, said); // an answer that comes late is not shown over a newer one
  };
  await bundle.ask("warm up"); // the first run is slower, and nobody's answer
  at("form").addEventListener("submit", (event) => (event.preventDefault(), ask()));
  at("text").addEventListener("input", ask);
  at("text").disabled = false;
  at("text").focus();
  const checked = await bundle.check();
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
