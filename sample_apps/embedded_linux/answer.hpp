// What a task makes of a model's output, as edgedistill/tasks/ does.
#pragma once

#include "model.hpp"

// {"answer": …, "confidence": …, "target": …}. settings: "labels" and what else the task needs. text, tokens: what was asked, for answers that are places
// in it. Throws std::runtime_error for a task that this program does not know.
nlohmann::json answer(const std::string& task, const nlohmann::json& settings, const Output& output, const std::string& text, const Tokens& tokens);

// An output's numbers as a golden vector keeps them: rows of [outputs] where the model answers token by token.
nlohmann::json numbers_of(const Output& output);
