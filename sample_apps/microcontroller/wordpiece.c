// The text goes through character by character and is never held as a whole: what is kept are a few bytes, in which an added token may begin, the marks
// that wait for their order, and one word.
#include "wordpiece.h"

#include <string.h>

#include "model.h"
#include "unicode_tables.h"

// --- characters ---------------------------------------------------------------------------------------------------------------------------

#define COUNT(table) ((int)(sizeof(table) / sizeof(table)[0]))

// The row of a sorted table, each of `width` numbers, whose first..last holds `code`, or null. Tables of pairs have rows of which only the first counts.
static const uint32_t *row_of(const uint32_t *table, int rows, int width, uint32_t code, int pairs) {
  int low = 0, high = rows;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (table[middle * width] <= code)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0) return 0;
  const uint32_t *row = table + (low - 1) * width;
  return code <= row[pairs ? 0 : 1] ? row : 0;
}

#define RANGE(name, code) row_of(&name[0][0], COUNT(name), COUNT(name[0]), code, 0)
#define ENTRY(name, code) row_of(&name[0][0], COUNT(name), COUNT(name[0]), code, 1)

// The next character of UTF-8 at *at, which moves on; what is no UTF-8 is U+FFFD.
static uint32_t next_character(const char *text, int size, int *at) {
  const uint8_t lead = (uint8_t)text[(*at)++];
  const int more = lead < 0x80 ? 0 : lead < 0xC2 ? -1 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : lead < 0xF5 ? 3 : -1;
  if (more < 0) return 0xFFFD;
  uint32_t code = more == 0 ? lead : lead & (0x3Fu >> more);
  for (int next = 0; next < more; ++next) {
    if (*at >= size || ((uint8_t)text[*at] & 0xC0) != 0x80) return 0xFFFD;
    code = code << 6 | ((uint8_t)text[(*at)++] & 0x3F);
  }
  return code;
}

static int append(char *out, uint32_t code) {  // as UTF-8; how many bytes
  if (code < 0x80) return out[0] = (char)code, 1;
  if (code < 0x800) return out[0] = (char)(0xC0 | code >> 6), out[1] = (char)(0x80 | (code & 0x3F)), 2;
  if (code < 0x10000)
    return out[0] = (char)(0xE0 | code >> 12), out[1] = (char)(0x80 | (code >> 6 & 0x3F)), out[2] = (char)(0x80 | (code & 0x3F)), 3;
  return out[0] = (char)(0xF0 | code >> 18), out[1] = (char)(0x80 | (code >> 12 & 0x3F)), out[2] = (char)(0x80 | (code >> 6 & 0x3F)),
         out[3] = (char)(0x80 | (code & 0x3F)), 4;
}

static int order(uint32_t code) {
  const uint32_t *row = RANGE(ORDER, code);
  return row == 0 ? 0 : (int)row[2];
}

static uint32_t small(uint32_t code) {
  const uint32_t *run = RANGE(SMALL, code);
  return run == 0 || (code - run[0]) % run[2] != 0 ? code : code + run[3];
}

// What stripping accents leaves of one character: canonical decomposition without its non-spacing marks. How many characters, at most 3.
static int stripped(uint32_t code, uint32_t *parts) {
  const uint32_t syllables = 0xAC00, leading = 0x1100, vowels = 0x1161, trailing = 0x11A7;  // The Unicode Standard, 3.12
  if (code >= syllables && code < syllables + 11172) {
    const uint32_t index = code - syllables;
    parts[0] = leading + index / 588, parts[1] = vowels + index % 588 / 28, parts[2] = trailing + index % 28;
    return index % 28 != 0 ? 3 : 2;
  }
  if (RANGE(MARK, code)) return 0;
  const uint32_t *one = ENTRY(STRIPPED, code), *some = ENTRY(STRIPPED_TO_SEVERAL, code);
  if (some) {
    for (int place = 0; place < 3; ++place) parts[place] = some[1 + place];
    return some[3] != 0 ? 3 : 2;
  }
  parts[0] = one ? one[1] : code;
  return 1;
}

// --- words into pieces --------------------------------------------------------------------------------------------------------------------

static struct {
  int32_t *ids;
  int count, room;               // ids so far, and how many are wanted: what comes after is counted and not kept
  int length, marks;             // characters of the word, marks that wait; beyond LONGEST_WORD they are counted and not kept
  uint32_t word[LONGEST_WORD], mark[LONGEST_WORD];
} at;

static void add_id(int32_t id) {
  if (at.count < at.room) at.ids[at.count] = id;
  ++at.count;
}

