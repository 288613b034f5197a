// WordPiece, as BERT cuts text (arXiv:1609.08144), without a heap: the ids that the tokenizers library gives.
#pragma once
#include <stdint.h>

// A text goes in piece by piece, UTF-8, cut anywhere: encode_begin, encode_bytes as often as there is something, encode_end. ids: room for MAX_TOKENS.
void encode_begin(int32_t *ids);
void encode_bytes(const char *bytes, int count);

// The number of ids, its special tokens included.
int encode_end(void);
