// A runner in JavaScript, in a page or in Node: answers texts one by one, as an app would, and times the three parts.
// The lines that it reads and gives are those of edgedistill/runtimes/__init__.py.
import { answer, Bundle } from "./bundle.mjs";

const nanoseconds = (milliseconds) => Math.round(milliseconds * 1e6);

/** What `decode` makes of an answer for the report: the class's number, else the answer's own form. */
function target(task, labels, said) {
  if (task === "classify") return labels.indexOf(said.answer);
  return task === "score" ? Object.values(said.answer) : said.answer;
}

/** Repeated and cut to exactly `count`, the ends kept. */
function cutTo(ids, count) {
  const middle = ids.slice(1, -1);
  const inner = middle.length ? middle : ids.slice(-1);
  return [ids[0], ...Array.from({ length: count - 2 }, (_, place) => inner[place % inner.length]), ids.at(-1)];
}

/** A fixed piece of arithmetic (a linear congruential generator): what it takes says how fast the processor is just now. */
function loop() {
  const start = performance.now();
  let value = 1;
  for (let step = 0; step < 500_000; step += 1) value = (Math.imul(value, 1103515245) + 12345) | 0;
  loop.kept = value; // the compiler must not leave it out
  return nanoseconds(performance.now() - start);
}

export class Runner {
  /** @param hello the first line. @param read (name) => Promise<ArrayBuffer> of "model" and "tokenizer". The rest as in bundle.mjs. */
  static async open(hello, read, ort, Tokenizer, openLlama) {
    const { labels, ...settings } = hello.settings;
    const format = hello.model.endsWith(".gguf") ? "gguf" : "onnx";
    const manifest = { task: hello.task, format, labels, settings, max_tokens: hello.max_tokens, model: "model", tokenizer: "tokenizer", target: hello };
    const begin = performance.now();
    const files = (name) => (name === "manifest.json" ? new TextEncoder().encode(JSON.stringify(manifest)).buffer : read(name));
    const runner = Object.assign(new Runner(), { bundle: await Bundle.open(files, ort, Tokenizer, openLlama) });
    runner.load_ms = performance.now() - begin;
    await runner.measure({ texts: [hello.first_text] });
    return runner;
  }

  async measure({ texts, tokens, wants = [], loop: times, constrained = true, forced }) {
    if (times) return { loop_ns: Array.from({ length: times }, loop) };
    const { manifest, writer } = this.bundle;
    if (forced) {
      const held = [];
      for (const { ids, answer: given } of forced) held.push(await writer.forced(ids, given));
      return { forced: held };
    }
    const out = { tokenize_ns: [], model_ns: [], decode_ns: [], ...(writer ? { prompt_tokens: [], answer_tokens: [], first_ns: [] } : {}) };
    for (const want of wants) out[want] = [];
    for (const text of texts) {
      const start = performance.now();
      const found = writer ? { ids: writer.encode(text, tokens) } : this.bundle.encode(text);
      if (tokens && !writer) for (const [name, values] of Object.entries(found)) found[name] = cutTo(values, tokens);
      const { ids } = found;
      const tokenized = performance.now();
      const output = await this.bundle.run(ids, constrained);
      const ran = performance.now();
      const said = answer(manifest, output, text, found);
      const done = performance.now();
      out.tokenize_ns.push(nanoseconds(tokenized - start));
      out.model_ns.push(nanoseconds(ran - tokenized));
      out.decode_ns.push(nanoseconds(done - ran));
      if (writer) {
        out.prompt_tokens.push(ids.length);
        out.answer_tokens.push(output.ids.length);
        out.first_ns.push(nanoseconds(output.first_ms));
      }
      const row = { ...said, target: target(manifest.task, manifest.labels, said) };
      delete row.shares;
      for (const want of wants) out[want].push(want === "answers" ? row : want === "logits" ? this.bundle.numbers(output) : ids);
    }
    return out;
  }
}
