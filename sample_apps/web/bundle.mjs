// A bundle in JavaScript: text in; ids, logits and the answer out. Knows neither page nor server: both hand in what reads files.

/** What a task makes of logits, as edgedistill/tasks/ does: {answer, confidence?, shares?}. logits: Float32Array [outputs]. */
export function answer(manifest, logits) {
  const { task, labels, settings } = manifest;
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
  throw new Error(`The bundle's task is ${task}; JavaScript answers classify, multi_label, score and embed.`);
}

export class Bundle {
  /** @param read (name) => Promise<ArrayBuffer> of a file of the bundle. @param ort ONNX Runtime. @param Tokenizer of @huggingface/tokenizers. */
  static async open(read, ort, Tokenizer) {
    const json = async (name) => JSON.parse(new TextDecoder().decode(await read(name)));
    const manifest = await json("manifest.json");
    const tokenizer = await json(manifest.tokenizer);
    const session = await ort.InferenceSession.create(await read(manifest.model));
    return Object.assign(new Bundle(), { read, ort, manifest, session, tokenizer: new Tokenizer(tokenizer, {}), ends: lastTokens(tokenizer) });
  }

  /** Token ids, cut off so that the special tokens at the end stay. */
  encode(text) {
    const { ids } = this.tokenizer.encode(text);
    const most = this.manifest.max_tokens;
    return ids.length <= most ? ids : [...ids.slice(0, most - this.ends), ...ids.slice(ids.length - this.ends)];
  }

  async logits(ids) {
    const row = (value) => new this.ort.Tensor("int64", BigInt64Array.from(ids, value), [1, ids.length]);
    const feeds = { input_ids: row(BigInt), attention_mask: row(() => 1n), token_type_ids: row(() => 0n) };
    const wanted = Object.fromEntries(this.session.inputNames.map((name) => [name, feeds[name]]));
    return (await this.session.run(wanted, ["logits"])).logits.data;
  }

  /** The answer to one text and how many milliseconds it took, text in to answer out. */
  async ask(text) {
    const start = performance.now();
    const said = answer(this.manifest, await this.logits(this.encode(text)));
    return { text, ...said, ms: performance.now() - start };
  }

  /** Every golden vector: ids equal, logits within the manifest's bound, answer equal. Names the first that differs. */
  async check() {
    const lines = new TextDecoder().decode(await this.read("golden.jsonl")).trim().split("\n");
    let worst = 0;
    for (const [place, line] of lines.entries()) {
      const golden = JSON.parse(line);
      const differs = (what, given, wanted) => ({ golden: "differs", vector: place + 1, text: golden.text, [what]: given, wanted });
      const ids = this.encode(golden.text);
      if (JSON.stringify(ids) !== JSON.stringify(golden.ids)) return differs("ids", ids, golden.ids);
      const logits = await this.logits(ids);
      const apart = Math.max(...golden.logits.map((logit, output) => Math.abs(logit - logits[output])));
      if (!(apart <= this.manifest.logit_bound)) return differs("logits", Array.from(logits), golden.logits); // so written, a NaN differs too
      worst = Math.max(worst, apart);
      const said = answer(this.manifest, logits).answer;
      if (golden.answer !== null && JSON.stringify(said) !== JSON.stringify(golden.answer)) return differs("answer", said, golden.answer);
    }
    return { golden: "equal", vectors: lines.length, worst_logit: worst, allowed: this.manifest.logit_bound };
  }
}

/** How many special tokens stand behind every text. */
function lastTokens({ post_processor: ends }) {
  if (ends?.type !== "TemplateProcessing") return 1;
  return ends.single.length - 1 - ends.single.findIndex((part) => part.Sequence);
}
