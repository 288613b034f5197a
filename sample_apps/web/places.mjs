// Where the tokens of a text stand in it, and what spans their labels make: for bundles that tag. The tokenizers of JavaScript do not tell offsets, so
// WordPiece's are found again here: each character is normalized by itself, and the pieces are laid over what comes of it.

// As Python's \w and \s: a run of letters, digits and their combining marks; one character of a script that writes no spaces; or one other sign.
const ALONE = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff";
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WORD = new RegExp(`[${ALONE}]|(?:(?![${ALONE}])[\\p{L}\\p{N}])+[\\u0300-\\u036f]*|[^\\p{L}\\p{N}${SPACE}]`, "gu");

/** [start, end] of each word, in characters (code points), as edgedistill/tasks/tag.py has them. */
export function words(text) {
  const found = [];
  let units = 0, characters = 0;
  for (const { 0: word, index } of text.matchAll(WORD)) {
    characters += [...text.slice(units, index)].length;
    const size = [...word].length;
    found.push([characters, characters + size]);
    characters += size;
    units = index + word.length;
  }
  return found;
}

/** What finds the tokens of a tokenizer.json again. Throws for a tokenizer that is no BERT's. */
export class Places {
  constructor(json, tokenizer) {
    const kinds = [json.model.type, json.normalizer?.type, json.pre_tokenizer?.type].join(", ");
    if (kinds !== "WordPiece, BertNormalizer, BertPreTokenizer")
      throw new Error(`The bundle tags, and its tokenizer is ${kinds}: JavaScript finds the places of BERT's tokens alone.`);
    const { vocab, unk_token: unknown, continuing_subword_prefix: continuing } = json.model;
    const bare = (piece) => (piece.startsWith(continuing) ? piece.slice(continuing.length) : piece);
    this.sizes = new Map(Object.entries(vocab).map(([piece, id]) => [id, [...bare(piece)].length]));
    Object.assign(this, { tokenizer, unknown: vocab[unknown], added: json.added_tokens.toSorted((one, other) => other.content.length - one.content.length) });
    this.signs = new Map(); // what becomes of a character: of many texts the same few
  }

  /** What normalization leaves of a character, each sign with how it parts words: 1 inside of one, 2 between, 3 a word of its own. */
  normalized(character) {
    if (!this.signs.has(character)) {
      const { normalizer, pre_tokenizer: cutter } = this.tokenizer;
      const parts = [...normalizer.normalize(character)].map((sign) => [sign, /\s/u.test(sign) ? 2 : cutter.pre_tokenize(`a${sign}b`).length]);
      this.signs.set(character, parts);
    }
    return this.signs.get(character);
  }

  /** [start, end] of each token in characters, [0, 0] of the special ones around the text. before, behind: how many these are. */
  of(text, ids, before, behind) {
    const characters = [...text];
    const places = Array.from({ length: before }, () => [0, 0]);
    let word = []; // places of its signs
    const lay = () => {
      for (let at = 0; at < word.length && places.length < ids.length - behind; ) {
        const size = ids[places.length] === this.unknown ? word.length : this.sizes.get(ids[places.length]);
        places.push([word[at], word[Math.min(at + size, word.length) - 1] + 1]);
        at += size;
      }
      word = [];
    };
    for (let at = 0; at < characters.length; at += 1) {
      const token = this.added.find(({ content }) => characters.slice(at, at + [...content].length).join("") === content);
      if (token) {
        lay();
        places.push([at, at + [...token.content].length]);
        at += [...token.content].length - 1;
        continue;
      }
      for (const [, parts] of this.normalized(characters[at])) {
        if (parts !== 1) lay();
        if (parts !== 2) word.push(at);
        if (parts === 3) lay();
      }
    }
    lay();
    return [...places.slice(0, ids.length - behind), ...Array.from({ length: behind }, () => [0, 0])];
  }
}

/** `B-CITY` → ["B", "CITY"]; a tag without a prefix → ["", tag]. */
const split = (tag) => (/^[BIESLU]-/.test(tag) ? [tag[0], tag.slice(2)] : ["", tag]);

/** The spans of a text: [{start, end, label, text, confidence}]. logits: Float32Array [tokens, labels]; places: of the tokens. */
export function spans(labels, logits, text, places) {
  const characters = [...text], wide = labels.length, found = [];
  const row = (token) => logits.subarray(token * wide, (token + 1) * wide);
  let at = 0, open = false;
  for (const [start, end] of words(text)) {
    // The token that holds the word's first character answers for it; where none does, the next one.
    while (at < places.length && (places[at][1] <= places[at][0] || places[at][1] <= start)) at += 1;
    if (at === places.length) break; // the text was cut off before
    const values = row(at);
    const [prefix, label] = split(labels[values.indexOf(Math.max(...values))]);
    if (label === "O") {
      open = false;
      continue;
    }
    if (open && found.at(-1).label === label && ["I", "E", ""].includes(prefix)) Object.assign(found.at(-1), { end, tokens: [...found.at(-1).tokens, at] });
    else found.push({ start, end, label, tokens: [at] });
    open = !["E", "S"].includes(prefix);
  }
  // Of all labels of the type together: a doubt between B- and I- is none about the type.
  const share = (token, label) => {
    const values = row(token), top = Math.max(...values), raised = Array.from(values, (value) => Math.exp(value - top));
    const sum = (some) => some.reduce((one, other) => one + other, 0);
    return sum(raised.filter((_, place) => split(labels[place])[1] === label)) / sum(raised);
  };
  return found.map(({ start, end, label, tokens }) => {
    const confidence = tokens.reduce((sum, token) => sum + share(token, label), 0) / tokens.length;
    return { start, end, label, text: characters.slice(start, end).join(""), confidence };
  });
}
