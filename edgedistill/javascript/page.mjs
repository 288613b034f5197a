// The runner's page. drive.mjs calls `runner.open` and `runner.measure` here.
import * as ort from "./vendor/ort.wasm.bundle.min.mjs";
import { Tokenizer } from "./vendor/tokenizers.min.mjs";
import { Runner } from "./measure.mjs";

async function read(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`the ${name} cannot be read (${response.status})`);
  return response.arrayBuffer();
}

let opened;
globalThis.runner = {
  async open(hello) {
    ort.env.wasm.wasmPaths = { wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", location.href).href };
    ort.env.wasm.numThreads = hello.threads;
    opened = await Runner.open(hello, read, ort, Tokenizer);
    return { load_ms: opened.load_ms };
  },
  measure: (request) => opened.measure(request),
};
