// A decoder that writes its answer: how a text is put to it, and which answers are valid. What runs it is handed in: `llama` is
//   write(ids, grammar, most) => Promise of {written, ids, scores, first_ms}: greedy, at most so many tokens, the stop token left out of the text;
//   forced(ids, answer) => Promise of {likeliest, scores}: at each place of an answer that is given, told what stands before it, the token that comes
//   first, and the log-probability of the given one.

/** {encode(text, tokens?) => ids of the whole prompt, write(ids, constrained), forced}; the prompt as edgedistill/prompts.py puts it. */
export function openWriter(manifest, source, Tokenizer, llama) {
  if (manifest.task !== "generate") throw new Error(`The bundle is GGUF and its task ${manifest.task}: JavaScript runs GGUF that writes its answer alone.`);
  const { prompt, grammar } = manifest.settings, room = manifest.max_tokens, json = withEveryNumber(source);
  const cut = (tokenizer, text) => tokenizer.encode(text, { add_special_tokens: false }).ids;
  const [before, behind] = prompt.map((part) => cut(new Tokenizer(json, {}), part));
  // To this one a text that spells a special token is text: what a user types must not end the prompt.
  const plain = new Tokenizer({ ...json, added_tokens: json.added_tokens.filter(({ special }) => !special) }, {});
  const most = room - Math.floor(room / 2) - before.length - behind.length; // half of the room is kept for the answer
  return {
    encode(text, tokens) {
      const ids = text ? cut(plain, text) : [];
      if (!tokens) return [...before, ...ids.slice(0, most), ...behind];
      const size = Math.max(1, Math.min(most, tokens - before.length - behind.length)), some = ids.length ? ids : before.slice(0, 1);
      return [...before, ...Array.from({ length: size }, (_, place) => some[place % some.length]), ...behind];
    },
    forced: llama.forced,
    write: (ids, constrained) => llama.write(ids, constrained ? grammar : "", room - ids.length),
  };
}

function kindOf(value, source) {
  if (typeof value !== "number") return typeof value;
  return Number.isInteger(value) && !/[.eE]/.test(source) ? "integer" : "number";
}

/** The object that was written, or null where it has not the keys of its kind and the kinds of values that these have: edgedistill/tasks/generate.py. */
export function valid(written, { kinds, kind_key: key }) {
  const sources = {}; // of numbers: 1.0 is none to JavaScript that 1 is not
  let found;
  try {
    found = JSON.parse(written, function keep(name, value, context) {
      if (typeof value === "number") sources[name] = context?.source ?? String(value);
      return value;
    });
  } catch {
    return null;
  }
  if (found === null || typeof found !== "object" || Array.isArray(found)) return null;
  const keys = kinds[key ? found[key] : "answer"];
  if (!keys || (key && typeof found[key] !== "string")) return null;
  const fits = Object.entries(found).every(([name, value]) => keys[name]?.types.includes(kindOf(value, sources[name])));
  return fits && Object.entries(keys).every(([name, { always }]) => !always || name in found) ? found : null;
}

/** tokenizer.json with its digits as a pattern: the reference takes ½, Ⅷ and ① for digits too, the JavaScript library 0 to 9 of each script alone. */
function withEveryNumber(json) {
  const spelt = (part) =>
    part?.type === "Digits"
      ? { type: "Split", pattern: { Regex: part.individual_digits ? "\\p{N}" : "\\p{N}+" }, behavior: "Isolated", invert: false }
      : part?.type === "Sequence"
        ? { ...part, pretokenizers: part.pretokenizers.map(spelt) }
        : part;
  return { ...json, pre_tokenizer: spelt(json.pre_tokenizer) };
}
