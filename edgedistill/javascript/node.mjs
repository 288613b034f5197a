// The runner in Node: JSON lines in and out. Argument: the node_modules folder with onnxruntime-node.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [, , modules] = process.argv;
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const peak = () => 1024 * Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0);

try {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const hello = JSON.parse((await lines.next()).value);
  const { Tokenizer } = await import(pathToFileURL(`${modules}/@huggingface/tokenizers/dist/tokenizers.min.mjs`));
  const { Runner } = await import("./measure.mjs");
  const baseline = peak();
  const gguf = hello.model.endsWith(".gguf");
  const ort = gguf ? {} : createRequire(`${modules}/`)("onnxruntime-node");
  const options = { intraOpNumThreads: hello.threads, interOpNumThreads: 1 };
  const single = { Tensor: ort.Tensor, InferenceSession: { create: (model) => ort.InferenceSession.create(model, options) } };
  // llama.cpp reads the file by itself, as it likes to.
  const read = async (name) => (gguf && name === "model" ? null : new Uint8Array(readFileSync(hello[name])).buffer);
  const { openLlama } = await import("./llama_node.mjs");
  const runner = await Runner.open(hello, read, single, Tokenizer, (_, manifest) => openLlama(modules, hello.model, manifest, hello.threads));
  const cold = Number(process.hrtime.bigint() - BigInt(hello.started_ns)) / 1e6;
  say({ load_ms: runner.load_ms, cold_start_ms: cold, baseline_bytes: baseline, peak_bytes: peak() });
  for (let line = await lines.next(); !line.done; line = await lines.next())
    say({ ...(await runner.measure(JSON.parse(line.value))), peak_bytes: peak() });
} catch (problem) {
  say({ error: problem.message });
  process.exitCode = 1;
}
