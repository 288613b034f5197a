// llama.cpp as the engine: model.gguf of an encoder (classify, embed) or of a decoder that writes its answer (generate).
//
// An encoder's texts are cut by wordpiece.cpp, which gives the ids of the tokenizers library on every text; llama.cpp's own WordPiece cuts Hangul and others
// otherwise. A decoder's are cut by llama.cpp itself, in NFC first where its tokenizer.json says so, which llama.cpp leaves out.

#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>

#include <llama.h>

#include "characters.hpp"
#include "wordpiece.hpp"

using nlohmann::json;

const char* const ENGINE_FORMAT = "gguf";

namespace {

std::string last_words = "it said nothing";

// llama.cpp tells a great deal about every model: kept is the last warning or error, for whoever asks why.
void listen(ggml_log_level level, const char* text, void*) {
  std::string line = text == nullptr ? "" : text;
  while (!line.empty() && (line.back() == '\n' || line.back() == '.')) line.pop_back();
  if (!line.empty() && (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR)) last_words = line;
}

// In which type keys and values are remembered, by the name that a target gives it.
ggml_type memory_type(const std::string& name) {
  for (const ggml_type one : {GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0, GGML_TYPE_Q4_1, GGML_TYPE_Q4_0})
    if (name == ggml_type_name(one)) return one;
  throw std::runtime_error("llama.cpp does not remember in " + name);
}

// A model and a context with room for one text.
class Loaded {
 public:
  Loaded(const json& about, bool encoder) : room(about.at("max_tokens").get<int>()) {
    llama_log_set(listen, nullptr);
    llama_backend_init();
    const auto path = about.at("model").get<std::string>();
    llama_model_params wish = llama_model_default_params();
    wish.n_gpu_layers = 0;
    model.reset(llama_model_load_from_file(path.c_str(), wish));
    if (!model) throw std::runtime_error("llama.cpp cannot load " + path + ": " + last_words);
    if (llama_model_n_ctx_train(model.get()) < room)
      throw std::runtime_error("the model reads " + std::to_string(llama_model_n_ctx_train(model.get())) + " tokens at most, and the bundle says " +
                               std::to_string(room));
    llama_context_params asked = llama_context_default_params();
    asked.n_ctx = asked.n_batch = asked.n_ubatch = static_cast<std::uint32_t>(room);  // an encoder looks at all tokens of a text at once
    asked.n_seq_max = 1;
    asked.n_threads = asked.n_threads_batch = about.at("threads").get<int>();
    asked.embeddings = encoder;
    if (const auto kept = about.value("kv_cache", "f16"); kept != "f16") {
      asked.type_k = asked.type_v = memory_type(kept);
      asked.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;  // llama.cpp reads quantized values by no other way
    }
    context.reset(llama_init_from_model(model.get(), asked));
    if (!context) throw std::runtime_error("llama.cpp could not make room for " + std::to_string(room) + " tokens: " + last_words);
    vocabulary = llama_model_get_vocab(model.get());
  }

  struct Free {
    void operator()(llama_model* one) const { llama_model_free(one); }
    void operator()(llama_context* one) const { llama_free(one); }
    void operator()(llama_sampler* one) const { llama_sampler_free(one); }
  };
  int room;
  std::unique_ptr<llama_model, Free> model;
  std::unique_ptr<llama_context, Free> context;
  const llama_vocab* vocabulary = nullptr;
};

// --- encoders -----------------------------------------------------------------------------------------------------------------------------

class Encoder : public Model {
 public:
  explicit Encoder(const json& about) : loaded_(about, true), tokenizer_(read_json(about.at("tokenizer").get<std::string>()), loaded_.room) {
    const bool ranks = llama_pooling_type(loaded_.context.get()) == LLAMA_POOLING_TYPE_RANK;  // the classifier is part of the graph
    wide_ = static_cast<std::size_t>(ranks ? static_cast<int>(llama_model_n_cls_out(loaded_.model.get())) : llama_model_n_embd(loaded_.model.get()));
    char fact[8] = "";  // of edgedistill's exporter: llama.cpp leaves the vector as long as it is
    llama_model_meta_val_str(loaded_.model.get(), "edgedistill.unit_length", fact, sizeof fact);
    unit_ = std::string(fact) == "true";
  }

  Tokens encode(const std::string& text, std::size_t count) const override {
    const Tokens tokens = tokenizer_.encode(text);
    return count == 0 ? tokens : Tokens{cut_to(tokens.ids, count), cut_to(tokens.offsets, count)};
  }

