// The runner's page. drive.mjs calls `runner.open` and `runner.measure` here.
import { Tokenizer } from "./vendor/tokenizers.min.mjs";
import { Runner } from "./measure.mjs";

async function read(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`the ${name} cannot be read (${response.status})`);
  return response.arrayBuffer();
}

async function withOnnx(hello) {
  const ort = await import("./vendor/ort.wasm.bundle.min.mjs");
  ort.env.wasm.wasmPaths = { wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", location.href).href };
  ort.env.wasm.numThreads = hello.threads;
  return Runner.open(hello, read, ort, Tokenizer);
}

async function withLlama(hello) {
  const { openLlama } = await import("./llama.mjs");
  return Runner.open(hello, read, null, Tokenizer, (model, manifest) => openLlama(model, manifest, hello.threads));
}

let opened;
globalThis.runner = {
  async open(hello) {
    opened = await (hello.model.endsWith(".gguf") ? withLlama(hello) : withOnnx(hello));
    return { load_ms: opened.load_ms };
  },
  measure: (request) => opened.measure(request),
};
