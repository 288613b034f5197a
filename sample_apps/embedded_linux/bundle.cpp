#include "bundle.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <stdexcept>

using nlohmann::json;

json read_json(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  return json::parse(file);
}

json answer(const std::string& task, const json& settings, const std::vector<float>& logits) {
  const json& labels = settings.at("labels");
  if (task == "embed") return {{"answer", logits}, {"target", logits}};
  if (labels.size() != logits.size() && task != "tag")
    throw std::runtime_error("the model has " + std::to_string(logits.size()) + " outputs, the bundle names " + std::to_string(labels.size()));
  if (task == "classify") {
    const auto best = static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    double sum = 0;  // the best class's probability is one over it, since exp(0) is 1
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - logits[best]);
    return {{"answer", labels[best]}, {"target", best}, {"confidence", 1 / sum}};
  }
  if (task == "multi_label") {
    std::vector<std::string> given;
    json shares = json::object();
    for (std::size_t place = 0; place < logits.size(); ++place) {
      const float share = 0.5F * (1 + std::tanh(0.5F * logits[place]));  // the sigmoid, in a form that does not overflow
      shares[labels[place].get<std::string>()] = share;
      if (share >= settings.at("threshold").get<float>()) given.push_back(labels[place].get<std::string>());
    }
    std::sort(given.begin(), given.end());
    return {{"answer", given}, {"target", given}, {"probabilities", shares}};
  }
  if (task == "score") {
    json scores = json::object(), row = json::array();
    for (std::size_t place = 0; place < logits.size(); ++place) {
      row.push_back(logits[place] * settings.at("spread")[place].get<double>() + settings.at("mean")[place].get<double>());
      scores[labels[place].get<std::string>()] = row.back();
    }
    return {{"answer", scores}, {"target", row}};
  }
  throw std::runtime_error("the task is " + task + ", and this program answers classify, multi_label, score and embed");
}

Model::Model(const std::string& model, const std::string& tokenizer, int max_tokens, int threads)
    : environment_(ORT_LOGGING_LEVEL_ERROR, "edge"), tokenizer_(std::make_unique<WordPiece>(read_json(tokenizer), max_tokens)) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  options.SetInterOpNumThreads(1);
  session_ = Ort::Session(environment_, model.c_str(), options);
  const Ort::AllocatorWithDefaultOptions allocator;
  for (std::size_t place = 0; place < session_.GetInputCount(); ++place) inputs_.emplace_back(session_.GetInputNameAllocated(place, allocator).get());
}

std::vector<float> Model::logits(std::vector<std::int64_t>& ids) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const std::array<std::int64_t, 2> shape{1, static_cast<std::int64_t>(ids.size())};
  std::vector<std::int64_t> ones(ids.size(), 1), zeros(ids.size(), 0);
  std::vector<Ort::Value> feeds;
  std::vector<const char*> names;
  for (const std::string& name : inputs_) {
    auto& row = name == "input_ids" ? ids : name == "attention_mask" ? ones : zeros;
    feeds.push_back(Ort::Value::CreateTensor<std::int64_t>(memory, row.data(), row.size(), shape.data(), shape.size()));
    names.push_back(name.c_str());
  }
  const char* wanted = "logits";
  const auto out = session_.Run(Ort::RunOptions{nullptr}, names.data(), feeds.data(), feeds.size(), &wanted, 1);
  const auto* values = out[0].GetTensorData<float>();
  return {values, values + out[0].GetTensorTypeAndShapeInfo().GetElementCount()};
}