  Output run(const Tokens& tokens, bool) override {
    std::vector<llama_token> row(tokens.ids.begin(), tokens.ids.end());
    const int failed = llama_encode(loaded_.context.get(), llama_batch_get_one(row.data(), static_cast<std::int32_t>(row.size())));
    const float* found = failed != 0 ? nullptr : llama_get_embeddings_seq(loaded_.context.get(), 0);
    if (found == nullptr) throw std::runtime_error("llama.cpp could not run the model (code " + std::to_string(failed) + ")");
    Output output;
    output.wide = wide_;
    output.numbers.assign(found, found + wide_);
    if (unit_) {
      double squares = 0;
      for (const float value : output.numbers) squares += static_cast<double>(value) * value;
      for (float& value : output.numbers) value = static_cast<float>(value / std::max(std::sqrt(squares), 1e-12));
    }
    return output;
  }

 private:
  Loaded loaded_;
  WordPiece tokenizer_;
  std::size_t wide_ = 0;
  bool unit_ = false;
};

// --- decoders -----------------------------------------------------------------------------------------------------------------------------

class Decoder : public Model {
 public:
  explicit Decoder(const json& about) : loaded_(about, false), grammar_(about.at("settings").value("grammar", "")) {
    const json normalizer = read_json(about.at("tokenizer").get<std::string>()).value("normalizer", json());
    if (!normalizer.is_null()) {
      if (normalizer.at("type") != "NFC") throw std::runtime_error("the tokenizer has a normalizer of type " + normalizer.at("type").get<std::string>());
      composes_ = true;
    }
    const json& prompt = about.at("settings").at("prompt");
    before_ = cut(prompt.at(0).get<std::string>(), true);
    behind_ = cut(prompt.at(1).get<std::string>(), true);
  }

