// The page's grammar beside llama.cpp's own (node-llama-cpp's library). Arguments: node_modules, grammar.mjs, model.gguf; on standard input one JSON:
// {grammar, answers}. For each place of each answer: every token of the vocabulary, allowed or not. Prints how many were asked, and the first that differs.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [, , modules, code, path] = process.argv;
const { Grammar } = await import(code);
const { grammar, answers } = JSON.parse(readFileSync(0, "utf8"));
const folder = `${modules}/@node-llama-cpp/linux-x64/bins/linux-x64`;
const addon = createRequire(`${modules}/`)(`${folder}/llama-addon.node`);
addon.setLogger(() => {});
addon.loadBackends(folder);
await addon.init();
const model = new addon.AddonModel(path, { gpuLayers: 0, addonExports: addon });
await model.init();
// GPT-2's byte alphabet, in which the vocabulary is written: token → bytes.
const printable = [...Array(256).keys()].filter((byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad));
const rest = [...Array(256).keys()].filter((byte) => !printable.includes(byte));
const bytes = new Map([...printable.map((byte) => [byte, byte]), ...rest.map((byte, place) => [0x100 + place, byte])]);
const pieces = JSON.parse(readFileSync(`${path.replace(/model.gguf$/, "")}tokenizer.json`, "utf8"));
const special = new Set(pieces.added_tokens.map(({ id }) => id));
const vocabulary = Object.entries(pieces.model.vocab).filter(([, id]) => !special.has(id));
const tokens = vocabulary.map(([piece, id]) => [id, [...piece].map((sign) => bytes.get(sign.codePointAt(0)))]);
const end = model.tokenEos();

let asked = 0;
const differs = [];
for (const answer of answers) {
  const ours = new Grammar(grammar);
  const theirs = new addon.AddonGrammarEvaluationState(model, new addon.AddonGrammar(grammar, { addonExports: addon, rootRuleName: "root" }));
  for (const token of [...answer, null]) {
    for (const [id, piece] of [...tokens, [end, null]]) {
      asked += 1;
      const [one, other] = [ours.allows(piece), addon.AddonSampler.canBeNextTokenForGrammarEvaluationState(theirs, id)];
      if (one !== other) differs.push({ answer, id, piece, ours: one, theirs: other });
    }
    if (token === null || token === end) break;
    ours.accept(tokens.find(([id]) => id === token)[1]);
    addon.AddonSampler.acceptGrammarEvaluationStateToken(theirs, token);
  }
}
console.log(JSON.stringify({ asked, differs: differs.length, first: differs[0] ?? null }));
