// A bundle in JavaScript: text in; ids, logits and the answer out. Knows neither page nor server: both hand in what reads files.

import { openWriter, valid } from "./writer.mjs";
import { Places, spans } from "./places.mjs";

/** What a task makes of a model's output, as edgedistill/tasks/ does: {answer, confidence?, shares?, spans?, written?}.
 *  output: {logits: Float32Array [outputs] or [tokens, outputs]}, or {written, scores} of an answer that is written. tokens: {ids, places?} of the text. */
export function answer(manifest, { logits, written, scores }, text, { places } = {}) {
  const { task, labels, settings } = manifest;
  if (task === "generate") return { answer: valid(written, settings), written, confidence: Math.exp(scores.reduce((one, other) => one + other, 0)) };
  if (task === "tag") {
    const found = spans(labels, logits, text, places);
    return { answer: found.map(({ start, end, label }) => [start, end, label]), spans: found };
  }
  const top = Math.max(...logits);
  if (task === "classify") {
    const raised = Array.from(logits, (logit) => Math.exp(logit - top));
    const sum = raised.reduce((one, other) => one + other);
    const best = logits.indexOf(top);
    return { answer: labels[best], confidence: raised[best] / sum, shares: raised.map((value) => value / sum) };
  }
  if (task === "multi_label") {
    const shares = Array.from(logits, (logit) => 0.5 * (1 + Math.tanh(0.5 * logit)));
    return { answer: labels.filter((_, place) => shares[place] >= settings.threshold).sort(), shares };
  }
  if (task === "score") return { answer: Object.fromEntries(labels.map((name, place) => [name, logits[place] * settings.spread[place] + settings.mean[place]])) };
  if (task === "embed") return { answer: Array.from(logits) };
  throw new Error(`The bundle's task is ${task}; JavaScript answers classify, multi_label, score, embed, tag and generate.`);
}

export class Bundle {
  /** @param read (name) => Promise<ArrayBuffer> of a file of the bundle. @param ort ONNX Runtime, or null. @param Tokenizer of @huggingface/tokenizers.
   *  @param openLlama (model, manifest) => Promise of llama.cpp with the model loaded, as writer.mjs wants it; for GGUF bundles alone. */
  static async open(read, ort, Tokenizer, openLlama) {
    const json = async (name) => JSON.parse(new TextDecoder().decode(await read(name)));
    const manifest = await json("manifest.json");
    const tokenizer = await json(manifest.tokenizer);
    const bundle = Object.assign(new Bundle(), { read, ort, manifest });
    if (manifest.format === "gguf") {
      if (!openLlama) throw new Error("The bundle is GGUF, and there is no llama.cpp here.");
      const llama = await openLlama(await read(manifest.model), manifest);
      return Object.assign(bundle, { writer: openWriter(manifest, tokenizer, Tokenizer, llama) });
    }
    const session = await ort.InferenceSession.create(await read(manifest.model));
    Object.assign(bundle, { session, tokenizer: new Tokenizer(tokenizer, {}), ends: lastTokens(tokenizer), begins: firstTokens(tokenizer) });
    return Object.assign(bundle, manifest.task === "tag" ? { places: new Places(tokenizer, bundle.tokenizer) } : {});
  }

  /** {ids, places?}: token ids, cut off so that the special tokens at the end stay, and where each stands when the task asks; or the whole prompt. */
  encode(text) {
    if (this.writer) return { ids: this.writer.encode(text) };
    const all = this.tokenizer.encode(text).ids;
    const most = this.manifest.max_tokens;
    const ids = all.length <= most ? all : [...all.slice(0, most - this.ends), ...all.slice(all.length - this.ends)];
    return { ids, ...(this.places ? { places: this.places.of(text, ids, this.begins, this.ends) } : {}) };
  }

  /** What the model gives for ids: {logits}, or {written, scores, ids, first_ms}. constrained: what is written is held to the grammar. */
  async run(ids, constrained = true) {
    if (this.writer) return this.writer.write(ids, constrained);
    const row = (value) => new this.ort.Tensor("int64", BigInt64Array.from(ids, value), [1, ids.length]);
    const feeds = { input_ids: row(BigInt), attention_mask: row(() => 1n), token_type_ids: row(() => 0n) };
    const wanted = Object.fromEntries(this.session.inputNames.map((name) => [name, feeds[name]]));
    return { logits: (await this.session.run(wanted, ["logits"])).logits.data };
  }

  /** The output's numbers as golden vectors keep them: rows of [outputs] where the model answers token by token. */
  numbers({ logits, scores }) {
    if (scores) return scores;
    const wide = this.manifest.labels.length;
    if (this.manifest.task !== "tag") return Array.from(logits);
    return Array.from({ length: logits.length / wide }, (_, token) => Array.from(logits.subarray(token * wide, (token + 1) * wide)));
  }

  /** The answer to one text and how many milliseconds it took, text in to answer out. */
  async ask(text) {
    const start = performance.now();
    const tokens = this.encode(text);
    const said = answer(this.manifest, await this.run(tokens.ids), text, tokens);
    return { text, ...said, ms: performance.now() - start };
  }

  /** Every golden vector: ids equal, logits within the manifest's bound, answer equal. Names the first that differs.
   *  @param turn (work) => Promise of its result: lets other work between two vectors. */
  async check(turn = (work) => work()) {
    const lines = new TextDecoder().decode(await this.read("golden.jsonl")).trim().split("\n");
    let worst = 0;
    for (const [place, line] of lines.entries()) {
      const golden = JSON.parse(line);
      const differs = (what, given, wanted) => ({ golden: "differs", vector: place + 1, text: golden.text, [what]: given, wanted });
      const tokens = this.encode(golden.text);
      if (JSON.stringify(tokens.ids) !== JSON.stringify(golden.ids)) return differs("ids", tokens.ids, golden.ids);
      if (golden.answer === null && golden.written) continue; // a near tie: from there on another answer is written
      const output = await turn(() => this.run(tokens.ids));
      const said = answer(this.manifest, output, golden.text, tokens).answer;
      const given = this.numbers(output).flat(), wanted = golden.logits.flat();
      if (given.length !== wanted.length) return differs("answer", said, golden.answer); // of an answer that is written: more tokens or fewer
      const apart = Math.max(...wanted.map((logit, output) => Math.abs(logit - given[output])));
      if (!(apart <= this.manifest.logit_bound)) return differs("logits", given, wanted); // so written, a NaN differs too
      worst = Math.max(worst, apart);
      if (golden.answer !== null && !same(said, golden.answer)) return differs("answer", said, golden.answer);
    }
    return { golden: "equal", vectors: lines.length, worst_logit: worst, allowed: this.manifest.logit_bound };
  }
}

/** Whether two values are the same JSON, in whatever order their keys stand. */
function same(one, other) {
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return one === other;
  const [ours, theirs] = [Object.keys(one), Object.keys(other)];
  return Array.isArray(one) === Array.isArray(other) && ours.length === theirs.length && ours.every((key) => key in other && same(one[key], other[key]));
}

/** How many special tokens stand before every text. */
function firstTokens({ post_processor: ends }) {
  return ends?.type === "TemplateProcessing" ? ends.single.findIndex((part) => part.Sequence) : 1;
}

/** How many special tokens stand behind every text. */
function lastTokens({ post_processor: ends }) {
  if (ends?.type !== "TemplateProcessing") return 1;
  return ends.single.length - 1 - ends.single.findIndex((part) => part.Sequence);
}
