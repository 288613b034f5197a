// A model with its tokenizer, whatever runs it. Each engine (onnx_model.cpp; llama_model.cpp of embedded_linux_gguf) gives `open_model` and `ENGINE_FORMAT`.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

// Token ids of a text, and where each stands in it: (start, end) in characters, (0, 0) of those that stand for no text.
struct Tokens {
  std::vector<std::int64_t> ids;
  std::vector<std::pair<std::size_t, std::size_t>> offsets;
};

// What a model gives for one text. numbers: logits [outputs], or [tokens, outputs] in rows of `wide` where it answers token by token. Of an answer that
// is written: the text, its tokens, the log-probability of each in `numbers`, and when the first was there.
struct Output {
  std::vector<float> numbers;
  std::size_t wide = 0;
  std::string written;
  std::vector<std::int64_t> ids;
  std::int64_t first_ns = 0;
};

// A given answer held against what would have been written: at each of its places the token that comes first without the grammar, and the log-probability
// of the given one.
struct Forced {
  std::vector<std::int64_t> likeliest;
  std::vector<float> scores;
};

class Model {
 public:
  virtual ~Model() = default;

  // Token ids of a text, or of a prompt around it; with `count`, repeated and cut to exactly that many. text: valid UTF-8.
  virtual Tokens encode(const std::string& text, std::size_t count) const = 0;

  // Runs the model on one text. constrained: what is written is held to the task's grammar. Throws std::runtime_error when it cannot.
  virtual Output run(const Tokens& tokens, bool constrained) = 0;

  // A given answer to a prompt. Throws std::runtime_error when the model writes none.
  virtual Forced forced(const std::vector<std::int64_t>&, const std::vector<std::int64_t>&) { throw std::runtime_error("this model writes no answers"); }
};

extern const char* const ENGINE_FORMAT;  // of the bundles that this engine runs

// Loads a model. about: "model" and "tokenizer" (paths), "max_tokens", "threads", "task", "settings".
std::unique_ptr<Model> open_model(const nlohmann::json& about);

nlohmann::json read_json(const std::string& path);

// Repeated and cut to exactly `count`, the ends kept.
template <typename Value>
std::vector<Value> cut_to(const std::vector<Value>& values, std::size_t count) {
  const std::vector<Value> middle(values.begin() + 1, values.end() - 1), inner = middle.empty() ? std::vector<Value>{values.back()} : middle;
  std::vector<Value> out{values.front()};
  for (std::size_t place = 0; place + 2 < count; ++place) out.push_back(inner[place % inner.size()]);
  out.push_back(values.back());
  return out;
}
