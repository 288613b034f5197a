// ONNX Runtime as the engine: model.onnx, its texts cut by WordPiece.

#include <array>

#include <onnxruntime_cxx_api.h>

#include "wordpiece.hpp"

using nlohmann::json;

const char* const ENGINE_FORMAT = "onnx";

namespace {

class OnnxModel : public Model {
 public:
  explicit OnnxModel(const json& about)
      : environment_(ORT_LOGGING_LEVEL_ERROR, "edge"), tokenizer_(read_json(about.at("tokenizer").get<std::string>()), about.at("max_tokens").get<int>()) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(about.at("threads").get<int>());
    options.SetInterOpNumThreads(1);
    session_ = Ort::Session(environment_, about.at("model").get<std::string>().c_str(), options);
    const Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t place = 0; place < session_.GetInputCount(); ++place) inputs_.emplace_back(session_.GetInputNameAllocated(place, allocator).get());
  }

  Tokens encode(const std::string& text, std::size_t count) const override {
    const Tokens tokens = tokenizer_.encode(text);
    return count == 0 ? tokens : Tokens{cut_to(tokens.ids, count), cut_to(tokens.offsets, count)};
  }

  Output run(const Tokens& tokens, bool) override {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const std::array<std::int64_t, 2> shape{1, static_cast<std::int64_t>(tokens.ids.size())};
    std::vector<std::int64_t> ids = tokens.ids, ones(ids.size(), 1), zeros(ids.size(), 0);
    std::vector<Ort::Value> feeds;
    std::vector<const char*> names;
    for (const std::string& name : inputs_) {
      auto& row = name == "input_ids" ? ids : name == "attention_mask" ? ones : zeros;
      feeds.push_back(Ort::Value::CreateTensor<std::int64_t>(memory, row.data(), row.size(), shape.data(), shape.size()));
      names.push_back(name.c_str());
    }
    const char* wanted = "logits";
    const auto out = session_.Run(Ort::RunOptions{nullptr}, names.data(), feeds.data(), feeds.size(), &wanted, 1);
    const auto facts = out[0].GetTensorTypeAndShapeInfo();
    const auto* values = out[0].GetTensorData<float>();
    Output output;
    output.numbers.assign(values, values + facts.GetElementCount());
    output.wide = static_cast<std::size_t>(facts.GetShape().back());
    return output;
  }

 private:
  Ort::Env environment_;
  WordPiece tokenizer_;
  Ort::Session session_{nullptr};
  std::vector<std::string> inputs_;
};

}  // namespace

std::unique_ptr<Model> open_model(const json& about) { return std::make_unique<OnnxModel>(about); }
