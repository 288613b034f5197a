// A bag of sub-words: ids in, logits out; and what a task makes of logits.
#pragma once
#include <stdint.h>

// One table, a row a token: value = (step - zero) * scale. bits: of a step, 4 (the first in the low half of a byte) or 8; 32 is a table of floats, and
// nothing else is looked at. block: columns that share a scale and a zero; per_row: each row has its own (0: the whole table has one).
struct table {
  int bits, rows, block, per_row;
  const void *steps;
  const float *scales;
  const uint8_t *zeros;
};

// logits: OUTPUTS numbers.
void logits_of(const int32_t *ids, int count, float *logits);

// The answer as JSON, ended by 0, cut off at `room`. confidence: of the class, else -1.
void answer(const float *logits, char *out, int room, float *confidence);

// A number as JSON, nine digits. How many bytes, at most 20; no 0 at the end.
int number(float value, char *out);
