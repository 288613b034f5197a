// llama.cpp in Node: the prebuilt library of node-llama-cpp, driven as writer.mjs asks. Its own JavaScript is left out: it takes the tokens it likes, and
// has two dozen dependencies.
import { createRequire } from "node:module";

/** path: of model.gguf. Throws what llama.cpp says of a file that it cannot load. */
export async function openLlama(modules, path, { max_tokens: room }, threads) {
  // By its path: the package shows it to no one else.
  const folder = `${modules}/@node-llama-cpp/linux-x64/bins/linux-x64`;
  const addon = createRequire(`${modules}/`)(`${folder}/llama-addon.node`);
  addon.setLogger(() => {});
  addon.loadBackends(folder); // takes the build for the best instructions that this processor has
  await addon.init();
  const model = new addon.AddonModel(path, { gpuLayers: 0, useMmap: true, addonExports: addon });
  if (!(await model.init())) throw new Error(`llama.cpp cannot load ${path}`);
  const context = new addon.AddonContext(model, { contextSize: room, batchSize: room, sequences: 1, threads, flashAttention: "auto" });
  if (!(await context.init())) throw new Error(`llama.cpp could not make room for ${room} tokens`);
  context.setThreads(threads);
  const plain = new addon.AddonSampler(model);
  plain.applyConfig({ temperature: 0 });

  /** [token, logit, token, logit, …] behind these tokens, the likeliest first. */
  async function logits(ids, place) {
    context.initBatch(ids.length);
    const [last] = context.addToBatch(0, place, Uint32Array.from(ids), Uint32Array.of(ids.length - 1));
    await context.decodeBatch();
    return (await context.sampleToken(last, plain, false, false, true))[3];
  }

  /** Log-probability of the token at `at`. */
  function score(found, at) {
    let sum = 0;
    for (let one = 1; one < found.length; one += 2) sum += Math.exp(found[one] - found[1]);
    return found[at + 1] - found[1] - Math.log(sum);
  }

  return {
    async write(ids, grammar, most) {
      const start = performance.now();
      const rules = grammar ? new addon.AddonGrammarEvaluationState(model, new addon.AddonGrammar(grammar, { addonExports: addon, rootRuleName: "root" })) : null;
      const allowed = (token) => !rules || addon.AddonSampler.canBeNextTokenForGrammarEvaluationState(rules, token);
      const out = { ids: [], scores: [], first_ms: 0 };
      context.disposeSequence(0);
      for (let given = ids, place = 0; out.ids.length < most; ) {
        const found = await logits(given, place);
        let at = 0;
        while (at < found.length && !allowed(found[at])) at += 2;
        if (at >= found.length) at = 0; // none is: as llama.cpp does
        out.scores.push(score(found, at));
        out.ids.push(found[at]);
        out.first_ms ||= performance.now() - start;
        if (model.isEogToken(found[at])) break;
        if (rules) addon.AddonSampler.acceptGrammarEvaluationStateToken(rules, found[at]);
        place += given.length;
        given = [found[at]];
      }
      const text = out.ids.filter((token) => !model.isEogToken(token));
      return { ...out, written: text.length ? model.detokenize(Uint32Array.from(text), true) : "" };
    },
    async forced(ids, answer) {
      const out = { likeliest: [], scores: [] };
      context.disposeSequence(0);
      for (let place = 0; place < answer.length; place += 1) {
        const found = await logits(place ? [answer[place - 1]] : ids, place ? ids.length + place - 1 : 0);
        out.likeliest.push(found[0]);
        out.scores.push(score(found, 2 * found.filter((_, at) => at % 2 === 0).indexOf(answer[place])));
      }
      return out;
    },
  };
}