  // The whole prompt. Half of the room is kept for the answer; a longer text is cut off.
  Tokens encode(const std::string& text, std::size_t count) const override {
    const auto around = static_cast<std::ptrdiff_t>(before_.size() + behind_.size());
    std::ptrdiff_t most = loaded_.room - loaded_.room / 2 - around;
    std::vector<llama_token> inner = cut(text, false);  // a text that spells a special token is text: what a user types must not end the prompt
    if (count != 0) {
      most = std::max<std::ptrdiff_t>(1, std::min(most, static_cast<std::ptrdiff_t>(count) - around));
      const std::vector<llama_token> once = inner.empty() ? std::vector<llama_token>{before_.at(0)} : inner;
      inner.clear();
      for (std::ptrdiff_t place = 0; place < most; ++place) inner.push_back(once[static_cast<std::size_t>(place) % once.size()]);
    }
    if (static_cast<std::ptrdiff_t>(inner.size()) > most) inner.resize(static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, most)));
    Tokens tokens;
    for (const std::vector<llama_token>* part : std::initializer_list<const std::vector<llama_token>*>{&before_, &inner, &behind_})
      tokens.ids.insert(tokens.ids.end(), part->begin(), part->end());
    return tokens;
  }

  // The likeliest token again and again, until the stop token or the room's end: edgedistill/writer.py says how and why.
  Output run(const Tokens& tokens, bool constrained) override {
    llama_memory_clear(llama_get_memory(loaded_.context.get()), true);
    std::unique_ptr<llama_sampler, Loaded::Free> rules;
    if (constrained && !grammar_.empty()) {
      rules.reset(llama_sampler_init_grammar(loaded_.vocabulary, grammar_.c_str(), "root"));
      if (!rules) throw std::runtime_error("llama.cpp cannot parse the grammar: " + last_words);
    }
    Output output;
    const auto start = std::chrono::steady_clock::now();
    std::vector<llama_token> given(tokens.ids.begin(), tokens.ids.end());
    const auto most = static_cast<std::size_t>(loaded_.room) - given.size();
    while (output.ids.size() < most) {
      const auto [token, logarithm] = next(read(given), rules.get());
      output.ids.push_back(token);
      output.numbers.push_back(logarithm);
      if (output.ids.size() == 1)
        output.first_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
      if (llama_vocab_is_eog(loaded_.vocabulary, token)) break;
      if (rules) llama_sampler_accept(rules.get(), token);
      output.written += piece(token);
      given = {token};
    }
    return output;
  }

  // Read token by token, as it would have been written: one pass over all of it rounds otherwise.
  Forced forced(const std::vector<std::int64_t>& prompt, const std::vector<std::int64_t>& answer) override {
    llama_memory_clear(llama_get_memory(loaded_.context.get()), true);
    std::vector<llama_token> given(prompt.begin(), prompt.end());
    Forced out;
    for (const std::int64_t token : answer) {
      const float* logits = read(given);
      const llama_token likeliest = first(logits);
      out.likeliest.push_back(likeliest);
      out.scores.push_back(score(logits, likeliest, static_cast<llama_token>(token)));
      given = {static_cast<llama_token>(token)};
    }
    return out;
  }

 private:
  std::vector<llama_token> cut(const std::string& text, bool special) const {
    const std::string whole = composes_ ? encoded(composed(decoded(text))) : text;
    std::vector<llama_token> ids(whole.size() + 8);
    const std::int32_t count = llama_tokenize(loaded_.vocabulary, whole.data(), static_cast<std::int32_t>(whole.size()), ids.data(),
                                              static_cast<std::int32_t>(ids.size()), false, special);
    if (count < 0) throw std::runtime_error("llama.cpp could not tokenize the text");
    ids.resize(static_cast<std::size_t>(count));
    return ids;
  }

  // Reads further tokens: the logits behind the last of them.
  const float* read(std::vector<llama_token>& tokens) const {
    llama_context* context = loaded_.context.get();
    const int failed = llama_decode(context, llama_batch_get_one(tokens.data(), static_cast<std::int32_t>(tokens.size())));
    const float* logits = failed != 0 ? nullptr : llama_get_logits_ith(context, -1);
    if (logits == nullptr) throw std::runtime_error("llama.cpp could not run the model (code " + std::to_string(failed) + ")");
    return logits;
  }

  llama_token first(const float* logits) const {
    return static_cast<llama_token>(std::max_element(logits, logits + llama_vocab_n_tokens(loaded_.vocabulary)) - logits);
  }

  // The likeliest token that the grammar takes and its log-probability without the grammar. The grammar is asked of the likeliest of all first: most of
  // the time that one is allowed, and nothing else has to be looked at.
  std::pair<llama_token, float> next(const float* logits, llama_sampler* rules) const {
    const llama_token count = llama_vocab_n_tokens(loaded_.vocabulary), likeliest = first(logits);
    llama_token token = likeliest;
    if (rules != nullptr && !allowed(rules, {{likeliest, logits[likeliest], 0}})) {
      std::vector<llama_token_data> all;
      all.reserve(static_cast<std::size_t>(count));
      for (llama_token one = 0; one < count; ++one) all.push_back({one, logits[one], 0});
      if (const auto best = allowed(rules, std::move(all))) token = *best;
    }
    return {token, score(logits, likeliest, token)};
  }

  // Log-probability of a token.
  float score(const float* logits, llama_token likeliest, llama_token token) const {
    double sum = 0;
    for (llama_token one = 0; one < llama_vocab_n_tokens(loaded_.vocabulary); ++one) sum += std::exp(static_cast<double>(logits[one]) - logits[likeliest]);
    return static_cast<float>(static_cast<double>(logits[token]) - logits[likeliest] - std::log(sum));
  }

  // The likeliest of some tokens that the grammar takes next, if it takes any.
  static std::optional<llama_token> allowed(llama_sampler* rules, std::vector<llama_token_data> some) {
    llama_token_data_array held{some.data(), some.size(), -1, false};
    llama_sampler_apply(rules, &held);
    std::optional<llama_token> best;
    float highest = -std::numeric_limits<float>::infinity();
    for (std::size_t place = 0; place < held.size; ++place)
      if (held.data[place].logit > highest) best = held.data[place].id, highest = held.data[place].logit;
    return best;
  }

  std::string piece(llama_token token) const {
    std::string out(64, '\0');
    std::int32_t size = llama_token_to_piece(loaded_.vocabulary, token, out.data(), static_cast<std::int32_t>(out.size()), 0, true);
    if (size < 0) {  // it tells how much room it wants
      out.resize(static_cast<std::size_t>(-size));
      size = llama_token_to_piece(loaded_.vocabulary, token, out.data(), static_cast<std::int32_t>(out.size()), 0, true);
    }
    out.resize(static_cast<std::size_t>(std::max(0, size)));
    return out;
  }

  Loaded loaded_;
  std::string grammar_;
  std::vector<llama_token> before_, behind_;
  bool composes_ = false;
};

}  // namespace

std::unique_ptr<Model> open_model(const json& about) {
  if (about.at("task") == "generate") return std::make_unique<Decoder>(about);
  return std::make_unique<Encoder>(about);
}
