// The tokens are pooled one after the other, so that no buffer grows with the text. What follows is head() in generated/head.c, which emx-onnx-cgen made
// of the rest of the bundle's graph.
#include "student.h"

#include <math.h>
#include <string.h>

#include "model.h"

void head(const float pooled[1][2 * WIDTH], float logits[1][OUTPUTS]);

static void add_row(const struct table *table, uint32_t row, float *sum) {
  if (table->bits == 32) {
    const float *values = (const float *)table->steps + row * WIDTH;
    for (int column = 0; column < WIDTH; ++column) sum[column] += values[column];
    return;
  }
  const int blocks = (WIDTH + table->block - 1) / table->block;
  const uint8_t *steps = (const uint8_t *)table->steps + (table->bits == 8 ? row * WIDTH : row * WIDTH / 2);
  for (int block = 0; block < blocks; ++block) {
    const uint32_t at = (table->per_row ? row * (uint32_t)blocks : 0) + (uint32_t)block;
    const int zero = table->zeros[at], end = (block + 1) * table->block < WIDTH ? (block + 1) * table->block : WIDTH;
    const float scale = table->scales[at];
    for (int column = block * table->block; column < end; ++column) {
      const int step = table->bits == 8 ? steps[column] : steps[column / 2] >> 4 * (column % 2) & 15;
      sum[column] += (float)(step - zero) * scale;
    }
  }
}

void logits_of(const int32_t *ids, int count, float *logits) {
  static float token[WIDTH], pooled[1][2 * WIDTH];  // the maxima, then the means
  float *const most = pooled[0], *const sum = pooled[0] + WIDTH;
  memset(pooled, 0, sizeof pooled);
  for (int place = 0; place < count; ++place) {
    memset(token, 0, sizeof token);
    add_row(&TOKENS, (uint32_t)ids[place], token);
#if PAIR_ROWS
    const uint64_t next = place + 1 < count ? (uint64_t)ids[place + 1] : 0;
    add_row(&PAIRS, (uint32_t)(((uint64_t)ids[place] * PAIR_HASH + next) % PAIR_ROWS), token);
#endif
    for (int column = 0; column < WIDTH; ++column) {
      const float value = token[column] + BIAS[column];
      if (value <= 0) continue;
      sum[column] += value;
      if (value > most[column]) most[column] = value;
    }
  }
  for (int column = 0; column < WIDTH; ++column) sum[column] /= (float)count;
  head(pooled, (float(*)[OUTPUTS])logits);
}

int number(float value, char *out) {
  if (value != value || value - value != 0) return memcpy(out, "null", 4), 4;  // JSON knows no NaN
  int size = 0, exponent = 0;
  double left = value;
  if (left < 0) out[size++] = '-', left = -left;
  if (left == 0) return out[size++] = '0', size;
  while (left >= 1e9) left /= 10, ++exponent;
  while (left < 1e8) left *= 10, --exponent;
  uint32_t digits = (uint32_t)(left + 0.5);
  char reversed[20];
  int count = 0;
  for (; digits != 0; digits /= 10) reversed[count++] = (char)('0' + digits % 10);
  // As people write it where that takes no more than eleven digits, else with an exponent.
  const int plain = exponent <= 0 && exponent >= -10;
  const int point = plain ? -exponent : 0;  // digits behind the point
  while (plain && count <= point) reversed[count++] = '0';
  while (count > 0) {
    if (plain && point > 0 && count == point) out[size++] = '.';
    out[size++] = reversed[--count];
  }
  if (plain) return size;
  out[size++] = 'e';
  if (exponent < 0) out[size++] = '-', exponent = -exponent;
  if (exponent >= 10) out[size++] = (char)('0' + exponent / 10);
  return out[size++] = (char)('0' + exponent % 10), size;
}

static char *to, *end;

static void put(const char *bytes, int count) {
  if (count > end - to) count = (int)(end - to);
  memcpy(to, bytes, (size_t)count);
  to += count;
}

static void put_text(const char *text) { put(text, (int)strlen(text)); }

static void put_number(float value) {
  char digits[20];
  put(digits, number(value, digits));
}

void answer(const float *logits, char *out, int room, float *confidence) {
  to = out, end = out + room - 1;
  *confidence = -1;
#if TASK_CLASSIFY
  int best = 0;
  for (int place = 1; place < OUTPUTS; ++place)
    if (logits[place] > logits[best]) best = place;
  double sum = 0;  // the best class's probability is one over it, since exp(0) is 1
  for (int place = 0; place < OUTPUTS; ++place) sum += exp((double)logits[place] - logits[best]);
  *confidence = (float)(1 / sum);
  put_text(LABELS[best]);
#elif TASK_MULTI_LABEL
  int given = 0;
  put_text("[");
  for (int rank = 0; rank < OUTPUTS; ++rank) {  // in the order of their names
    const int place = BY_NAME[rank];
    const float share = 0.5f * (1 + tanhf(0.5f * logits[place]));  // the sigmoid, in a form that does not overflow
    if (share < THRESHOLD) continue;
    if (given++) put_text(",");
    put_text(LABELS[place]);
  }
  put_text("]");
#elif TASK_SCORE
  for (int place = 0; place < OUTPUTS; ++place) {
    put_text(place == 0 ? "{" : ",");
    put_text(LABELS[place]);
    put_text(":");
    put_number((float)((double)logits[place] * SPREAD[place] + MEAN[place]));
  }
  put_text("}");
#else  // an embedding is its own answer
  for (int place = 0; place < OUTPUTS; ++place) {
    put_text(place == 0 ? "[" : ",");
    put_number(logits[place]);
  }
  put_text("]");
#endif
  *to = 0;
}
