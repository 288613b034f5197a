// A bundle's folder: text in, the answer out, whatever engine runs its model.
#pragma once

#include <memory>
#include <string>

#include "answer.hpp"

// Throws std::runtime_error for what is no bundle that these programs answer.
class Bundle {
 public:
  explicit Bundle(const std::string& folder);

  Tokens encode(const std::string& text) const { return model_->encode(text, 0); }

  // {"answer": …, "confidence": …, "text": …, "ms": …}: text in, answer out, with the time that took.
  nlohmann::json ask(const std::string& text);

  // Every golden vector: ids equal, logits within the manifest's bound, answer equal. {"golden": "equal", …}, or {"golden": "differs", …} with the first.
  nlohmann::json check();

 private:
  std::string folder_;
  nlohmann::json manifest_, settings_;
  std::unique_ptr<Model> model_;
};
