// The grammar of a bundle (GBNF, llama.cpp's notation): which token may come next. wllama's own sampler reads a grammar and then stands still in it (its
// `samplingAccept` tells the sampler of a token, and not the grammar), so it is followed here, as llama.cpp's src/llama-grammar.cpp does: a set of stacks,
// each what is still to come by one reading.

/** Rules by name; a rule is a list of alternatives, each a list of {ranges, negated} (one character) and names (of rules). */
function parse(source) {
  const rules = new Map();
  let at = 0, made = 0;
  const fail = (what) => {
    throw new Error(`The grammar cannot be read at character ${at}: ${what}.`);
  };
  const blank = () => (at += /^(?:\s|#.*)*/.exec(source.slice(at))[0].length);
  const take = (pattern) => {
    const found = pattern.exec(source.slice(at));
    if (found?.index !== 0) return null;
    at += found[0].length;
    return found;
  };
  const escaped = { n: "\n", r: "\r", t: "\t" };
  function character() {
    const hex = take(/^\\x([0-9a-fA-F]{2})|^\\u([0-9a-fA-F]{4})|^\\U([0-9a-fA-F]{8})/);
    if (hex) return Number.parseInt(hex[1] ?? hex[2] ?? hex[3], 16);
    const other = take(/^\\(.)/su);
    if (other) return (escaped[other[1]] ?? other[1]).codePointAt(0);
    return take(/^./su)?.[0].codePointAt(0) ?? fail("it ends too soon");
  }
  const rule = (alternatives) => {
    const name = `#${(made += 1)}`;
    rules.set(name, alternatives);
    return name;
  };
  function repeated(item, least, most) {
    let rest = most === Infinity ? rule([]) : null;
    if (rest) rules.set(rest, [[item, rest], []]);
    else for (let count = least; count < most; count += 1) rest = rule([[item, ...(rest ? [rest] : [])], []]);
    return [...Array.from({ length: least }, () => item), ...(rest ? [rest] : [])];
  }
  function sequence() {
    const items = [];
    for (blank(); at < source.length; blank()) {
      let part;
      if (take(/^"/)) {
        part = [];
        while (!take(/^"/)) part.push(single(character()));
      } else if (take(/^\[/)) {
        const negated = Boolean(take(/^\^/)), ranges = [];
        while (!take(/^\]/)) {
          const first = character();
          ranges.push([first, take(/^-(?!\])/) ? character() : first]);
        }
        part = [{ ranges, negated }];
      } else if (take(/^\(/)) {
        part = [rule(alternatives())];
        blank();
        if (!take(/^\)/)) fail("a bracket is not closed");
      } else {
        // A name that `::=` follows begins the next rule.
        if (/^[\w-]+\s*::=/.test(source.slice(at))) break;
        const name = take(/^[\w-]+/);
        if (!name) break;
        part = [name[0]];
      }
      const times = take(/^[?*+]|^\{(\d+)(,(\d*))?\}/);
      if (!times) items.push(...part);
      else {
        const [least, most] = { "?": [0, 1], "*": [0, Infinity], "+": [1, Infinity] }[times[0]] ?? [+times[1], times[2] ? (times[3] ? +times[3] : Infinity) : +times[1]];
        items.push(...repeated(part.length === 1 ? part[0] : rule([part]), least, most));
      }
    }
    return items;
  }
  function alternatives() {
    const found = [sequence()];
    while ((blank(), take(/^\|/))) found.push(sequence());
    return found;
  }
  for (blank(); at < source.length; blank()) {
    const name = take(/^([\w-]+)\s*::=/) ?? fail("there should be a rule");
    rules.set(name[1], alternatives());
  }
  for (const [name, some] of rules) for (const item of some.flat()) if (typeof item === "string" && !rules.has(item)) fail(`${name} names ${item}, which is no rule`);
  return rules.has("root") ? rules : fail("it has no root");
}

const single = (code) => ({ ranges: [[code, code]], negated: false });
const inside = ({ ranges, negated }, low, high) => ranges.some(([first, last]) => first <= high && low <= last) !== negated;

/** How many bytes of a character are still to come (less than none: these are none of UTF-8), and its number as far as it is known. As lenient as llama.cpp:
 *  what a grammar lets through must be the same everywhere. */
function begun([lead, ...more]) {
  const size = lead < 0x80 ? 1 : lead < 0xc0 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (!size || more.some((byte) => byte >> 6 !== 2)) return { left: -1 };
  return { left: size - 1 - more.length, code: more.reduce((sum, byte) => sum * 64 + (byte & 0x3f), size === 1 ? lead : lead & (0x7f >> size)) };
}

/** Follows a grammar: `allows(bytes)` of a token, or of the end (null); `accept(bytes)` goes on. */
export class Grammar {
  constructor(source) {
    this.rules = parse(source);
    this.stacks = [];
    this.open({ items: ["root"], at: 0, next: null }, this.stacks);
    this.pending = []; // bytes of a character that is not whole yet
  }

  /** A stack whose top is a rule, as the stacks whose tops are characters, one for each reading; null where nothing is left to come. */
  open(stack, out) {
    if (stack === null) return void (out.includes(null) || out.push(null));
    const { items, at, next } = stack, item = items[at];
    if (typeof item !== "string") return void out.push(stack);
    const rest = at + 1 < items.length ? { items, at: at + 1, next } : next;
    for (const some of this.rules.get(item)) this.open(some.length ? { items: some, at: 0, next: rest } : rest, out);
  }

  /** {stacks, pending} after some bytes; no stack is left after what is no UTF-8. */
  after(bytes) {
    let { stacks, pending } = this;
    for (const byte of bytes) {
      pending = [...pending, byte];
      const { left, code } = begun(pending);
      if (left > 0) continue;
      const next = [];
      for (const stack of left < 0 ? [] : stacks) {
        if (stack === null || !inside(stack.items[stack.at], code, code)) continue;
        this.open(stack.at + 1 < stack.items.length ? { ...stack, at: stack.at + 1 } : stack.next, next);
      }
      [stacks, pending] = [next, []];
      if (!stacks.length) break;
    }
    return { stacks, pending };
  }

  allows(bytes) {
    if (bytes === null) return this.stacks.includes(null) && !this.pending.length;
    if (!bytes.length) return false;
    const { stacks, pending } = this.after(bytes);
    if (!pending.length) return stacks.length > 0;
    // A character of which the first bytes are there: any of those that it may become.
    const { left, code } = begun(pending);
    if (left === 1 && code < 2) return false; // seven bits in two bytes
    const low = code * 64 ** left || { 2: 0x800, 3: 0x10000 }[left];
    return stacks.some((stack) => stack !== null && inside(stack.items[stack.at], low, (code + 1) * 64 ** left - 1));
  }

  accept(bytes) {
    Object.assign(this, this.after(bytes));
  }
}
