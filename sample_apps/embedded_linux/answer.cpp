#include "answer.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>

#include "characters.hpp"

using nlohmann::json;

namespace {

json classify(const json& labels, const std::vector<float>& logits) {
  const auto best = static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  double sum = 0;  // the best class's probability is one over it, since exp(0) is 1
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - logits[best]);
  return {{"answer", labels[best]}, {"target", best}, {"confidence", 1 / sum}};
}

json multi_label(const json& settings, const std::vector<float>& logits) {
  std::vector<std::string> given;
  json shares = json::object();
  for (std::size_t place = 0; place < logits.size(); ++place) {
    const float share = 0.5F * (1 + std::tanh(0.5F * logits[place]));  // the sigmoid, in a form that does not overflow
    const auto label = settings.at("labels")[place].get<std::string>();
    shares[label] = share;
    if (share >= settings.at("threshold").get<float>()) given.push_back(label);
  }
  std::sort(given.begin(), given.end());
  return {{"answer", given}, {"target", given}, {"probabilities", shares}};
}

json score(const json& settings, const std::vector<float>& logits) {
  json scores = json::object(), row = json::array();
  for (std::size_t place = 0; place < logits.size(); ++place) {
    row.push_back(logits[place] * settings.at("spread")[place].get<double>() + settings.at("mean")[place].get<double>());
    scores[settings.at("labels")[place].get<std::string>()] = row.back();
  }
  return {{"answer", scores}, {"target", row}};
}

// --- tag ----------------------------------------------------------------------------------------------------------------------------------

// `B-CITY` → ("B", "CITY"); a tag without a prefix → ("", tag).
std::pair<std::string, std::string> split(const std::string& tag) {
  const bool has = tag.size() >= 2 && tag[1] == '-' && std::string("BIESLU").find(tag[0]) != std::string::npos;
  return has ? std::pair{tag.substr(0, 1), tag.substr(2)} : std::pair{std::string(), tag};
}

struct Span {
  std::size_t start, end;
  std::string type;
  std::vector<std::size_t> words;
};

// For each word the token that holds its first character, or the next one; words behind the last token are left out.
std::vector<std::size_t> positions(const std::vector<std::pair<std::size_t, std::size_t>>& words, const Tokens& tokens) {
  std::vector<std::size_t> found;
  std::size_t at = 0;
  for (const auto& word : words) {
    while (at < tokens.offsets.size() && (tokens.offsets[at].second <= tokens.offsets[at].first || tokens.offsets[at].second <= word.first)) ++at;
    if (at == tokens.offsets.size()) break;
    found.push_back(at);
  }
  return found;
}

// Neighbouring words of one type are one span; an `I-` that continues nothing begins one.
std::vector<Span> merged(const std::vector<std::pair<std::size_t, std::size_t>>& words, const std::vector<std::string>& tags) {
  std::vector<Span> spans;
  bool open = false;
  for (std::size_t word = 0; word < tags.size(); ++word) {
    const auto [prefix, type] = split(tags[word]);
    if (type == "O") {
      open = false;
      continue;
    }
    if (open && spans.back().type == type && (prefix == "I" || prefix == "E" || prefix.empty())) {
      spans.back().end = words[word].second;
      spans.back().words.push_back(word);
    } else {
      spans.push_back({words[word].first, words[word].second, type, {word}});
    }
    open = prefix != "E" && prefix != "S";
  }
  return spans;
}

