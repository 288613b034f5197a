// A bundle for languages that speak C. No function throws. Not for several threads at once.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

typedef struct edge_bundle edge_bundle;

// Opens a bundle's folder. Null when it cannot be used; *problem is then a sentence.
edge_bundle *edge_open(const char *folder, char **problem);

// The answer to a text (UTF-8) as JSON: {"answer": …, "confidence": …, "ms": …}. Null when there is none; *problem is then a sentence.
char *edge_ask(edge_bundle *bundle, const char *text, char **problem);

// The golden vectors as JSON: {"golden": "equal", "vectors": …} or {"golden": "differs", "vector": …, "text": …}. Null as above.
char *edge_check(edge_bundle *bundle, char **problem);

// What these functions give, sentences included, is freed by these two.
void edge_free(char *text);
void edge_close(edge_bundle *bundle);

#ifdef __cplusplus
}
#endif
