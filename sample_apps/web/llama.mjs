// llama.cpp in a page, by wllama: what writer.mjs asks of it. Tokens go in and probabilities come out; cutting texts and stopping is ours.
import { Grammar } from "./grammar.mjs";
import { LoggerWithoutDebug, Wllama } from "./vendor/index.min.js";

const TOP = 40; // tokens that are looked at first: nearly always one of them is allowed

/** In which type keys and values are remembered; quantized ones are read by flash attention alone. */
function memory({ kv_cache: type = "f16" }) {
  return type === "f16" ? {} : { cache_type_k: type, cache_type_v: type, flash_attn: true };
}

/** model: ArrayBuffer of model.gguf. Throws what llama.cpp says of a file that it cannot load. */
export async function openLlama(model, { max_tokens: room, target = {} }, threads = 1) {
  const [single, multi] = ["single", "multi"].map((kind) => new URL(`vendor/${kind}-thread/wllama.wasm`, import.meta.url).href);
  const paths = { "single-thread/wllama.wasm": single, "multi-thread/wllama.wasm": multi };
  const llama = new Wllama(paths, { suppressNativeLog: true, logger: LoggerWithoutDebug });
  await llama.loadModel([new Blob([model])], { n_ctx: room, n_batch: room, n_threads: threads, ...memory(target) });
  const pieces = (await llama.getVocab()).slice(-llama.getModelMetadata().hparams.nVocab); // of each token its bytes; wllama puts as many empty ones before

  /** The likeliest token that is allowed, and its probability among all. */
  async function next(allows) {
    for (const count of [TOP, -1]) {
      const found = (await llama.getLogits(count)).sort((one, other) => other.p - one.p).find(({ token }) => allows(token));
      if (found) return found;
    }
    return (await llama.getLogits(1))[0]; // none is: as llama.cpp does
  }

  return {
    async write(ids, grammar, most) {
      const start = performance.now();
      const out = { ids: [], scores: [], first_ms: 0 }, bytes = [];
      const rules = grammar ? new Grammar(grammar) : null;
      await llama.kvClear();
      for (let given = ids; out.ids.length < most; ) {
        await llama.decode(given, {});
        const { token, p } = await next((one) => !rules || rules.allows(llama.isTokenEOG(one) ? null : pieces[one]));
        out.scores.push(Math.log(p));
        out.ids.push(token);
        out.first_ms ||= performance.now() - start;
        if (llama.isTokenEOG(token)) break;
        rules?.accept(pieces[token]);
        bytes.push(...pieces[token]);
        given = [token];
      }
      return { ...out, written: new TextDecoder().decode(Uint8Array.from(bytes)) }; // a character may be of several tokens
    },
    async forced(ids, answer) {
      const out = { likeliest: [], scores: [] };
      await llama.kvClear();
      for (let place = 0; place < answer.length; place += 1) {
        await llama.decode(place ? [answer[place - 1]] : ids, {});
        const found = (await llama.getLogits(-1)).sort((one, other) => other.p - one.p);
        out.likeliest.push(found[0].token);
        out.scores.push(Math.log(found.find(({ token }) => token === answer[place]).p));
      }
      return out;
    },
  };
}
