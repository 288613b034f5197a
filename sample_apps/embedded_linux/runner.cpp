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

using Ids = std::vector<std::int64_t>;

Ids cut_to(const Ids& values, std::size_t count) {  // repeated and cut to exactly `count`, the ends kept
  const Ids middle(values.begin() + 1, values.end() - 1), inner = middle.empty() ? Ids{values.back()} : middle;
  Ids out{values.front()};
  for (std::size_t place = 0; place + 2 < count; ++place) out.push_back(inner[place % inner.size()]);
  out.push_back(values.back());
  return out;
}

// Answers each text alone, as an app would, and times its three parts.
json measure(Model& model, const json& hello, const json& request) {
  json out = {{"tokenize_ns", json::array()}, {"model_ns", json::array()}, {"decode_ns", json::array()}};
  const json wants = request.value("wants", json::array());
  for (const json& want : wants) out[want.get<std::string>()] = json::array();
  const std::string task = hello.at("task").get<std::string>();
  for (const json& given : request.at("texts")) {
    const auto text = given.get<std::string>();
    const std::int64_t start = now();
    std::vector<std::int64_t> ids = model.encode(text);
    if (request.contains("tokens")) ids = cut_to(ids, request.at("tokens").get<std::size_t>());
    const std::int64_t tokenized = now();
    mark(true);
    const std::vector<float> logits = model.logits(ids);
    mark(false);
    const std::int64_t ran = now();
    const json said = answer(task, hello.at("settings"), logits);
    const std::int64_t done = now();
    out["tokenize_ns"].push_back(tokenized - start);
    out["model_ns"].push_back(ran - tokenized);
    out["decode_ns"].push_back(done - ran);
    for (const json& want : wants) out[want.get<std::string>()].push_back(want == "answers" ? said : want == "logits" ? json(logits) : json(ids));
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

void say(const json& line) { std::cout << line.dump() << std::endl; }

}  // namespace

int main() try {
  std::string line;
  if (!std::getline(std::cin, line)) return 0;
  const json hello = json::parse(line);
  const std::int64_t baseline = peak_bytes(), begin = now();
  Model model(hello.at("model").get<std::string>(), hello.at("tokenizer").get<std::string>(), hello.at("max_tokens").get<int>(),
              hello.at("threads").get<int>());
  const std::int64_t loaded = now();
  measure(model, hello, {{"texts", {hello.at("first_text")}}});
  // Without the caller's clock (it is another machine) from the first line on.
  const double cold = static_cast<double>(now() - hello.value("started_ns", begin)) / 1e6;
  say({{"load_ms", static_cast<double>(loaded - begin) / 1e6}, {"cold_start_ms", cold}, {"baseline_bytes", baseline}, {"peak_bytes", peak_bytes()}});
  while (std::getline(std::cin, line)) {
    const json request = json::parse(line);
    say(request.contains("loop") ? loops(request.at("loop").get<int>()) : measure(model, hello, request));
  }
  return 0;
} catch (const std::exception& problem) {
  say({{"error", problem.what()}});
  return 1;
}
