// A bundle on ONNX Runtime: text in, ids, logits and the answer out.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <onnxruntime_cxx_api.h>

#include "wordpiece.hpp"

// What a task makes of logits: {"answer": …, "confidence": …}, as edgedistill/tasks/ does. settings: "labels" and what else the task needs.
// Throws std::runtime_error for a task that this program does not know.
nlohmann::json answer(const std::string& task, const nlohmann::json& settings, const std::vector<float>& logits);

class Model {
 public:
  // Loads one model and its tokenizer. threads: of ONNX Runtime's pool.
  Model(const std::string& model, const std::string& tokenizer, int max_tokens, int threads);

  std::vector<std::int64_t> encode(const std::string& text) const { return tokenizer_->encode(text); }

  // Logits of one text, [outputs].
  std::vector<float> logits(std::vector<std::int64_t>& ids);

 private:
  Ort::Env environment_;
  std::unique_ptr<WordPiece> tokenizer_;
  Ort::Session session_{nullptr};
  std::vector<std::string> inputs_;
};

nlohmann::json read_json(const std::string& path);

// A bundle's folder. Throws std::runtime_error for what is no bundle that these programs answer.
class Bundle {
 public:
  explicit Bundle(const std::string& folder);

  std::vector<std::int64_t> encode(const std::string& text) const { return model_->encode(text); }

  // {"answer": …, "confidence": …, "text": …, "ms": …}: text in, answer out, with the time that took.
  nlohmann::json ask(const std::string& text);

  // Every golden vector: ids equal, logits within the manifest's bound, answer equal. {"golden": "equal", …}, or {"golden": "differs", …} with the first.
  nlohmann::json check();

 private:
  std::string folder_;
  nlohmann::json manifest_, settings_;
  std::unique_ptr<Model> model_;
};
