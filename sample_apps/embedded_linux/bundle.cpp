#include "bundle.hpp"

#include <algorithm>
#include <array>
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

Bundle::Bundle(const std::string& folder) : folder_(folder), manifest_(read_json(folder + "/manifest.json")) {
  const auto name = [&](const char* key) { return manifest_.at(key).get<std::string>(); };
  if (name("format") != "onnx") throw std::runtime_error("the bundle is " + name("format") + ", this program runs onnx");
  settings_ = manifest_.at("settings");
  settings_["labels"] = manifest_.at("labels");
  model_ = std::make_unique<Model>(folder + "/" + name("model"), folder + "/" + name("tokenizer"), manifest_.at("max_tokens").get<int>(),
                                   manifest_.at("threads").get<int>());
}

json Bundle::ask(const std::string& text) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::int64_t> ids = model_->encode(text);
  json said = answer(manifest_.at("task").get<std::string>(), settings_, model_->logits(ids));
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
    std::vector<std::int64_t> ids = model_->encode(golden.at("text").get<std::string>());
    const auto differs = [&](const std::string& what, const json& given, const json& wanted) {
      return json{{"golden", "differs"}, {"vector", count + 1}, {"text", golden.at("text")}, {what, given}, {"wanted", wanted}};
    };
    if (json(ids) != golden.at("ids")) return differs("ids", ids, golden.at("ids"));
    const std::vector<float> logits = model_->logits(ids);
    for (std::size_t place = 0; place < logits.size(); ++place) {
      const double apart = std::abs(logits[place] - golden.at("logits").at(place).get<double>());
      if (!(apart <= allowed)) return differs("logits", logits, golden.at("logits"));  // written so that a NaN differs too
      worst = std::max(worst, apart);
    }
    if (golden.at("answer").is_null()) continue;
    const json said = answer(manifest_.at("task").get<std::string>(), settings_, logits).at("answer");
    if (said != golden.at("answer")) return differs("answer", said, golden.at("answer"));
  }
  if (count == 0) throw std::runtime_error("there is no golden vector in " + folder_ + "/golden.jsonl");
  return {{"golden", "equal"}, {"vectors", count}, {"worst_logit", worst}, {"allowed", allowed}};
}
