// Keeps all that the page needs, so that it opens without a network. With one, the newest files are taken: a new bundle is never hidden by an old one.
const KEPT = "edge";
const PAGE = ["./", "page.mjs", "bundle.mjs", "places.mjs", "writer.mjs", "page.css", "vendor/tokenizers.min.mjs"];
// What runs the model, by the bundle's format.
const ENGINES = {
  onnx: ["vendor/ort.wasm.bundle.min.mjs", "vendor/ort-wasm-simd-threaded.wasm"],
  gguf: ["llama.mjs", "grammar.mjs", "vendor/index.min.js", "vendor/single-thread/wllama.wasm", "vendor/multi-thread/wllama.wasm"],
};

self.addEventListener("install", (event) => event.waitUntil(keep()));
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

async function keep() {
  const { format, model, tokenizer } = await (await fetch("bundle/manifest.json")).json();
  const bundle = ["manifest.json", "golden.jsonl", model, tokenizer].map((name) => `bundle/${name}`);
  await (await caches.open(KEPT)).addAll([...PAGE, ...ENGINES[format], ...bundle]);
  await self.skipWaiting();
}

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && new URL(url).origin === location.origin) event.respondWith(newest(event.request));
});

async function newest(request) {
  const kept = await caches.open(KEPT);
  try {
    const response = await fetch(request);
    if (response.ok) await kept.put(request, response.clone());
    return response;
  } catch (problem) {
    const old = await kept.match(request);
    if (!old) throw problem;
    return old;
  }
}
