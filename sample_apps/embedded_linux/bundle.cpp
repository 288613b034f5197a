#include "bundle.hpp"

#include <chrono>
#include <cmath>
#include <fstream>
#include <stdexcept>

using nlohmann::json;

json read_json(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  return json::parse(file);
}

Bundle::Bundle(const std::string& folder) : folder_(folder), manifest_(read_json(folder + "/manifest.json")) {
  const auto name = [&](const char* key) { return manifest_.at(key).get<std::string>(); };
  if (name("format") != ENGINE_FORMAT) throw std::runtime_error("the bundle is " + name("format") + ", this program runs " + ENGINE_FORMAT);
  settings_ = manifest_.at("settings");
  settings_["labels"] = manifest_.at("labels");
  model_ = open_model({{"model", folder + "/" + name("model")},
                       {"tokenizer", folder + "/" + name("tokenizer")},
                       {"max_tokens", manifest_.at("max_tokens")},
                       {"threads", manifest_.at("threads")},
                       {"kv_cache", manifest_.at("target").value("kv_cache", "f16")},
                       {"task", name("task")},
                       {"settings", settings_}});
}

json Bundle::ask(const std::string& text) {
  const auto start = std::chrono::steady_clock::now();
  const Tokens tokens = model_->encode(text, 0);
  json said = answer(manifest_.at("task").get<std::string>(), settings_, model_->run(tokens, true), text, tokens);
  said.erase("target");
  said["text"] = text;
  said["ms"] = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return said;
}

json Bundle::check() {
  std::ifstream vectors(folder_ + "/golden.jsonl");
  const double allowed = manifest_.at("logit_bound").get<double>();
  double worst = 0;
  int count = 0;
  for (std::string line; std::getline(vectors, line); ++count) {
    const json golden = json::parse(line);
    const auto text = golden.at("text").get<std::string>();
    const auto differs = [&](const std::string& what, const json& given, const json& wanted) {
      return json{{"golden", "differs"}, {"vector", count + 1}, {"text", text}, {what, given}, {"wanted", wanted}};
    };
    const Tokens tokens = model_->encode(text, 0);
    if (json(tokens.ids) != golden.at("ids")) return differs("ids", tokens.ids, golden.at("ids"));
    if (golden.at("answer").is_null() && golden.contains("written")) continue;  // a near tie: from there on another answer is written
    const Output output = model_->run(tokens, true);
    const json said = answer(manifest_.at("task").get<std::string>(), settings_, output, text, tokens).at("answer");
    const json wanted = golden.at("logits").flatten();  // path → number, in no order that matters: both sides have it
    const json given = numbers_of(output).flatten();
    if (wanted.size() != given.size()) return differs("answer", said, golden.at("answer"));  // of an answer that is written: more tokens or fewer
    for (const auto& [path, value] : wanted.items()) {
      const double apart = std::abs(given.at(path).get<double>() - value.get<double>());
      if (!(apart <= allowed)) return differs("logits", numbers_of(output), golden.at("logits"));  // written so that a NaN differs too
      worst = std::max(worst, apart);
    }
    if (!golden.at("answer").is_null() && said != golden.at("answer")) return differs("answer", said, golden.at("answer"));
  }
  if (count == 0) throw std::runtime_error("there is no golden vector in " + folder_ + "/golden.jsonl");
  return {{"golden", "equal"}, {"vectors", count}, {"worst_logit", worst}, {"allowed", allowed}};
}
