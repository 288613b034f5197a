#include "include/edge.h"

#include <cstdlib>
#include <cstring>

#include "bundle.hpp"

struct edge_bundle {
  Bundle bundle;
};

namespace {

char* copied(const std::string& text) {
  char* out = static_cast<char*>(std::malloc(text.size() + 1));
  if (out != nullptr) std::memcpy(out, text.c_str(), text.size() + 1);
  return out;
}

// What `act` gives, or null and the problem as a sentence: an exception must not reach a language that knows none.
template <typename Act>
auto guarded(char** problem, Act act) -> decltype(act()) {
  try {
    return act();
  } catch (const std::exception& error) {
    if (problem != nullptr) *problem = copied(error.what());
    return nullptr;
  }
}

char* json_text(const nlohmann::json& said) { return copied(said.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)); }

}  // namespace

edge_bundle* edge_open(const char* folder, char** problem) {
  return guarded(problem, [&] { return new edge_bundle{Bundle(folder)}; });
}

char* edge_ask(edge_bundle* bundle, const char* text, char** problem) {
  return guarded(problem, [&] { return json_text(bundle->bundle.ask(text)); });
}

char* edge_check(edge_bundle* bundle, char** problem) {
  return guarded(problem, [&] { return json_text(bundle->bundle.check()); });
}

void edge_free(char* text) { std::free(text); }

void edge_close(edge_bundle* bundle) { delete bundle; }
