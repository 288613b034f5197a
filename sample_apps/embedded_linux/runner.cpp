// The runner: what `edgedistill bench` talks to. JSON lines in, JSON lines out, as edgedistill/runtimes/__init__.py describes them.

#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>

#include "bundle.hpp"

using nlohmann::json;

namespace {

std::int64_t now() {  // nanoseconds of the monotonic clock, which is one for all processes of a machine
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::int64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

// A system call that no kernel has. Under emulation a plugin counts the instructions between begin and end; elsewhere it costs a microsecond,
// so it is made only where EDGE_MARKS is set.
void mark(bool begin) {
  static const bool wanted = std::getenv("EDGE_MARKS") != nullptr;
  if (wanted) syscall(8100 + (begin ? 0 : 1));
}

// Answers each text alone, as an app would, and times its three parts.
json measure(Model& model, const json& hello, const json& request) {
  const std::string task = hello.at("task").get<std::string>();
  json out = {{"tokenize_ns", json::array()}, {"model_ns", json::array()}, {"decode_ns", json::array()}};
  if (task == "generate") out.update({{"prompt_tokens", json::array()}, {"answer_tokens", json::array()}, {"first_ns", json::array()}});
  const json wants = request.value("wants", json::array());
  for (const json& want : wants) out[want.get<std::string>()] = json::array();
  for (const json& given : request.at("texts")) {
    const auto text = given.get<std::string>();
    const std::int64_t start = now();
    const Tokens tokens = model.encode(text, request.value("tokens", std::size_t{0}));
    const std::int64_t tokenized = now();
    mark(true);
    const Output output = model.run(tokens, request.value("constrained", true));
    mark(false);
    const std::int64_t ran = now();
    const json said = answer(task, hello.at("settings"), output, text, tokens);
    const std::int64_t done = now();
    out["tokenize_ns"].push_back(tokenized - start);
    out["model_ns"].push_back(ran - tokenized);
    out["decode_ns"].push_back(done - ran);
    if (task == "generate") {
      out["prompt_tokens"].push_back(tokens.ids.size());
      out["answer_tokens"].push_back(output.ids.size());
      out["first_ns"].push_back(output.first_ns);
    }
    for (const json& want : wants)
      out[want.get<std::string>()].push_back(want == "answers" ? said : want == "logits" ? numbers_of(output) : json(tokens.ids));
  }
  out["peak_bytes"] = peak_bytes();
  return out;
}

// A fixed piece of arithmetic (a linear congruential generator): what it takes says how fast the processor is just now.
json loops(int times) {
  json out = json::array();
  for (int turn = 0; turn < times; ++turn) {
    const std::int64_t start = now();
    volatile std::uint32_t kept = 1;  // volatile: the compiler must not leave it out
    std::uint32_t value = kept;
    for (int step = 0; step < 500'000; ++step) value = value * 1103515245U + 12345U;
    kept = value;
    out.push_back(now() - start);
  }
  return {{"loop_ns", out}};
}

// Given answers, each held against what the model would have written.
json hold(Model& model, const json& pairs) {
  json out = json::array();
  for (const json& one : pairs) {
    const Forced found = model.forced(one.at("ids").get<std::vector<std::int64_t>>(), one.at("answer").get<std::vector<std::int64_t>>());
    out.push_back({{"likeliest", found.likeliest}, {"scores", found.scores}});
  }
  return {{"forced", out}};
}

void say(const json& line) { std::cout << line.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl; }

}  // namespace

int main() try {
  std::string line;
  if (!std::getline(std::cin, line)) return 0;
  const json hello = json::parse(line);
  const std::int64_t baseline = peak_bytes(), begin = now();
  const std::unique_ptr<Model> model = open_model(hello);
  const std::int64_t loaded = now();
  measure(*model, hello, {{"texts", {hello.at("first_text")}}});
  // Without the caller's clock (it is another machine) from the first line on.
  const double cold = static_cast<double>(now() - hello.value("started_ns", begin)) / 1e6;
  say({{"load_ms", static_cast<double>(loaded - begin) / 1e6}, {"cold_start_ms", cold}, {"baseline_bytes", baseline}, {"peak_bytes", peak_bytes()}});
  while (std::getline(std::cin, line)) {
    const json request = json::parse(line);
    say(request.contains("loop")     ? loops(request.at("loop").get<int>())
        : request.contains("forced") ? hold(*model, request.at("forced"))
                                     : measure(*model, hello, request));
  }
  return 0;
} catch (const std::exception& problem) {
  say({{"error", problem.what()}});
  return 1;
}
