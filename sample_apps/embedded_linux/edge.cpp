// The app: answers texts with a bundle, one JSON line each.
//
//   ./edge "Who wrote Hamlet ?"          texts as arguments, or one a line on standard input
//   ./edge --bundle DIR --golden         checks the bundle's golden vectors on this device; exit code 1 when one differs
//   ./edge --ids                         each line of standard input is a JSON string; gives its token ids
//
// The bundle is the folder "bundle" beside the program unless --bundle says otherwise. Exit codes: 0 done, 1 a golden vector differs, 2 wrong input.

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "bundle.hpp"

using nlohmann::json;

namespace {

void say(const json& line) { std::cout << line.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl; }

void ask(Model& model, const json& manifest, const json& settings, const std::string& text) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::int64_t> ids = model.encode(text);
  json line = answer(manifest.at("task").get<std::string>(), settings, model.logits(ids));
  line.erase("target");
  line["text"] = text;
  line["ms"] = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  say(line);
}

int check(Model& model, const json& manifest, const json& settings, const std::string& bundle) {
  std::ifstream vectors(bundle + "/golden.jsonl");
  const double allowed = manifest.at("logit_bound").get<double>();
  double worst = 0;
  int count = 0;
  for (std::string line; std::getline(vectors, line); ++count) {
    const json golden = json::parse(line);
    std::vector<std::int64_t> ids = model.encode(golden.at("text").get<std::string>());
    const auto differs = [&](const std::string& what, const json& given, const json& wanted) {
      say({{"golden", "differs"}, {"vector", count + 1}, {"text", golden.at("text")}, {what, given}, {"wanted", wanted}});
      return 1;
    };
    if (json(ids) != golden.at("ids")) return differs("ids", ids, golden.at("ids"));
    const std::vector<float> logits = model.logits(ids);
    double furthest = 0;
    for (std::size_t place = 0; place < logits.size(); ++place) {
      const double apart = std::abs(logits[place] - golden.at("logits").at(place).get<double>());
      if (!(apart <= allowed)) return differs("logits", logits, golden.at("logits"));  // written so that a NaN differs too
      furthest = std::max(furthest, apart);
    }
    worst = std::max(worst, furthest);
    if (golden.at("answer").is_null()) continue;
    const json said = answer(manifest.at("task").get<std::string>(), settings, logits).at("answer");
    if (said != golden.at("answer")) return differs("answer", said, golden.at("answer"));
  }
  if (count == 0) throw std::runtime_error("there is no golden vector in " + bundle + "/golden.jsonl");
  say({{"golden", "equal"}, {"vectors", count}, {"worst_logit", worst}, {"allowed", allowed}});
  return 0;
}

}  // namespace

int main(int count, char** words) try {
  std::string bundle = (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "bundle").string();
  std::vector<std::string> texts;
  bool golden = false, ids = false;
  for (int place = 1; place < count; ++place) {
    const std::string word = words[place];
    if (word == "--golden") {
      golden = true;
    } else if (word == "--ids") {
      ids = true;
    } else if (word == "--bundle" && place + 1 < count) {
      bundle = words[++place];
    } else if (word.rfind("--", 0) == 0) {
      std::cerr << "usage: edge [--bundle DIR] [--golden | --ids] [TEXT]...\n";
      return 2;
    } else {
      texts.push_back(word);
    }
  }
  const json manifest = read_json(bundle + "/manifest.json");
  if (manifest.at("format") != "onnx") throw std::runtime_error("the bundle is " + manifest.at("format").get<std::string>() + ", this program runs onnx");
  json settings = manifest.at("settings");
  settings["labels"] = manifest.at("labels");
  Model model(bundle + "/" + manifest.at("model").get<std::string>(), bundle + "/" + manifest.at("tokenizer").get<std::string>(),
              manifest.at("max_tokens").get<int>(), manifest.at("threads").get<int>());
  if (golden) return check(model, manifest, settings, bundle);
  if (ids) {
    for (std::string line; std::getline(std::cin, line);) say(model.encode(json::parse(line).get<std::string>()));
    return 0;
  }
  for (const std::string& text : texts) ask(model, manifest, settings, text);
  if (texts.empty())
    for (std::string line; std::getline(std::cin, line);) ask(model, manifest, settings, line);
  return 0;
} catch (const std::exception& problem) {
  std::cerr << "edge: " << problem.what() << "\n";
  return 2;
}
