// The program: answers texts, a JSON line each.
//
// A text on the command line is answered, and that is all. Else each line of the console is a text, of any length; a line that is a JSON object with "text" in it gets
// ids, logits and the clock ticks that the answer took too, and one with "quit" ends the program. Built with GOLDEN it holds the board's answers
// against the bundle's golden vectors, which are in its flash then, and names the first that differs.
#include <string.h>

#include "board.h"
#include "model.h"
#include "student.h"
#include "wordpiece.h"

static char said[ANSWER_BYTES];
static int32_t ids[MAX_TOKENS];
static float logits[OUTPUTS];
static uint32_t encoding;  // ticks that the tokenizer took for this text

static void say_number(float value) {
  char digits[20];
  say_bytes(digits, (size_t)number(value, digits));
}

static void say_whole(uint32_t value) {
  char digits[10];
  int at = 10;
  do digits[--at] = (char)('0' + value % 10);
  while ((value /= 10) != 0);
  say_bytes(digits + at, (size_t)(10 - at));
}

static void begin(void) {
  encoding = 0;
  encode_begin(ids);
}

static void push(const char *bytes, int count) {  // what the debugger's line takes is not the tokenizer's time
  const uint32_t before = ticks();
  encode_bytes(bytes, count);
  encoding += ticks() - before;
}

static void push_character(uint32_t code) {
  char bytes[4];
  const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  bytes[0] = (char)(more == 0 ? code : (0xF00u >> (more + 1) & 0xFF) | code >> 6 * more);
  for (int place = 1; place <= more; ++place) bytes[place] = (char)(0x80 | (code >> 6 * (more - place) & 0x3F));
  push(bytes, more + 1);
}

static int hex(int digit) { return digit >= '0' && digit <= '9' ? digit - '0' : (digit | 32) >= 'a' && (digit | 32) <= 'f' ? (digit | 32) - 'a' + 10 : -1; }

// The rest of a JSON string goes to the tokenizer as it comes in. 0 when it is none.
static int push_json(void) {
  uint32_t high = 0;
  char bytes[64];
  int count = 0;
  for (;;) {
    const int next = read_byte();
    if (next < 0 || next == '\n') return 0;
    if (next != '"' && next != '\\') {
      bytes[count++] = (char)next;
      if (count < (int)sizeof bytes) continue;
    }
    push(bytes, count);
    count = 0;
    if (next == '"') return 1;
    if (next != '\\') continue;
    const int escaped = read_byte();
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (escaped != 'u') {
      const char *name = escaped > 0 ? strchr(names, escaped) : 0;
      if (name == 0) return 0;
      push_character((uint8_t)values[name - names]);
      continue;
    }
    uint32_t code = 0;
    for (int digit = 0; digit < 4; ++digit) {
      const int value = hex(read_byte());
      if (value < 0) return 0;
      code = code << 4 | (uint32_t)value;
    }
    if (code >= 0xD800 && code < 0xDC00) {
      high = code;  // the first half of a pair
    } else {
      push_character(code >= 0xDC00 && code < 0xE000 ? 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00) : code);
    }
  }
}

static void say_answer(float confidence) {
  say("{\"answer\":");
  say(said);
  if (confidence >= 0) {
    say(",\"confidence\":");
    say_number(confidence);
  }
}

// Answers the text that the tokenizer was given. full: with all that a program wants to know.
static void respond(int full) {
  const uint32_t before = ticks();
  const int count = encode_end();
  const uint32_t encoded = ticks();
  encoding += encoded - before;
  logits_of(ids, count, logits);
  const uint32_t done = ticks();
  float confidence;
  answer(logits, said, ANSWER_BYTES, &confidence);
  const uint32_t decoded_at = ticks();
  say_answer(confidence);
  if (full) {
    say(",\"ticks\":[");
    say_whole(encoding);
    say(",");
    say_whole(done - encoded);
    say(",");
    say_whole(decoded_at - done);
    say("],\"ids\":[");
    for (int place = 0; place < count; ++place) {
      if (place) say(",");
      say_whole((uint32_t)ids[place]);
    }
    say("],\"logits\":[");
    for (int place = 0; place < OUTPUTS; ++place) {
      if (place) say(",");
      say_number(logits[place]);
    }
    say("]");
  }
  say("}\n");
}

#ifdef GOLDEN
#include "golden.h"

static int differs(int vector, const char *what) {
  say("{\"golden\":\"differs\",\"vector\":");
  say_whole((uint32_t)vector + 1);
  say(",\"in\":\"");
  say(what);
  say("\"}\n");
  return 1;
}

int main(void) {
  float worst = 0, confidence;
  for (int vector = 0; vector < VECTORS; ++vector) {
    const struct golden *wanted = &GOLDEN_VECTOR[vector];
    encode_begin(ids);
    encode_bytes(wanted->text, wanted->size);
    const int count = encode_end();
    if (count != wanted->count || memcmp(ids, wanted->ids, (size_t)count * sizeof *ids) != 0) return differs(vector, "ids");
    logits_of(ids, count, logits);
    for (int place = 0; place < OUTPUTS; ++place) {
      const float apart = logits[place] > wanted->logits[place] ? logits[place] - wanted->logits[place] : wanted->logits[place] - logits[place];
      if (!(apart <= LOGIT_BOUND)) return differs(vector, "logits");  // written so that a NaN differs too
      if (apart > worst) worst = apart;
    }
    answer(logits, said, ANSWER_BYTES, &confidence);
    if (wanted->answer != 0 && strcmp(said, wanted->answer) != 0) return differs(vector, "answer");
  }
  say("{\"golden\":\"equal\",\"vectors\":");
  say_whole(VECTORS);
  say(",\"worst_logit\":");
  say_number(worst);
  say("}\n");
  return 0;
}
#else
static void skip_line(int last) {
  while (last >= 0 && last != '\n') last = read_byte();
}

int main(void) {
  static char given[1024];
  const int size = command_line(given, sizeof given);
  int first = 0;
  while (first < size && given[first] != ' ') ++first;
  while (first < size && given[first] == ' ') ++first;
  begin();
  if (first < size) {
    push(given + first, size - first);
    respond(0);
    return 0;
  }
  for (;;) {
    static const char text[] = "{\"text\": \"", quit[] = "{\"quit\"", hello[] = "{\"hello\"";
    char head[sizeof text - 1];
    int count = 0, last = 0;
    while (count < (int)sizeof head && (last = read_byte()) >= 0 && last != '\n') head[count++] = (char)last;
    if (last < 0 && count == 0) return 0;
    begin();
    if (memcmp(head, text, sizeof head) == 0 && count == (int)sizeof head) {
      if (push_json())
        respond(1);
      else
        say("{\"error\":\"the line is no JSON\"}\n");
      skip_line(0);
    } else if (memcmp(head, hello, sizeof hello - 1) == 0) {
      skip_line(last);
      say("{\"hello\":true}\n");
    } else if (memcmp(head, quit, sizeof quit - 1) == 0) {
      say("{\"quit\":true}\n");
      return 0;
    } else {
      push(head, count);
      while (last >= 0 && last != '\n' && (last = read_byte()) >= 0 && last != '\n') {
        const char byte = (char)last;
        push(&byte, 1);
      }
      respond(0);
    }
  }
}
#endif