json tag(const json& labels, const Output& output, const std::string& text, const Tokens& tokens) {
  const std::u32string chars = decoded(text);
  const auto words = words_of(chars);
  const std::vector<std::size_t> rows = positions(words, tokens);
  const auto row = [&](std::size_t word) { return output.numbers.data() + rows[word] * output.wide; };
  std::vector<std::string> tags;
  for (std::size_t word = 0; word < rows.size(); ++word)
    tags.push_back(labels[static_cast<std::size_t>(std::max_element(row(word), row(word) + output.wide) - row(word))].get<std::string>());
  json plain = json::array(), spans = json::array();
  for (const Span& span : merged(words, tags)) {
    double shares = 0;  // of all labels of the type together: a doubt between B- and I- is none about the type
    for (const std::size_t word : span.words) {
      const float top = *std::max_element(row(word), row(word) + output.wide);
      double sum = 0, of_type = 0;
      for (std::size_t label = 0; label < output.wide; ++label) {
        const double raised = std::exp(static_cast<double>(row(word)[label]) - top);
        sum += raised;
        if (split(labels[label].get<std::string>()).second == span.type) of_type += raised;
      }
      shares += of_type / sum;
    }
    plain.push_back({span.start, span.end, span.type});
    spans.push_back({{"start", span.start}, {"end", span.end}, {"label", span.type},
                     {"text", encoded(chars.substr(span.start, span.end - span.start))}, {"confidence", shares / static_cast<double>(span.words.size())}});
  }
  return {{"answer", plain}, {"target", plain}, {"spans", spans}};
}

// --- generate -----------------------------------------------------------------------------------------------------------------------------

std::string kind_of_value(const json& value) {
  return value.is_boolean()          ? "boolean"
         : value.is_string()         ? "string"
         : value.is_number_integer() ? "integer"
         : value.is_number()         ? "number"
                                     : "?";
}

// Whether an object has the keys of its kind, and the kinds of values that these have.
bool valid(const json& found, const json& settings) {
  if (!found.is_object()) return false;
  const json& key = settings.at("kind_key");
  const json kind = key.is_null() ? json("answer") : found.value(key.get<std::string>(), json());
  if (!kind.is_string() || !settings.at("kinds").contains(kind.get<std::string>())) return false;
  const json& keys = settings.at("kinds").at(kind.get<std::string>());
  for (const auto& [name, value] : found.items()) {
    if (!keys.contains(name)) return false;
    const json& types = keys.at(name).at("types");
    if (std::find(types.begin(), types.end(), kind_of_value(value)) == types.end()) return false;
  }
  for (const auto& [name, rule] : keys.items())
    if (rule.at("always").get<bool>() && !found.contains(name)) return false;
  return true;
}

json generate(const json& settings, const Output& output) {
  json found = json::parse(output.written, nullptr, false);  // what is no JSON is no exception, it is no answer
  if (found.is_discarded() || !valid(found, settings)) found = nullptr;
  double sum = 0;
  for (const float logarithm : output.numbers) sum += logarithm;
  return {{"answer", found}, {"target", found}, {"written", output.written}, {"confidence", std::exp(sum)}};
}

}  // namespace

json answer(const std::string& task, const json& settings, const Output& output, const std::string& text, const Tokens& tokens) {
  const json& labels = settings.at("labels");
  if (task == "generate") return generate(settings, output);
  if (task == "embed") return {{"answer", output.numbers}, {"target", output.numbers}};
  if (labels.size() != output.wide)
    throw std::runtime_error("the model has " + std::to_string(output.wide) + " outputs, the bundle names " + std::to_string(labels.size()));
  if (task == "classify") return classify(labels, output.numbers);
  if (task == "multi_label") return multi_label(settings, output.numbers);
  if (task == "score") return score(settings, output.numbers);
  if (task == "tag") return tag(labels, output, text, tokens);
  throw std::runtime_error("the task is " + task + ", and this program does not know it");
}

json numbers_of(const Output& output) {
  if (output.wide == 0 || output.numbers.size() == output.wide) return output.numbers;
  json rows = json::array();
  for (auto at = output.numbers.begin(); at != output.numbers.end(); at += static_cast<std::ptrdiff_t>(output.wide))
    rows.push_back(std::vector<float>(at, at + static_cast<std::ptrdiff_t>(output.wide)));
  return rows;
}