static int32_t id_of(const char *piece, int size) {  // or -1
  int low = 0, high = PIECES;
  while (low < high) {
    const int middle = (low + high) / 2;
    const int theirs = (int)(PIECE_AT[middle + 1] - PIECE_AT[middle]);
    int way = memcmp(PIECE_BYTES + PIECE_AT[middle], piece, (size_t)(theirs < size ? theirs : size));
    if (way == 0) way = theirs - size;
    if (way == 0) return (int32_t)PIECE_ID[middle];
    if (way < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return -1;
}

// Takes the longest piece of the vocabulary from the front, again and again; a word of which any part is in no piece is unknown as a whole.
static void end_word(void) {
  const int length = at.length, before = at.count;
  at.length = 0;
  if (length == 0) return;
  int start = length > LONGEST_WORD ? -1 : 0;
  while (start >= 0 && start < length) {
    static char piece[LONGEST_PIECE + 4];
    static short sizes[LONGEST_PIECE + 1];  // bytes of the piece with one character more each
    int size = start == 0 ? 0 : CONTINUING_BYTES, count = 0;
    if (start > 0) memcpy(piece, CONTINUING, CONTINUING_BYTES);
    for (int place = start; place < length && size < LONGEST_PIECE; ++place) {
      size += append(piece + size, at.word[place]);
      sizes[count++] = (short)size;
    }
    int32_t found = -1;
    for (; count > 0 && (found = id_of(piece, sizes[count - 1])) < 0; --count) {
    }
    if (found >= 0) add_id(found);
    start = found < 0 ? -1 : start + count;
  }
  if (start < 0) {
    at.count = before;
    add_id(UNKNOWN);
  }
}

static void cut(uint32_t code) {
  if (RANGE(SPACE, code)) {
    end_word();
    return;
  }
  const int alone = RANGE(PUNCTUATION, code) != 0;
  if (alone) end_word();
  if (at.length < LONGEST_WORD) at.word[at.length] = code;
  ++at.length;
  if (alone) end_word();
}

static void lowered(uint32_t code) {
  if (LOWERCASE && code == 0x130) {  // İ: the one capital whose small form is two characters
    cut('i');
    cut(0x307);
  } else {
    cut(LOWERCASE ? small(code) : code);
  }
}

// Marks that stay come into canonical order (The Unicode Standard, 3.11): by class, within a run that any character of class 0 ends.
static void settle(void) {
  const int marks = at.marks, kept = marks < LONGEST_WORD ? marks : LONGEST_WORD;
  at.marks = 0;
  for (int place = 1; place < kept; ++place)
    for (int down = place; down > 0 && order(at.mark[down - 1]) > order(at.mark[down]); --down) {
      const uint32_t other = at.mark[down];
      at.mark[down] = at.mark[down - 1], at.mark[down - 1] = other;
    }
  for (int place = 0; place < kept; ++place) lowered(at.mark[place]);
  at.length += marks - kept;  // no mark ends a word, so this one is too long whatever their order is
}

static void bare(uint32_t code) {
  if (!STRIP_ACCENTS) {
    lowered(code);
    return;
  }
  uint32_t parts[3];
  const int count = stripped(code, parts);
  if (count == 0 && order(code) == 0) settle();
  for (int place = 0; place < count; ++place) {
    if (order(parts[place]) == 0) {
      settle();
      lowered(parts[place]);
    } else {
      if (at.marks < LONGEST_WORD) at.mark[at.marks] = parts[place];
      ++at.marks;
    }
  }
}

static void normalized(uint32_t code) {
  if (CLEAN_TEXT) {
    if (RANGE(DROPPED, code)) return;
    if (RANGE(CLEANED_TO_SPACE, code)) code = ' ';
  }
  const int alone = IDEOGRAPHS && RANGE(IDEOGRAPH, code) != 0;
  if (alone) bare(' ');
  bare(code);
  if (alone) bare(' ');
}

static void end_stretch(void) {
  settle();
  end_word();
}

// Bytes that wait until the longest added token, or a character, would show as a whole.
static char held[LONGEST_ADDED + 4];
static int holds;

// What stands in front goes through. Added tokens are looked for in the bare text; what lies between them is normalized and cut into words, each stretch
// for itself.
static void step(void) {
  int best = -1, place = 0;
  for (int token = 0; token < ADDED; ++token)
    if (ADDED_TOKEN[token].size <= holds && (best < 0 || ADDED_TOKEN[token].size > ADDED_TOKEN[best].size) &&
        memcmp(held, ADDED_TOKEN[token].content, (size_t)ADDED_TOKEN[token].size) == 0)
      best = token;
  if (best < 0) {
    normalized(next_character(held, holds, &place));
  } else {
    end_stretch();
    add_id(ADDED_TOKEN[best].id);
    place = ADDED_TOKEN[best].size;
  }
  holds -= place;
  memmove(held, held + place, (size_t)holds);
}

void encode_begin(int32_t *ids) {
  memcpy(ids, BEFORE, BEFORE_IDS * sizeof *ids);
  at.ids = ids + BEFORE_IDS, at.room = MAX_TOKENS - BEFORE_IDS - AFTER_IDS, at.count = at.length = at.marks = holds = 0;
}

void encode_bytes(const char *bytes, int count) {
  for (int place = 0; place < count && at.count < at.room; ++place) {  // what follows a full row of ids cannot change it
    held[holds++] = bytes[place];
    if (holds == (int)sizeof held) step();
  }
}

int encode_end(void) {
  while (holds > 0 && at.count < at.room) step();
  end_stretch();
  const int count = at.count < at.room ? at.count : at.room;
  memcpy(at.ids + count, AFTER, AFTER_IDS * sizeof *at.ids);
  return BEFORE_IDS + count + AFTER_IDS;
}
